"""What is written is what the reference parser reads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bootcd.metrics.exposition import Metric, Sample, render

METRIC = Metric("a_metric", "gauge", 'With a \\ and a\nnew line and "quotes".', ("one", "two"))
PLAIN = Metric("b_total", "counter", "Plain.")


def test_samples_of_a_metric_share_its_heading() -> None:
    text = render([Sample(METRIC, 1, ("a", "b")), Sample(METRIC, 2.5, ("c", "d")), Sample(PLAIN, 3)])
    assert text.decode() == (
        '# HELP a_metric With a \\\\ and a\\nnew line and "quotes".\n# TYPE a_metric gauge\n'
        'a_metric{one="a",two="b"} 1\na_metric{one="c",two="d"} 2.5\n'
        "# HELP b_total Plain.\n# TYPE b_total counter\nb_total 3\n"
    )


@given(
    st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=4, unique=True),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_label_and_value_is_read_back(labels: list[tuple[str, str]], value: float) -> None:
    text = render([Sample(METRIC, value, pair) for pair in labels]).decode()
    read = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert [(sample.labels["one"], sample.labels["two"]) for sample in read] == [
        (one[:256], two[:256]) for one, two in labels
    ]
    assert all(math.isclose(sample.value, value) for sample in read)


def test_half_of_a_surrogate_pair_does_not_break_the_text() -> None:
    assert render([Sample(METRIC, 1, ("\ud800", ""))]).endswith(b'{one="?",two=""} 1\n')


def test_wrong_number_of_labels_is_a_defect() -> None:
    with pytest.raises(ValueError, match="zip"):
        render([Sample(METRIC, 1, ("a",))])
