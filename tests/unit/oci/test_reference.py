"""Image references against the distribution grammar and podman's host rule."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidImage
from bootcd.oci.reference import DOCKER_HUB, ImageReference, is_digest, parse_reference

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA384 = "sha384:" + "ab" * 48
SHA512 = "sha512:" + "cd" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("quay.io/fedora/fedora-bootc:42", "quay.io", "fedora/fedora-bootc", "42", None),
        ("quay.io/fedora/fedora-bootc", "quay.io", "fedora/fedora-bootc", "latest", None),
        ("quay.io/os", "quay.io", "os", "latest", None),
        (f"quay.io/os@{SHA256}", "quay.io", "os", None, SHA256),
        (f"quay.io/os:42@{SHA256}", "quay.io", "os", "42", SHA256),
        (f"quay.io/os@{SHA384}", "quay.io", "os", None, SHA384),
        (f"quay.io/os@{SHA512}", "quay.io", "os", None, SHA512),
        ("docker.io/fedora", "docker.io", "library/fedora", "latest", None),
        ("docker.io/a/b:c", "docker.io", "a/b", "c", None),
        ("index.docker.io/fedora:1", "docker.io", "library/fedora", "1", None),
        ("localhost/os", "localhost", "os", "latest", None),
        ("localhost:5000/os:v1", "localhost:5000", "os", "v1", None),
        ("registry:5000/os:v1", "registry:5000", "os", "v1", None),
        ("oci:5000/os", "oci:5000", "os", "latest", None),
        ("127.0.0.1:40001/a/b/c", "127.0.0.1:40001", "a/b/c", "latest", None),
        ("[::1]:5000/os:1", "[::1]:5000", "os", "1", None),
        ("[2001:db8::1]/os", "[2001:db8::1]", "os", "latest", None),
        ("Registry/os", "Registry", "os", "latest", None),
        ("s-1.foo.com/bar/baz/quux:some-long-tag", "s-1.foo.com", "bar/baz/quux", "some-long-tag", None),
        ("xn--n3h.com/my__name/a--b.c_d:_T.-x", "xn--n3h.com", "my__name/a--b.c_d", "_T.-x", None),
        ("docker://quay.io/os:1", "quay.io", "os", "1", None),
        ("registry:quay.io/os:1", "quay.io", "os", "1", None),
        ("quay.io/os:" + "t" * 128, "quay.io", "os", "t" * 128, None),
    ],
)  # fmt: skip
def test_reference_of_the_grammar_is_taken_apart(text, registry, repository, tag, digest):
    parsed = parse_reference(text)
    assert (parsed.registry, parsed.repository, parsed.tag, parsed.digest) == (
        registry,
        repository,
        tag,
        digest,
    )


@pytest.mark.parametrize(
    ("text", "offending"),
    [
        ("", "empty"),
        ("docker://", "empty"),
        ("https://quay.io/os", "URL"),
        ("quay.io/Fedora", "'Fedora'"),
        ("quay.io/", "''"),
        ("quay.io//os", "'/os'"),
        ("quay.io/os/", "'os/'"),
        ("quay.io/a..b", "'a..b'"),
        ("quay.io/a___b", "'a___b'"),
        ("quay.io/-a", "'-a'"),
        ("quay.io/a b", "'a b'"),
        ("quay.io/ä", "'ä'"),
        ("quay.io/../etc", "'../etc'"),
        ("quay.io/os\n", "'os\\n'"),
        ("quay.io/os:", "tag ''"),
        ("quay.io/os:1\n", "tag '1\\n'"),
        ("quay.io/os:-1", "tag '-1'"),
        ("quay.io/os:a:b", "'os:a'|tag 'a:b'"),
        ("quay.io/os:ä", "tag 'ä'"),
        ("quay.io/os:" + "t" * 129, "tag 'ttt"),
        ("quay.io/os@", "digest ''"),
        ("quay.io/os@sha256:abc", "digest 'sha256:abc'"),
        ("quay.io/os@" + SHA256.upper(), "digest 'SHA256"),
        ("quay.io/os@sha256:" + "A" * 64, "digest 'sha256:AAA"),
        ("quay.io/os@md5:" + "a" * 32, "digest 'md5"),
        ("quay.io/os@" + SHA256 + "\n", "digest 'sha256"),
        (f"quay.io/os@{SHA256}:tag", "digest"),
        ("-quay.io/os", "registry '-quay.io'"),
        ("quay_x.io/os", "registry 'quay_x.io'"),
        ("quay.io:/os", "registry 'quay.io:'"),
        ("quay.io:0/os", "registry 'quay.io:0'"),
        ("quay.io:65536/os", "registry 'quay.io:65536'"),
        ("quay.io:http/os", "registry 'quay.io:http'"),
        ("[::1/os", "registry '[::1'"),
        ("[1:2]/os", "registry '[1:2]'"),
        ("::1/os", "registry '::1'"),
        ("/os", "''|'/os'"),
        ("oci:/var/os.oci", "'oci'"),
        ("oci-archive:/var/os.tar:x", "'oci-archive'"),
        ("containers-storage:localhost/os", "'containers-storage'"),
        ("dir:/tmp/x", "'dir'"),
        ("ostree-unverified-registry:quay.io/os", "'ostree-unverified-registry'"),
        ("quay.io/" + "a" * 248, "longer than 255"),
        ("quay.io/" + "a" * 2000, "longer than 1024"),
    ],
)
def test_reference_outside_the_grammar_is_refused_by_name(text, offending):
    with pytest.raises(InvalidImage) as caught:
        parse_reference(text)
    assert any(part in caught.value.message for part in offending.split("|")), caught.value.message
    assert len(caught.value.message) < 300


def test_name_of_255_characters_is_accepted():
    text = "quay.io/" + "a" * 247
    assert parse_reference(text).name == text


@pytest.mark.parametrize(
    ("short", "hint"),
    [
        ("fedora", "docker.io/library/fedora"),
        ("fedora:42", "docker.io/library/fedora"),
        ("foo/bar", "docker.io/foo/bar"),
        (f"foo/bar@{SHA256}", "docker.io/foo/bar"),
        ("localhost:5000", "docker.io/library/localhost"),
    ],
)
def test_short_name_is_refused_with_the_full_form_as_hint(short, hint):
    with pytest.raises(InvalidImage, match="which registry") as caught:
        parse_reference(short)
    assert caught.value.hint.endswith(hint)


@pytest.mark.parametrize(
    ("short", "default", "full"),
    [
        ("fedora", DOCKER_HUB, "docker.io/library/fedora:latest"),
        ("foo/bar:1", DOCKER_HUB, "docker.io/foo/bar:1"),
        ("fedora", "quay.io", "quay.io/fedora:latest"),
        ("quay.io/os", DOCKER_HUB, "quay.io/os:latest"),
    ],
)
def test_short_name_with_a_default_registry_is_completed(short, default, full):
    assert str(parse_reference(short, default_registry=default)) == full


def test_image_id_is_not_taken_for_a_docker_hub_name():
    with pytest.raises(InvalidImage, match="image ID"):
        parse_reference("ab" * 32, default_registry=DOCKER_HUB)


@pytest.mark.parametrize("text", ["https://joe:hunter2@quay.io/os", "joe:hunter2@quay.io/os"])
def test_reference_holding_a_password_is_refused_without_repeating_it(text):
    with pytest.raises(InvalidImage) as caught:
        parse_reference(text)
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_fetch_asks_for_the_digest_before_the_tag():
    both = parse_reference(f"quay.io/os:42@{SHA256}")
    assert both.for_fetch == SHA256
    assert both.with_digest(None).for_fetch == "42"


def test_canonical_form_strips_the_tag_beside_a_digest_only():
    assert str(parse_reference(f"quay.io/os:42@{SHA256}").canonical) == f"quay.io/os@{SHA256}"
    assert str(parse_reference("quay.io/os:42").canonical) == "quay.io/os:42"


def test_replaced_part_is_checked_and_the_rest_kept():
    reference = parse_reference("quay.io/os:42")
    assert str(reference.with_tag("43").with_digest(SHA256)) == f"quay.io/os:43@{SHA256}"
    with pytest.raises(InvalidImage):
        reference.with_tag("a b")
    with pytest.raises(InvalidImage):
        reference.with_digest("sha256:12")
    with pytest.raises(InvalidImage, match="neither"):
        reference.with_tag(None)


@pytest.mark.parametrize("registry", ["fedora", "", "quay.io/x", "quay.io\n"])
def test_reference_cannot_be_built_with_what_is_no_host(registry):
    with pytest.raises(InvalidImage):
        ImageReference(registry, "os", "1")


def test_reference_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_reference("quay.io/os").tag = "x"  # type: ignore[misc]


LABEL = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
HOST = st.one_of(
    st.tuples(LABEL, LABEL).map(".".join),
    st.just("localhost"),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=4).map(str),
)
REGISTRY = st.one_of(HOST, st.tuples(HOST, st.integers(1, 65535)).map(lambda hp: f"{hp[0]}:{hp[1]}"))
COMPONENT = st.from_regex(r"[a-z0-9]{1,8}(([._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(
    REGISTRY,
    st.lists(COMPONENT, min_size=2, max_size=4).map("/".join),
    st.none() | TAG,
    st.none() | st.sampled_from([SHA256, SHA384, SHA512]),
)
def test_every_reference_of_the_grammar_round_trips(registry, repository, tag, digest):
    if tag is None and digest is None:
        tag = "latest"
    reference = ImageReference(registry, repository, tag, digest)
    parsed = parse_reference(str(reference))
    expected = reference if registry != "index.docker.io" else None
    assert parsed == expected
    assert parse_reference(f"docker://{reference}") == parsed


@given(st.text(max_size=80) | st.text("aA0./:@_-[]sha256 ", max_size=80))
def test_any_text_is_a_stable_reference_or_refused(text):
    try:
        parsed = parse_reference(text, default_registry=DOCKER_HUB)
    except InvalidImage:
        return
    assert parse_reference(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHA256, True),
        (SHA512, True),
        (SHA256[:-1], False),
        ("sha256-" + "a" * 64, False),
        (SHA256 + "\n", False),
    ],
)
def test_digest_is_told_from_other_text(text, expected):
    assert is_digest(text) is expected
