from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import DowngradeRefused
from bootcd.model.host import BootEntry, HostState, ImageReferenceStatus, ImageStatus
from bootcd.model.job import ImageUpdate
from bootcd.update.downgrade import compare_versions, older, require_no_downgrade

THEN = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NAME = "quay.io/example/os:prod"
NEW, HERE = "sha256:" + "b" * 64, "sha256:" + "a" * 64


def entry(
    version: str = "1.1", timestamp: str | None = "2026-01-15T12:00:00Z", name: str = NAME
) -> BootEntry:
    tracked = ImageReferenceStatus(image=name, transport="registry")
    return BootEntry(
        image=ImageStatus(
            image=tracked, version=version, timestamp=timestamp, image_digest=HERE, architecture="amd64"
        )
    )


def update(version: str = "1.0", created: datetime | None = THEN + DAY) -> ImageUpdate:
    return ImageUpdate(image=NAME, digest=NEW, version=version, created=created)


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


@pytest.mark.parametrize(
    ("state", "given", "sentence"),
    [
        pytest.param(
            HostState(booted=entry()),
            update(),
            f"the newest version of {NAME} is 1.0 of 2026-01-16 12:00 UTC,"
            " older than 1.1 of 2026-01-15 12:00 UTC, which is booted",
            id="version",
        ),
        pytest.param(
            HostState(booted=entry("1.0"), staged=entry("", None)),
            update("", THEN - DAY),
            f"the newest version of {NAME} is {NEW} of 2026-01-14 12:00 UTC,"
            " older than 1.0 of 2026-01-15 12:00 UTC, which is booted",
            id="time",
        ),
        pytest.param(
            HostState(booted=entry("1.0"), staged=entry("1.2", None)),
            update("1.1", None),
            f"the newest version of {NAME} is 1.1, older than 1.2, which is staged",
            id="staged",
        ),
    ],
)
def test_downgrade_is_refused_with_both_versions_and_what_allows_it(
    state: HostState, given: ImageUpdate, sentence: str
) -> None:
    with pytest.raises(DowngradeRefused) as refused:
        require_no_downgrade(given, state)
    assert refused.value.message == sentence
    assert "--allow-downgrade" in refused.value.hint
    assert refused.value.fields == {"digest": NEW, "newer": HERE}


@pytest.mark.parametrize(
    ("state", "given"),
    [
        pytest.param(HostState(), update(), id="nothing booted"),
        pytest.param(HostState(booted=BootEntry()), update(), id="no image booted"),
        pytest.param(HostState(booted=entry(name="quay.io/example/os:dev")), update(), id="another tag"),
        pytest.param(HostState(booted=entry(), rollback=entry("9")), update("1.2"), id="newer"),
        pytest.param(HostState(booted=entry("next")), update("next", None), id="no time"),
        pytest.param(HostState(booted=entry("next", None)), update("next"), id="no time here"),
        pytest.param(
            HostState(booted=entry("next")),
            update("next", datetime(1980, 1, 1, tzinfo=UTC)),
            id="reproducible build",
        ),
    ],
)
def test_what_is_no_downgrade_for_sure_is_let_in(state: HostState, given: ImageUpdate) -> None:
    require_no_downgrade(given, state)
