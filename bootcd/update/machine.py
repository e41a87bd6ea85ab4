"""The state machine of a host's updates: one table that says what may happen when. No I/O.

A state is either *settled*, when it repeats what the host itself looks like, or *working*, while a
job is at work, or `rebooting`. The host is the truth: other tools change it at any time, so an
observation of it is legal in every state. It moves a settled state and is only remembered in a
working one, where the end of the job brings it out.

`docs/states.dot` is drawn from the table by `to_dot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from bootcd.model.errors import NotBootcSystem, WrongState
from bootcd.model.host import BootEntry, Host
from bootcd.model.job import ImageUpdate, JobKind


class State(StrEnum):
    UNKNOWN = "unknown"
    UNMANAGED = "unmanaged"
    IDLE = "idle"
    AVAILABLE = "available"
    STAGED = "staged"
    ROLLBACK_QUEUED = "rollback-queued"
    CHECKING = "checking"
    UPGRADING = "upgrading"
    SWITCHING = "switching"
    ROLLING_BACK = "rolling-back"
    APPLYING = "applying"
    CHANGING = "changing"
    REBOOTING = "rebooting"


WORKING = frozenset(
    {
        State.CHECKING,
        State.UPGRADING,
        State.SWITCHING,
        State.ROLLING_BACK,
        State.APPLYING,
        State.CHANGING,
    }
)


class HostView(StrEnum):
    """What the host looks like when nobody works on it, as far as the machine cares."""

    UNMANAGED = "unmanaged"
    CLEAN = "clean"
    STAGED = "staged"
    ROLLBACK_QUEUED = "rollback-queued"


def view_of(host: Host) -> HostView:
    """Reduce a host to what comes at its next boot; a staged deployment comes before all others."""
    if host.status.booted is None:
        return HostView.UNMANAGED
    if host.status.staged is not None:
        return HostView.STAGED
    if host.status.rollback_queued:
        return HostView.ROLLBACK_QUEUED
    return HostView.CLEAN


# Events


@dataclass(frozen=True, slots=True)
class HostObserved:
    """Somebody looked at the host; `observe` makes these."""

    view: HostView
    image: str = ""
    "The image the host tracks, as its status names it."
    taken: frozenset[str] = frozenset()
    "Manifest digests that need no upgrade any more: booted and staged."


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job was accepted, or found at work when the service came up."""

    kind: JobKind


@dataclass(frozen=True, slots=True)
class UpdateFound:
    update: ImageUpdate


@dataclass(frozen=True, slots=True)
class UpdateAbsent:
    """The registry has nothing newer."""


@dataclass(frozen=True, slots=True)
class RebootRequested:
    """The host was asked to reboot, and agreed."""


@dataclass(frozen=True, slots=True)
class RebootMissed:
    """The host is still up long after it agreed to reboot, and no job is at work."""


@dataclass(frozen=True, slots=True)
class JobEnded:
    """In whatever way. What it did to the host, the next `HostObserved` tells."""


Event = HostObserved | JobStarted | UpdateFound | UpdateAbsent | RebootRequested | RebootMissed | JobEnded


def observe(host: Host) -> HostObserved:
    entries = (host.status.booted, host.status.staged)
    tracked = host.spec.image
    return HostObserved(
        view=view_of(host),
        image=tracked.image if tracked else "",
        taken=frozenset(digest_of(entry) for entry in entries if entry and entry.image),
    )


def digest_of(entry: BootEntry) -> str:
    """Return the manifest digest of a deployment, empty if it came from no image."""
    return entry.image.image_digest if entry.image else ""


# The table


class Trigger(StrEnum):
    """An event without its data: the column of the table."""

    OBSERVED = "host observed"
    CHECK = "check"
    UPGRADE = "upgrade"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    APPLY = "apply"
    KERNEL_ARGUMENTS = "kernel-arguments"
    PIN = "pin"
    UNPIN = "unpin"
    DROP = "drop"
    USR_OVERLAY = "usr-overlay"
    FOUND = "update found"
    ABSENT = "no update"
    REBOOT = "reboot requested"
    MISSED = "reboot missed"
    ENDED = "job ended"


class _Settle(Enum):
    SETTLED = "settled"


SETTLED = _Settle.SETTLED
"Target of a transition: whichever settled state the last observation and the known update call for."

Target = State | _Settle

_NEWS: Mapping[Trigger, Target] = {
    Trigger.OBSERVED: SETTLED,
    Trigger.FOUND: SETTLED,
    Trigger.ABSENT: SETTLED,
}
_VERBS: Mapping[Trigger, Target] = {
    Trigger.CHECK: State.CHECKING,
    Trigger.UPGRADE: State.UPGRADING,
    Trigger.SWITCH: State.SWITCHING,
    Trigger.ROLLBACK: State.ROLLING_BACK,
    Trigger.KERNEL_ARGUMENTS: State.CHANGING,
    Trigger.PIN: State.CHANGING,
    Trigger.UNPIN: State.CHANGING,
    Trigger.DROP: State.CHANGING,
    Trigger.USR_OVERLAY: State.CHANGING,
}
_PENDING: Mapping[Trigger, Target] = {
    # The reboot may have been asked for by a job that ended while the service was down.
    Trigger.APPLY: State.APPLYING,
    Trigger.REBOOT: State.REBOOTING,
}


def _working(state: State, *, learns: bool, reboots: bool) -> Mapping[Trigger, Target]:
    row: dict[Trigger, Target] = {Trigger.OBSERVED: state, Trigger.ENDED: SETTLED}
    if learns:
        row |= {Trigger.FOUND: state, Trigger.ABSENT: state}
    if reboots:
        row |= {Trigger.REBOOT: State.REBOOTING}
    return row


TABLE: Mapping[State, Mapping[Trigger, Target]] = {
    # Nothing is known, so nothing is refused: a job may be found at work, and a new one looks itself.
    State.UNKNOWN: {**_NEWS, **_VERBS, **_PENDING},
    State.UNMANAGED: {Trigger.OBSERVED: SETTLED},
    State.IDLE: {**_NEWS, **_VERBS},
    State.AVAILABLE: {**_NEWS, **_VERBS},
    State.STAGED: {**_NEWS, **_VERBS, **_PENDING},
    State.ROLLBACK_QUEUED: {**_NEWS, **_VERBS, **_PENDING},
    State.CHECKING: _working(State.CHECKING, learns=True, reboots=False),
    State.UPGRADING: _working(State.UPGRADING, learns=True, reboots=True),
    State.SWITCHING: _working(State.SWITCHING, learns=False, reboots=True),
    State.ROLLING_BACK: _working(State.ROLLING_BACK, learns=False, reboots=True),
    State.APPLYING: _working(State.APPLYING, learns=False, reboots=True),
    State.CHANGING: _working(State.CHANGING, learns=False, reboots=True),
    State.REBOOTING: {
        Trigger.OBSERVED: State.REBOOTING,
        Trigger.ENDED: State.REBOOTING,
        Trigger.REBOOT: State.REBOOTING,
        Trigger.MISSED: SETTLED,
    },
}


# The value and its steps


@dataclass(frozen=True, slots=True)
class Situation:
    """The machine at one moment.

    To remember an update across a restart, start from `Situation(image=..., available=...)` with
    both as they were: the first observation drops the update if the host tracks another image now.
    """

    state: State = State.UNKNOWN
    view: HostView | None = None
    "As last observed."
    image: str = ""
    "The tracked image, as last observed."
    taken: frozenset[str] = frozenset()
    available: ImageUpdate | None = None
    "Newer than what is booted and staged, as far as is known."


class IllegalTransition(Exception):
    """A defect of the caller: an event that cannot happen in this state."""


def advance(situation: Situation, event: Event) -> Situation:
    """Return the situation after `event`.

    Raises NotBootcSystem or WrongState for a verb the host's state forbids, and IllegalTransition
    for an event that a correct caller never reports, such as a second job beside the first.
    """
    target = TABLE[situation.state].get(trigger_of(event))
    if target is None:
        raise _refusal(situation.state, event)
    after = _learn(situation, event)
    return replace(after, state=_settled(after) if target is SETTLED else target)


def trigger_of(event: Event) -> Trigger:
    match event:
        case HostObserved():
            return Trigger.OBSERVED
        case JobStarted(kind=kind):
            return Trigger(kind.value)
        case UpdateFound():
            return Trigger.FOUND
        case UpdateAbsent():
            return Trigger.ABSENT
        case RebootRequested():
            return Trigger.REBOOT
        case RebootMissed():
            return Trigger.MISSED
        case JobEnded():
            return Trigger.ENDED


def _learn(situation: Situation, event: Event) -> Situation:
    match event:
        case HostObserved(view=view, image=image, taken=taken):
            # An update of what is no longer tracked is none.
            kept = situation.available if situation.image in ("", image) else None
            situation = replace(situation, view=view, image=image, taken=taken, available=kept)
        case UpdateFound(update=update):
            situation = replace(situation, available=update)
        case UpdateAbsent():
            situation = replace(situation, available=None)
        case JobStarted() | RebootRequested() | RebootMissed() | JobEnded():
            pass
    known = situation.available
    if known and (situation.view is HostView.UNMANAGED or known.digest in situation.taken):
        situation = replace(situation, available=None)
    return situation


def _settled(situation: Situation) -> State:
    match situation.view:
        case None:
            return State.UNKNOWN
        case HostView.UNMANAGED:
            return State.UNMANAGED
        case HostView.STAGED:
            return State.STAGED
        case HostView.ROLLBACK_QUEUED:
            return State.ROLLBACK_QUEUED
        case HostView.CLEAN:
            return State.AVAILABLE if situation.available else State.IDLE


def _refusal(state: State, event: Event) -> Exception:
    if isinstance(event, JobStarted) and state not in WORKING:
        if state is State.UNMANAGED:
            return NotBootcSystem(
                "this host was not booted from an image deployment",
                hint="bootcd manages hosts that were installed from a bootable container image",
            )
        if state is State.REBOOTING:
            return WrongState(
                f"cannot {event.kind} while the host is about to reboot", hint="try again after the reboot"
            )
        if event.kind is JobKind.APPLY:
            return WrongState(
                "there is nothing to apply: no update is staged and no rollback is queued",
                hint="stage an update with 'bootcctl upgrade' or queue a rollback with 'bootcctl rollback'",
            )
    return IllegalTransition(f"{trigger_of(event)} in state {state}")


# The picture


def to_dot() -> str:
    """Draw the table as a Graphviz digraph; `docs/states.dot` is this text.

    Transitions to a settled state meet in one diamond, from which the observed host leads on.
    """
    lines = [
        "// Drawn from the table in bootcd/update/machine.py; tests/meta/test_states_dot.py says how.",
        "digraph states {",
        "  rankdir=LR;",
        "  node [shape=box, style=rounded];",
        '  settled [shape=diamond, style="", label="settled:\\nthe host as observed"];',
    ]
    lines += [f'  "{state}" [style="rounded,filled"];' for state in State if state in WORKING]
    for state, row in TABLE.items():
        by_target: dict[Target, list[Trigger]] = {}
        for trigger in Trigger:
            if trigger in row:
                by_target.setdefault(row[trigger], []).append(trigger)
        for target, triggers in by_target.items():
            label = r"\n".join(triggers)
            lines.append(f'  "{state}" -> "{target.value}" [label="{label}"];')
    some_update = ImageUpdate(image="", digest="")
    for label, situation in {
        "never observed": Situation(),
        "not booted from a deployment": Situation(view=HostView.UNMANAGED),
        "nothing pending, no update known": Situation(view=HostView.CLEAN),
        "nothing pending, update known": Situation(view=HostView.CLEAN, available=some_update),
        "staged deployment": Situation(view=HostView.STAGED),
        "boot order swapped": Situation(view=HostView.ROLLBACK_QUEUED),
    }.items():
        lines.append(f'  settled -> "{_settled(situation)}" [label="{label}", style=dashed];')
    return "\n".join([*lines, "}", ""])
