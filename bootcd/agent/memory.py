"""What the daemon remembers across restarts beside its jobs: `<state>/agent.json`.

None of it is the truth about the host; losing it costs a check that comes sooner or a retry too many.
A file that cannot be understood is therefore ignored, and fields of later versions are too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from bootcd.host.documents import load_document
from bootcd.model.job import ImageUpdate
from bootcd.update.appointment import Appointment
from bootcd.update.attempts import Attempts
from bootcd.update.pause import Pause

_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class JobAtWork:
    """What has to be known at the end of a job, which may be told to another service than its beginning."""

    uuid: str = ""
    digest: str = ""
    "What it is about, as `Attempts.after` takes it."
    boot_id: str = ""
    "Of the boot in which it began; empty if that is not known."


class Memory(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    attempts: Attempts = Attempts()
    last_check_result: str = ""
    "Empty, `up-to-date`, `available` or the name of an error."
    checked_digest: str = ""
    "Of the image that was up to date then."
    image: str = ""
    "The tracked image `available` is an update of."
    available: ImageUpdate | None = None
    seen: AwareDatetime | None = None
    seen_digest: str = ""
    "When the update that was found last was seen first, and which one that is."
    notes: str = ""
    notes_digest: str = ""
    "The release notes that were found last, and the image they are of."
    generation: int = 0
    job: JobAtWork = JobAtWork()
    "The last one."
    pause: Pause | None = None
    appointment: Appointment | None = None
    fingerprint: str = ""
    "Of what was deployed at `generation`."

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()


def load_memory(path: Path) -> Memory:
    """Read what was remembered; nothing if there is no such file or it cannot be understood. Blocks."""
    return load_document(path, _LIMIT, Memory) or Memory()
