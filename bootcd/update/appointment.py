"""Appointments: somebody has asked for a reboot into what is staged, at a time to come. No I/O.

It is the caller's own application, only later: nothing else reboots the host before, and the time that was
named counts, within a window or not. It ends with the boot it was made in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from bootcd.model.errors import InvalidArguments
from bootcd.model.job import JobOptions, Requester, SoftReboot

LONGEST = timedelta(days=31)
GOOD_FOR = timedelta(hours=1)
"After its time; a host that slept through it must not reboot under the hands of whoever wakes it."


@dataclass(frozen=True, slots=True)
class Appointment:
    when: AwareDatetime
    requester: Requester
    soft_reboot: SoftReboot = SoftReboot.NONE
    ignore_inhibitors: bool = False
    boot_id: str = ""

    @property
    def sentence(self) -> str:
        return f"user {self.requester.uid} has the host reboot at a time of their own"

    @property
    def options(self) -> JobOptions:
        return JobOptions(soft_reboot=self.soft_reboot, ignore_inhibitors=self.ignore_inhibitors)

    def is_missed(self, now: datetime) -> bool:
        return now > self.when + GOOD_FOR


def make_appointment(
    now: datetime, when: datetime, requester: Requester, options: JobOptions, boot_id: str
) -> Appointment:
    """Return what somebody asks for. Raises InvalidArguments."""
    if when <= now:
        raise InvalidArguments("the time of the reboot is in the past")
    # Whoever asked for this long may have been a moment on the way.
    if when > now + LONGEST + timedelta(minutes=1):
        raise InvalidArguments(f"a reboot is no further away than {LONGEST.days} days")
    return Appointment(
        when=when,
        requester=requester,
        soft_reboot=options.soft_reboot,
        ignore_inhibitors=options.ignore_inhibitors,
        boot_id=boot_id,
    )
