"""The page on metrics lists what the code has, word for word."""

from __future__ import annotations

import re
from pathlib import Path

from bootcd.metrics.figures import METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"


def test_metrics_page_lists_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(bootcd_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    expected = [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    assert rows == expected
