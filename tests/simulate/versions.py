"""Versions of an image as a registry hands them out, and what a host shows of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from bootcd.model.host import BootEntry, ImageReferenceStatus, ImageStatus, OstreeStatus
from bootcd.model.job import ImageUpdate

TRACKED = ImageReferenceStatus(image="registry.example/os:prod", transport="registry")


@dataclass(frozen=True)
class Version:
    number: int
    created: datetime | None
    rollout_secs: float = 0
    "The period it announces."
    bad: bool = False
    "It does not boot well."
    unfinished: bool = False
    "At a shutdown it is not made the next boot."

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(str(self.number).encode()).hexdigest()}"

    @property
    def name(self) -> str:
        """What its deployment is called (`BootEntry.id`)."""
        return self.entry().id

    @property
    def update(self) -> ImageUpdate:
        return ImageUpdate(
            image=TRACKED.image,
            digest=self.digest,
            version=f"1.{self.number}",
            created=self.created,
            rollout_secs=self.rollout_secs,
        )

    def entry(self, *, locked: bool = False) -> BootEntry:
        created = self.created.isoformat() if self.created else None
        image = ImageStatus(
            image=TRACKED,
            version=f"1.{self.number}",
            timestamp=created,
            image_digest=self.digest,
            architecture="amd64",
        )
        checksum = self.digest.removeprefix("sha256:")
        ostree = OstreeStatus(stateroot="default", checksum=checksum, deploy_serial=0)
        return BootEntry(image=image, ostree=ostree, download_only=locked)
