"""What other services of the host say of its surroundings, and what of that counts. No I/O.

None stands for what nobody says, because the service is not there or does not answer: that holds up
nothing. Who counts as present is decided as Zincati does: whoever has a terminal or a desktop, idle or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Source(StrEnum):
    """What can be asked for by itself, so that nobody is asked in vain."""

    NETWORK = "network"
    POWER = "power"
    PROFILE = "profile"
    SESSIONS = "sessions"
    SHUTDOWN = "shutdown"
    BOOT = "boot"


@dataclass(frozen=True, slots=True)
class ShutdownBlock:
    """An inhibitor of logind that blocks a shutdown."""

    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    unread: frozenset[Source] = frozenset()
    "Those that have not answered for the first time; that nobody is there is an answer."
    metered: bool | None = None
    on_battery: bool | None = None
    battery_percent: int | None = None
    power_saver: bool | None = None
    people: tuple[str, ...] | None = None
    "Names of the users who are logged in at a terminal or a desktop, each once."
    boot_undecided: bool | None = None
    "It is not settled yet whether this boot is a good one."
    shutdown_blocks: tuple[ShutdownBlock, ...] | None = None


class OnSessions(StrEnum):
    """What people who are logged in mean to an unasked reboot."""

    WARN = "warn"
    WAIT = "wait"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Conditions:
    """Which of the surroundings count."""

    metered: bool = True
    least_battery_percent: int = 20
    "Below which a host on battery does nothing that must not be cut short; 0 for no matter how little."
    power_saver: bool = False
    sessions: OnSessions = OnSessions.WARN
    courtesy: timedelta = timedelta(minutes=10)

    def sources(self, *, stages: bool, applies: bool) -> frozenset[Source]:
        """Return what has to be known for work of these kinds."""
        wanted = {
            Source.NETWORK: stages and self.metered,
            Source.POWER: stages and self.least_battery_percent > 0,
            Source.PROFILE: stages and self.power_saver,
            Source.SESSIONS: applies and self.sessions is not OnSessions.IGNORE,
            Source.SHUTDOWN: applies,
            Source.BOOT: stages or applies,
        }
        return frozenset(source for source, is_wanted in wanted.items() if is_wanted)
