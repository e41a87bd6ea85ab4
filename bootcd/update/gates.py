"""Gates: what holds up something that is to be done unasked, each with its reason and its end. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Gate:
    """One that is shut."""

    name: str
    reason: str
    ends: datetime | None = None
    "When it opens by itself, if that is known."
