"""What is remembered of earlier jobs, so that what failed is tried again later, and not for ever. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import AwareDatetime, NonNegativeInt

from bootcd.model.errors import DowngradeRefused, error_from_info
from bootcd.model.host import BootEntry
from bootcd.model.job import JobKind, JobRecord, JobState
from bootcd.model.text import one_line
from bootcd.update.machine import digest_of

GIVE_UP_AFTER = 3
"Failures of one digest that trying again cannot mend; each may have cost a whole download."

DIGESTS_REMEMBERED = 8
"Mirrors that disagree make a tag flap between a few digests; more than this is no pattern."

_TRIED = (JobState.DONE, JobState.FAILED, JobState.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class StageFailures:
    """What became of trying to stage one digest."""

    digest: str
    last: AwareDatetime
    count: NonNegativeInt = 0
    "Failures in a row."
    lasting: NonNegativeInt = 0
    "Those among them that are not `retryable`."
    error: str = ""
    "Name of the last error."
    reason: str = ""
    "In words."


@dataclass(frozen=True, slots=True)
class AppliedDeployment:
    """What became of rebooting into one deployment; one that is booted counts no more."""

    name: str
    "By `name_of`: of a version that is staged with other kernel arguments there are several."
    last: AwareDatetime
    count: NonNegativeInt = 0
    "Reboots that were asked for in vain."
    refusal: str = ""
    "Why the last one was not asked for: of a hook, of the fleet lock."


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is remembered of earlier jobs, by whomever they were asked for; kept across restarts."""

    last_check: AwareDatetime | None = None
    "End of the last job that asked the registry for the newest version, whatever its result."
    check_failures: NonNegativeInt = 0
    "In a row."
    stage_cancelled: AwareDatetime | None = None
    stage_failures: tuple[StageFailures, ...] = ()
    "Newest last, one per digest, at most `DIGESTS_REMEMBERED`."
    applied: AppliedDeployment | None = None
    "What the host was last asked to reboot into."

    def failures_of(self, digest: str) -> StageFailures | None:
        return next((entry for entry in self.stage_failures if entry.digest == digest), None)

    def after(self, record: JobRecord, *, digest: str) -> Attempts:
        """Return what is remembered once the job of `record` has ended.

        `digest` is of the update that was available when the job started, empty if none
        was known; for `apply` it is the name of what was staged.
        """
        if record.request.from_downloaded:
            return self  # the registry was not asked
        ended = record.finished or record.created
        match record.request.kind:
            case JobKind.CHECK:
                return self._after_check(record.state, ended)
            case JobKind.UPGRADE:
                return self._after_upgrade(record, digest, ended)
            case JobKind.APPLY if digest and record.state in _TRIED:
                known = self.applied if self.applied and self.applied.name == digest else None
                count, refusal = known.count if known else 0, _refusal(record)
                applied = AppliedDeployment(digest, ended, count if refusal else count + 1, refusal)
                return replace(self, applied=applied)
            case JobKind.SWITCH if record.state is JobState.DONE:
                return Attempts(last_check=ended)
            case _:
                return self

    def _after_check(self, state: JobState, ended: datetime) -> Attempts:
        match state:
            case JobState.DONE:
                return replace(self, last_check=ended, check_failures=0)
            case JobState.FAILED | JobState.INTERRUPTED:
                return replace(self, last_check=ended, check_failures=self.check_failures + 1)
            case JobState.CANCELLED:
                # Who cancels does not want it back at once, as after a failure.
                return replace(self, last_check=ended, check_failures=0)
            case JobState.RUNNING | JobState.CANCELLING:
                return self

    def _after_upgrade(self, record: JobRecord, digest: str, ended: datetime) -> Attempts:
        match record.state:
            case JobState.DONE:
                return Attempts(last_check=ended, applied=self.applied)
            case JobState.CANCELLED:
                return replace(self, stage_cancelled=ended)
            # Who names a digest learns whether there still is that one; it is nothing against the version.
            case JobState.FAILED | JobState.INTERRUPTED if digest and not record.request.expect_digest:
                error = record.outcome.error if record.outcome else None
                # What is older than what is here may be taken once that is gone.
                passes = (DowngradeRefused.name,)
                lasting = (
                    error is not None and error.name not in passes and not error_from_info(error).retryable
                )
                entry = self.failures_of(digest) or StageFailures(digest, ended)
                entry = replace(
                    entry,
                    last=ended,
                    count=entry.count + 1,
                    lasting=entry.lasting + lasting,
                    error=error.name if error else "",
                    reason=one_line(error.message) if error else "",
                )
                others = tuple(other for other in self.stage_failures if other.digest != digest)
                return replace(self, stage_failures=(*others, entry)[-DIGESTS_REMEMBERED:])
            case _:
                return self


def name_of(entry: BootEntry) -> str:
    """Return what attempts to apply a deployment are counted by."""
    return entry.id or digest_of(entry)


def _refusal(record: JobRecord) -> str:
    """Return why a job ended before the reboot though trying again may help; empty if it did not so."""
    error = record.outcome.error if record.outcome else None
    if record.state is not JobState.FAILED or error is None or not error_from_info(error).retryable:
        return ""
    return error.message
