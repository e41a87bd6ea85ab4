"""Inhibitors: who asks that something is not done for now, and what that holds up. No I/O.

A block is refused to nobody but whoever overrides it: what it names is done neither unasked nor when
asked for. A delay holds up only what is done unasked, and as a user at the machine needs no privilege
for it, all delays of a user together for no longer than an hour a day. A job at work goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

from bootcd.model.errors import Inhibited, InvalidArguments, LimitsExceeded
from bootcd.model.job import JobKind, JobOptions

PER_USER = 10
IN_ALL = 100
DELAY = timedelta(hours=1)
DELAY_AGAIN = timedelta(days=1)
"After the beginning of a user's delays, these count anew."
_TEXT_LIMIT = 256


class What(StrEnum):
    CHECK = "check"
    DOWNLOAD = "download"
    STAGE = "stage"
    REBOOT = "reboot"


class How(StrEnum):
    BLOCK = "block"
    DELAY = "delay"


CHECKING = frozenset({What.CHECK})
STAGING = frozenset({What.DOWNLOAD, What.STAGE})
APPLYING = frozenset({What.REBOOT})


class _Value(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class Wish(_Value):
    """What somebody wants not to be done."""

    what: tuple[What, ...]
    "In the order of `What`, each once."
    who: str
    why: str
    how: How
    uid: int
    not_after: AwareDatetime | None = None

    @property
    def names(self) -> str:
        return ":".join(self.what)


class Inhibitor(Wish):
    """A wish that is in force; `not_after` is when it ends even if it is held on to."""

    number: int

    @property
    def sentence(self) -> str:
        return f"{self.who} inhibits {self.names}: {self.why}"


class Inhibitors(_Value):
    """All that are in force, oldest first, and since when each user's delays count."""

    held: tuple[Inhibitor, ...] = ()
    last: int = 0
    "The number given last; none is given again."
    delaying: dict[int, AwareDatetime] = {}

    def with_one(self, wish: Wish, now: datetime) -> Inhibitors:
        """Add one, the last of `held`. Raises InvalidArguments and LimitsExceeded."""
        if wish.not_after and wish.not_after <= now:
            raise InvalidArguments("not-after is in the past")
        own = sum(known.uid == wish.uid for known in self.held)
        if own >= PER_USER or len(self.held) >= IN_ALL:
            raise LimitsExceeded(
                f"there are {own} inhibitors of this user and {len(self.held)} in all",
                hint=f"a user may have {PER_USER}; see: bootcctl inhibit --list",
            )
        delaying = {uid: since for uid, since in self.delaying.items() if _counts(since, now)}
        end = wish.not_after
        if wish.how is How.DELAY:
            since = delaying.setdefault(wish.uid, now)
            if since + DELAY <= now:
                raise LimitsExceeded(
                    "updates have been delayed for this user long enough today",
                    hint=f"again after {since + DELAY_AGAIN:%Y-%m-%d %H:%M} UTC; an administrator may block",
                )
            end = min(since + DELAY, end or since + DELAY)
        new = Inhibitor(**{**dict(wish), "not_after": end, "number": self.last + 1})
        return Inhibitors(held=(*self.held, new), last=new.number, delaying=delaying)

    def without(self, numbers: Iterable[int]) -> Inhibitors:
        gone = set(numbers)
        return self.model_copy(
            update={"held": tuple(known for known in self.held if known.number not in gone)}
        )

    def expired(self, now: datetime) -> list[int]:
        """Return the numbers of those whose time is over."""
        return [known.number for known in self.held if known.not_after and known.not_after <= now]

    def next_end(self) -> datetime | None:
        return min((known.not_after for known in self.held if known.not_after), default=None)


def _counts(since: datetime, now: datetime) -> bool:
    """Tell whether delays that began at `since` are of the same day; not if the clock went back before it."""
    return since <= now < since + DELAY_AGAIN


def parse_wish(what: str, who: str, why: str, mode: str, uid: int, not_after: datetime | None) -> Wish:
    """Return what a caller asks for. Raises InvalidArguments."""
    names = what.split(":")
    for name in names:
        if name not in list(What):
            raise InvalidArguments(
                f"{name[:64]!r} cannot be inhibited", hint=f"what can be: {':'.join(What)}"
            )
    if mode not in list(How):
        raise InvalidArguments(f"there is no mode {mode[:64]!r}", hint="there are block and delay")
    for name, text in (("who", who), ("why", why)):
        if not text.strip() or len(text) > _TEXT_LIMIT:
            raise InvalidArguments(f"{name} has to be a text of up to {_TEXT_LIMIT} characters")
    given = tuple(item for item in What if item in names)
    return Wish(what=given, who=who, why=why, how=How(mode), uid=uid, not_after=not_after)


def holding(held: Iterable[Inhibitor], doing: frozenset[What], now: datetime) -> Inhibitor | None:
    """Return the first that holds up something done unasked."""
    return next((known for known in held if doing & {*known.what} and not _over(known, now)), None)


def require_uninhibited(held: Iterable[Inhibitor], kind: JobKind, options: JobOptions, now: datetime) -> None:
    """Raise Inhibited where somebody blocks what is asked for."""
    blocks = (known for known in held if known.how is How.BLOCK)
    if inhibitor := holding(blocks, _needed(kind, options), now):
        raise Inhibited(
            inhibitor.sentence,
            hint="see: bootcctl inhibit --list; an administrator may do it with --ignore-inhibitors",
            what=inhibitor.names,
            who=inhibitor.who,
            why=inhibitor.why,
            uid=inhibitor.uid,
        )


def _needed(kind: JobKind, options: JobOptions) -> frozenset[What]:
    match kind:
        case JobKind.CHECK:
            doing = CHECKING
        case JobKind.UPGRADE if options.from_downloaded:
            doing = frozenset({What.STAGE})
        case JobKind.UPGRADE | JobKind.SWITCH:
            doing = STAGING
        case JobKind.ROLLBACK | JobKind.KERNEL_ARGUMENTS:
            doing = frozenset({What.STAGE})
        case JobKind.APPLY:
            return APPLYING
        case _:
            return frozenset()
    return doing | {What.REBOOT} if options.apply else doing


def _over(known: Inhibitor, now: datetime) -> bool:
    return known.not_after is not None and known.not_after <= now
