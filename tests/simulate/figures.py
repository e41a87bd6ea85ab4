"""What a simulation counts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass
class Figures:
    machines: int = 0
    minutes: int = 0
    plans: int = 0
    checks: int = 0
    stagings: int = 0
    staged: int = 0
    applies: int = 0
    told: int = 0
    "Notices of a reboot to people who were logged in."
    reboots: int = 0
    rolled_back: int = 0
    openings: int = 0
    "Windows that opened, or were found open, while an update was ready to be applied."
    openings_used: int = 0
    clock_jumps: int = 0
    clock_changes: int = 0
    "Of the time zone, such as the beginning of DST."
    suspends: int = 0
    restarts: int = 0
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        rows = [(item.name.replace("_", " "), getattr(self, item.name)) for item in fields(self)]
        shown = [(name, len(value) if isinstance(value, list) else value) for name, value in rows]
        return "\n".join(f"{name:<16}{value:>12,}" for name, value in shown)
