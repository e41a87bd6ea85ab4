"""What a simulation counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass
class Figures:
    machines: int = 0
    minutes: int = 0
    plans: int = 0
    checks: int = 0
    checks_failed: int = 0
    stagings: int = 0
    staged: int = 0
    applies: int = 0
    refused: int = 0
    "Reboots the fleet did not let a machine make."
    told: int = 0
    "Notices of a reboot to people who were logged in."
    called_off: int = 0
    appointments: int = 0
    "Reboots somebody asked for at a time of their own."
    appointments_kept: int = 0
    reboots: int = 0
    rolled_back: int = 0
    openings: int = 0
    "Windows that opened on machines that apply updates by themselves."
    openings_used: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    "Openings, by what kept the machine from using them, for the longest time if several things did."
    clock_jumps: int = 0
    clock_changes: int = 0
    "Of the time zone, such as the beginning of DST."
    suspends: int = 0
    restarts: int = 0
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        rows: list[tuple[str, int]] = []
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Counter):
                rows += [(f"  {reason}", count) for reason, count in value.most_common()]
            else:
                count = len(value) if isinstance(value, list) else value
                rows.append((item.name.replace("_", " "), count))
        return "\n".join(f"{name:<30}{count:>12,}" for name, count in rows)
