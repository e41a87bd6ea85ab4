"""What may be done unasked, and what that depends on: the rules, and the facts of one moment. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from bootcd.model.health import HealthRecord
from bootcd.model.host import Host
from bootcd.policy.rollout import Rollout
from bootcd.policy.window import Window
from bootcd.update.appointment import Appointment
from bootcd.update.attempts import Attempts
from bootcd.update.driver import Driver
from bootcd.update.inhibit import Inhibitor
from bootcd.update.pause import Pause
from bootcd.update.surroundings import Conditions, Source, Surroundings


class Mode(StrEnum):
    """What may be done without being asked."""

    OFF = "off"
    CHECK = "check"
    STAGE = "stage"
    APPLY = "apply"


class Action(StrEnum):
    NOTHING = ""
    CHECK = "check"
    STAGE = "stage"
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of the configuration that plans depend on."""

    mode: Mode
    interval: timedelta
    jitter: timedelta
    windows: tuple[Window, ...] = ()
    "In which an update may be applied; at any time if there are none."
    zone: tzinfo = UTC
    "Of the windows."
    rollout: Rollout = field(default_factory=Rollout)
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def sources(self) -> frozenset[Source]:
        """What of the surroundings has to be known."""
        applies = self.mode is Mode.APPLY
        return self.conditions.sources(stages=applies or self.mode is Mode.STAGE, applies=applies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a plan depends on beside the state and the rules."""

    now: datetime
    started: datetime
    "When the service came up."
    chance: float
    "In [0, 1), the machine's own: where in a span of time it acts."
    job_active: bool
    host: Host
    attempts: Attempts = field(default_factory=Attempts)
    health: HealthRecord = field(default_factory=HealthRecord)
    inhibitors: tuple[Inhibitor, ...] = ()
    "Those that are in force."
    identity: bytes = b""
    "By which the machine's places in rollouts are drawn; its secret."
    first_seen: datetime | None = None
    "When this machine saw the available update first; not in the future."
    surroundings: Surroundings = field(default_factory=Surroundings)
    courtesy_until: datetime | None = None
    "The time people who are logged in were told that the host reboots at; None if they were told nothing."
    called_off_until: datetime | None = None
    "One of them has called a reboot off."
    appointment: Appointment | None = None
    drivers: tuple[Driver, ...] = ()
    pause: Pause | None = None
    "The one that is."
