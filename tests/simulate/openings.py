"""When maintenance windows are open, found by looking at the clock each minute, and what becomes of each.

It is slow, and shares no idea with `bootcd.policy.window`, which it is to judge: a window starts at the
minute at which the local clock shows its start for the first time, or, where the clock jumps over the
start, as much later as it jumps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from bootcd.policy.window import LONGEST_WINDOW, Window
from tests.simulate.figures import Figures

MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_BLOCK = 30
"Days that are looked at in one go."

_TOO_SHORT = "it was too short"

Span = tuple[datetime, datetime]


@dataclass
class Openings:
    windows: tuple[Window, ...]
    zone: tzinfo
    _blocks: dict[int, list[Span]] = field(default_factory=dict)

    def contains(self, moment: datetime) -> bool:
        return not self.windows or any(
            opens <= moment < closes for opens, closes in self._block(moment.toordinal() // _BLOCK)
        )

    def between(self, first: datetime, last: datetime) -> list[Span]:
        """Return the parts of a span in which a window is open; each without a gap."""
        if not self.windows:
            return [(first, last)]
        found: list[Span] = []
        for number in range(first.toordinal() // _BLOCK, last.toordinal() // _BLOCK + 1):
            for opens, closes in self._block(number):
                opens, closes = max(opens, first), min(closes, last)
                if opens >= closes:
                    continue
                if found and found[-1][1] >= opens:
                    found[-1] = (found[-1][0], max(found[-1][1], closes))
                else:
                    found.append((opens, closes))
        return found

    def closes(self, moment: datetime) -> datetime | None:
        """Return when the opening that is under way at a moment ends; None if there is none, or no window."""
        spans = self._block(moment.toordinal() // _BLOCK) if self.windows else []
        return next((closes for opens, closes in spans if opens <= moment < closes), None)

    def _block(self, number: int) -> list[Span]:
        if number not in self._blocks:
            begins = datetime.fromordinal(number * _BLOCK).replace(tzinfo=UTC)
            spans: list[Span] = []
            for opens, closes in sorted(self._starts(begins - LONGEST_WINDOW - _DAY, begins + _BLOCK * _DAY)):
                if spans and opens <= spans[-1][1]:
                    spans[-1] = (spans[-1][0], max(spans[-1][1], closes))
                else:
                    spans.append((opens, closes))
            self._blocks[number] = spans
        return self._blocks[number]

    def _starts(self, first: datetime, last: datetime) -> Iterator[Span]:
        by_time: dict[tuple[int, int], list[Window]] = {}
        for window in self.windows:
            by_time.setdefault((window.start.hour, window.start.minute), []).append(window)
        before = (first - MINUTE).astimezone(self.zone).replace(tzinfo=None)
        moment = first
        while moment < last:
            shown = moment.astimezone(self.zone)
            local = shown.replace(tzinfo=None)
            label = before + MINUTE if before + MINUTE < local else local
            while label <= local and not shown.fold:
                for window in by_time.get((label.hour, label.minute), ()):
                    if label.weekday() in window.days:
                        opens = moment + (label - (before + MINUTE)) if label < local else moment
                        yield opens, opens + window.length
                label += MINUTE
            before = local.replace(fold=0)
            moment += MINUTE


@dataclass
class Account:
    """What becomes of each opening on a machine that applies updates by itself.

    One that is used counts as such; of another the reason is told for which that was so for the longest time.
    """

    openings: Openings
    figures: Figures
    _under_way: bool = False
    _used: bool = False
    _reasons: Counter[str] = field(default_factory=Counter)
    "Seconds of the opening that is under way, by what kept the machine from using it."

    def passes(self, first: datetime, last: datetime, reason: str) -> None:
        """Look at a span of time in which nothing is done, for a reason; none if all is allowed."""
        if not self.openings.windows:
            return
        for opens, closes in (spans := self.openings.between(first, last)):
            if opens > first:
                self._ends()
            self._under_way = True
            self._reasons[reason or _TOO_SHORT] += (closes - opens).total_seconds()  # type: ignore[assignment]
        if not spans or spans[-1][1] < last:
            self._ends()

    def used(self, now: datetime) -> None:
        if self.openings.windows:
            self._under_way = self._used = True

    def breaks(self, reason: str) -> None:
        """The rest of the opening is not seen."""
        if self._under_way:
            self._reasons[reason] += self._reasons.pop(_TOO_SHORT, 0)
        self._ends()

    def _ends(self) -> None:
        if self._under_way:
            self.figures.openings += 1
            if self._used:
                self.figures.openings_used += 1
            else:
                [(reason, _)] = self._reasons.most_common(1)
                self.figures.unused[reason] += 1
        self._under_way = self._used = False
        self._reasons = Counter()
