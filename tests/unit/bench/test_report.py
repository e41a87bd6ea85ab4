from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.bench.measure import Sample
from tests.bench.report import Comparison, Figure, Report, percentile


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)], ids=["p50", "p99", "max", "least"]
)
def test_percentile_of_a_hundred_values_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_figure_says_whether_its_limit_is_met() -> None:
    figure = Figure("start", 10, "ms", limit=10)
    assert figure.verdict == "limit 10: reached"
    assert replace(figure, value=10.5).verdict == "limit 10: NOT reached"
    assert replace(figure, limit=None).verdict == ""


def test_comparison_is_of_medians_and_ratios_to_the_baseline() -> None:
    comparison = Comparison("pull", "base")
    for wall in (1.0, 2.0, 9.0):
        comparison.add("base", Sample(wall, 1.0))
        comparison.add("other", Sample(2 * wall, 3.0, 1 << 20, 1 << 19))
    assert comparison.median("other", "wall_secs") == 4.0
    assert comparison.best("other", "wall_secs") == 2.0
    assert comparison.ratio("other", "wall_secs") == 2.0
    assert comparison.ratio("other", "cpu_secs") == 3.0
    report = Report("ext4", [comparison], [Figure("start", 10, "ms", 5)])
    (line,) = [line for line in report.lines() if line.startswith("  other")]
    assert line.split()[1:] == ["4.00", "2.00", "3.00", "3.00", "1", "0.5", "2.00", "3.00"]
    document = json.loads(json.dumps(report.document()))
    assert document["comparisons"][0]["samples"]["other"][0]["peak_bytes"] == 1 << 20
