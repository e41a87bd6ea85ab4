"""What is kept of boots that were good and bad: `<state>/health.json`, and what all may see of it.

Written by `bootcd-health` alone, read by the daemon. A host that goes back to an older version goes back to
an older reader too, so fields that are not known are ignored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bootcd.model.job import JobUuid

KEPT = 16
"Versions remembered of each kind, the newest; hosts have a handful."
RECORD_LIMIT = 4 << 20
"Bytes of the whole."
JOURNAL_LIMIT = 16 << 10
"Bytes kept of the journal of a bad boot."

Lines = Annotated[tuple[str, ...], Field(max_length=64)]


class _Document(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")


class FailureState(StrEnum):
    """What was done about a bad boot."""

    BAD = "bad"
    "Nothing, or another program does it."
    ROLLING_BACK = "rolling-back"
    "The boot order is about to be changed; a power cut may come first."
    ROLLED_BACK = "rolled-back"


class FailedBoot(_Document):
    """A version whose first boot was bad."""

    uuid: JobUuid
    "Of its entry in the job history."
    digest: str
    image: str = ""
    version: str = ""
    time: AwareDatetime
    reasons: Lines = ()
    journal: str = ""
    "The end of that boot's warnings and errors; for the administrator alone."
    state: FailureState = FailureState.BAD


class BootHealth(_Document):
    """The verdict on a boot."""

    boot_id: str = ""
    digest: str = ""
    image: str = ""
    version: str = ""
    time: AwareDatetime
    good: bool
    problems: Lines = ()
    warnings: Lines = ()
    action: str = ""
    "A `bootcd.policy.health.Action`."
    reason: str = ""
    "Why nothing was done about a bad boot."


class HealthRecord(_Document):
    last: BootHealth | None = None
    good: tuple[str, ...] = ()
    "Digests of versions that were good in some boot; the newest last, as below."
    failures: tuple[FailedBoot, ...] = ()
    cleared: tuple[str, ...] = ()
    "Digests that failed and may be taken again all the same."

    def failure_of(self, digest: str) -> FailedBoot | None:
        return next((failure for failure in self.failures if failure.digest == digest), None)

    def with_good(self, digest: str) -> Self:
        """Return the record after a good boot, which outweighs a bad one before it."""
        failures = tuple(failure for failure in self.failures if failure.digest != digest)
        return self.model_copy(update={"good": _last(self.good, digest), "failures": failures})

    def with_failure(self, failure: FailedBoot) -> Self:
        others = tuple(other for other in self.failures if other.digest != failure.digest)
        cleared = tuple(digest for digest in self.cleared if digest != failure.digest)
        return self.model_copy(update={"failures": (*others, failure)[-KEPT:], "cleared": cleared})

    def settled(self, booted: str) -> Self:
        """Return the record after another version than those that were being left has booted."""
        failures = tuple(
            failure.model_copy(update={"state": FailureState.ROLLED_BACK})
            if failure.state is FailureState.ROLLING_BACK and failure.digest != booted
            else failure
            for failure in self.failures
        )
        return self.model_copy(update={"failures": failures})

    def without_failures(self, digest: str = "") -> Self:
        """Return the record with one version forgiven, or all of them."""
        gone = [failure.digest for failure in self.failures if digest in ("", failure.digest)]
        cleared = self.cleared
        for one in gone:
            cleared = _last(cleared, one)
        left = tuple(failure for failure in self.failures if failure.digest not in gone)
        return self.model_copy(update={"failures": left, "cleared": cleared})

    def to_public(self) -> bytes:
        """Return what everybody may see: not the journal, which may hold secrets."""
        return self.model_dump_json(exclude={"failures": {"__all__": {"journal"}}}).encode()


def _last(digests: tuple[str, ...], digest: str) -> tuple[str, ...]:
    return (*(other for other in digests if other != digest), digest)[-KEPT:]
