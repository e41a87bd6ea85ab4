from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.update.downgrade import compare_versions, older

THEN = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        ("41.20250115.0", "41.20250116.0", -1),
        ("42.20250101.0", "41.20250116.0", 1),
        ("1.9", "1.10", -1),
        ("v1.2-3", "v1.2-3", 0),
        ("stream9.20250115", "stream9.20250114", 1),
        ("007", "7", 0),
        pytest.param("20250115", "1.0", 0, id="another scheme"),
        pytest.param("v2", "1", 0, id="another prefix"),
        pytest.param("1.2-3", "1.2.4", 0, id="other separators"),
        pytest.param("1.0-gabc123", "1.0-gabd123", 0, id="commit"),
        pytest.param("", "1", 0, id="none"),
        pytest.param("9" * 5000, "8" * 5000, 0, id="huge number"),
        pytest.param("1" + ".1" * 5000, "1" + ".2" * 5000, 0, id="very many numbers"),
        pytest.param("٣", "٢", 0, id="digits of another script"),
    ],
)
def test_versions_are_compared_where_they_are_of_one_make(one: str, other: str, order: int) -> None:
    assert compare_versions(one, other) == order
    assert compare_versions(other, one) == -order


@given(st.text(max_size=300), st.text(max_size=300))
def test_compare_versions_takes_any_text(one: str, other: str) -> None:
    assert compare_versions(one, other) == -compare_versions(other, one)


@pytest.mark.parametrize(
    ("version", "created", "verdict"),
    [
        pytest.param("1.2", THEN + DAY, False, id="newer"),
        pytest.param("1.0", THEN - DAY, True, id="older"),
        pytest.param("1.0", THEN + DAY, True, id="older version made later"),
        pytest.param("1.2", THEN - DAY, False, id="newer version made earlier"),
        pytest.param("1.1", THEN - DAY, True, id="same version made earlier"),
        pytest.param("1.1", THEN, False, id="the same"),
        pytest.param("next", THEN - DAY, True, id="versions tell nothing, time does"),
        pytest.param("next", None, False, id="nothing tells"),
        pytest.param("next", datetime(1970, 1, 1, tzinfo=UTC), False, id="reproducible build"),
    ],
)
def test_older_goes_by_the_version_and_then_by_the_time(
    version: str, created: datetime | None, verdict: bool
) -> None:
    assert older(version, created, than_version="1.1", than_created=THEN) is verdict
