"""Whom to ask, by the rules; that skopeo understands the same files so is in tests/adapter/registry."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.registries import MAX_REGISTRIES_BYTES, RegistriesConf, parse_registries

DIGEST = "sha256:" + "0" * 64
FILE = "/etc/containers/registries.conf"

EXAMPLE = b"""
unqualified-search-registries = ["example.com"]
credential-helpers = ["containers-auth.json", "vault"]

[[registry]]
prefix = "example.com/foo"
location = "internal.example.net/bar"

[[registry.mirror]]
location = "mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "mirror-1.local/mirrors/foo"
insecure = true
pull-from-mirror = "digest-only"
"""


def asked(conf: bytes, image: str) -> list[str]:
    sources = parse_registries(conf, FILE).sources(parse_reference(image))
    return [str(source.reference) for source in sources]


def test_sources_are_the_mirrors_in_order_and_the_location_last() -> None:
    assert asked(EXAMPLE, "example.com/foo/image:1") == [
        "mirror-0.local/mirror-for-foo/image:1",
        "internal.example.net/bar/image:1",
    ]
    assert asked(EXAMPLE, f"example.com/foo/image@{DIGEST}") == [
        f"mirror-0.local/mirror-for-foo/image@{DIGEST}",
        f"mirror-1.local/mirrors/foo/image@{DIGEST}",
        f"internal.example.net/bar/image@{DIGEST}",
    ]
    assert asked(EXAMPLE, "example.com/other:1") == ["example.com/other:1"]


def test_sources_of_a_digest_with_a_tag_ask_for_the_digest() -> None:
    assert asked(EXAMPLE, f"example.com/foo/image:1@{DIGEST}")[0].endswith(f"/image@{DIGEST}")


def test_sources_keep_the_permission_to_be_insecure_with_its_place() -> None:
    sources = parse_registries(EXAMPLE, FILE).sources(parse_reference(f"example.com/foo/image@{DIGEST}"))
    assert [source.insecure for source in sources] == [False, True, False]


def test_credential_helpers_are_those_of_the_last_file_that_names_some() -> None:
    conf = parse_registries(EXAMPLE, FILE)
    assert conf.credential_helpers == ("containers-auth.json", "vault")
    assert conf.updated(parse_registries(b"", FILE)).credential_helpers == conf.credential_helpers
    assert conf.updated(parse_registries(b"credential-helpers = []", FILE)).credential_helpers == ()
    assert parse_registries(b"", FILE).credential_helpers is None


@pytest.mark.parametrize("helper", ["../sh", "a b", "", "-x", "x" * 65])
def test_credential_helper_that_is_no_name_is_refused(helper: str) -> None:
    with pytest.raises(InvalidConfig, match="helper"):
        parse_registries(f'credential-helpers = ["{helper}"]'.encode(), FILE)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"x = " + b"[" * 10_000,
        b"#" * (MAX_REGISTRIES_BYTES + 1),
        b"registry = 1",
        b"registry = [1]",
        b"registries = 1",
        b"aliases = 1",
        b"[aliases]\na = 1",
        b"unqualified-search-registries = [1]",
        b"[[registry]]\nlocation = 1",
        b'[[registry]]\nlocation = "a.test"\nmirror = "b.test"',
        b"[registries.block]\nregistries = ['']",
    ],
)
def test_file_of_another_form_is_a_config_error_naming_it(data: bytes) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_registries(data, FILE)
    assert caught.value.fields["path"] == FILE
    assert FILE in caught.value.message


def test_location_with_a_password_is_not_repeated() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_registries(b'[[registry]]\nlocation = "https://me:secret@a.test"', FILE)
    assert "secret" not in caught.value.message


_PLACES = st.sampled_from(["a.test", "b.test", "a.test/x", "*.test", "b.test:5000/x/y", "c", "", "x/"])
_ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"location": _PLACES},
        optional={"prefix": _PLACES, "blocked": st.booleans(), "insecure": st.booleans()},
    ),
    max_size=4,
)


@given(
    entries=_ENTRIES, mirror=_PLACES, image=st.sampled_from(["a.test/x/y", "b.test:5000/x/y", "c.a.test/x"])
)
def test_sources_always_end_with_one_place_or_a_config_error(
    entries: list[dict[str, str | bool]], mirror: str, image: str
) -> None:
    lines = []
    for entry in entries:
        lines.append("[[registry]]")
        lines += [
            f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            for key, value in entry.items()
        ]
        lines += ["[[registry.mirror]]", f"location = '{mirror}'"]
    try:
        sources = parse_registries("\n".join(lines).encode(), FILE).sources(parse_reference(image))
    except InvalidConfig:
        return
    assert sources
    assert all(source.reference.tag == "latest" for source in sources)


@given(st.binary(max_size=200))
def test_parsing_any_bytes_gives_a_value_or_a_config_error(data: bytes) -> None:
    with suppress(InvalidConfig):
        assert isinstance(parse_registries(data, FILE), RegistriesConf)


def test_no_entry_asks_for_the_image_itself() -> None:
    reference = ImageReference("a.test", "os", "1")
    (source,) = RegistriesConf().sources(reference)
    assert (source.reference, source.insecure, source.blocked) == (reference, False, False)
