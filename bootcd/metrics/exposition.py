"""Figures in the text format of Prometheus, version 0.0.4. No I/O.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABEL_CHARACTERS = 256
"Images name their own version, at any length."


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured, and by which labels it is told apart."""

    name: str
    kind: Literal["gauge", "counter", "summary"]
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value; `labels` are in the order of the metric's, `part` is "_sum" or "_count" of a summary."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    part: str = ""


def render(samples: Iterable[Sample]) -> bytes:
    """Return the samples as text; those of one metric must follow each other."""
    lines: list[str] = []
    last: Metric | None = None
    for sample in samples:
        metric = sample.metric
        if metric is not last:
            lines.append(f"# HELP {metric.name} {_escape(metric.help)}\n# TYPE {metric.name} {metric.kind}\n")
            last = metric
        lines.append(f"{metric.name}{sample.part}{_labels(sample)} {_number(sample.value)}\n")
    return "".join(lines).encode("utf-8", "replace")


def _labels(sample: Sample) -> str:
    pairs = zip(sample.metric.labels, sample.labels, strict=True)
    text = ",".join(f'{name}="{_quoted(value)}"' for name, value in pairs)
    return f"{{{text}}}" if text else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escape(text[:_LABEL_CHARACTERS]).replace('"', '\\"')


def _number(value: float) -> str:
    # All figures of a byte count or of a time in microseconds are kept.
    return str(int(value)) if value == int(value) else repr(float(value))
