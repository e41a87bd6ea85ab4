"""What the bench found, as a table for people and as JSON for programs.

A comparison is one scenario run by several contenders; a figure stands alone. A limit is said beside its
figure, met or not: the bench judges nothing by its exit code, since the machine may be busy.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import Sample

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; `limit` is the most it may be."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        return f"limit {_number(self.limit)}: {'reached' if self.value <= self.limit else 'NOT reached'}"


@dataclass(slots=True)
class Comparison:
    """A scenario: samples by contender. Ratios are to `baseline`."""

    scenario: str
    baseline: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, contender: str, sample: Sample) -> None:
        self.samples.setdefault(contender, []).append(sample)

    def median(self, contender: str, quantity: str) -> float:
        return float(statistics.median(getattr(sample, quantity) for sample in self.samples[contender]))

    def best(self, contender: str, quantity: str) -> float:
        return float(min(getattr(sample, quantity) for sample in self.samples[contender]))

    def ratio(self, contender: str, quantity: str) -> float:
        base = self.median(self.baseline, quantity)
        return self.median(contender, quantity) / base if base else float("nan")


@dataclass(slots=True)
class Report:
    ground: str
    comparisons: list[Comparison] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = [f"machine  {_machine()}", f"disk     {self.ground}"]
        for comparison in self.comparisons:
            lines += [
                "",
                comparison.scenario,
                *_table(comparison),
                *(f"  {note}" for note in comparison.notes),
            ]
        width = max((len(figure.name) for figure in self.figures), default=0)
        lines += ["", "figures"]
        for figure in self.figures:
            value = f"{_number(figure.value):>8} {figure.unit:<4}"
            rest = "; ".join(part for part in (figure.verdict, figure.note) if part)
            lines.append(f"  {figure.name:<{width}}  {value}  {rest}".rstrip())
        return lines

    def document(self) -> dict[str, Any]:
        return {
            "machine": _machine(),
            "load": os.getloadavg(),
            "ground": self.ground,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "figures": [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures],
        }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _table(comparison: Comparison) -> list[str]:
    width = max(map(len, comparison.samples), default=0)
    heads = ("wall s", "(best)", "CPU s", "(best)", "peak MiB", "wire MiB", "x wall", "x CPU")
    lines = [" " * (width + 4) + "".join(f"{head:>9}" for head in heads)]
    for name in comparison.samples:
        peak = comparison.median(name, "peak_bytes") / MIB
        cells = [
            *(comparison.median(name, "wall_secs"), comparison.best(name, "wall_secs")),
            *(comparison.median(name, "cpu_secs"), comparison.best(name, "cpu_secs")),
        ]
        wire = comparison.median(name, "wire_bytes") / MIB
        text = [f"{cell:.2f}" for cell in cells] + [f"{peak:.0f}" if peak else "-", f"{wire:.1f}"]
        text += [f"{comparison.ratio(name, quantity):.2f}" for quantity in ("wall_secs", "cpu_secs")]
        lines.append(f"  {name:<{width + 2}}" + "".join(f"{cell:>9}" for cell in text))
    return lines


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{cores} x {model}, Linux {platform.release()}, load {load:.1f} from before and beside"
