"""Tracked images in all the forms bootc reads and writes, and the origin file around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import BackendFailed, BootcdError, InvalidImage, Unsupported
from bootcd.model.host import ImageReferenceStatus, OstreeRemote
from bootcd.ostreefmt.origin import (
    Origin,
    RemoteSignature,
    SignaturePolicy,
    TrackedImage,
    parse_origin,
    parse_tracked_image,
)

UNVERIFIED = SignaturePolicy.UNVERIFIED
SIGNED = SignaturePolicy.CONTAINER_POLICY
REMOTE = RemoteSignature("fedora")

FORMS = [
    (
        "ostree-unverified-registry:quay.io/x:42",
        TrackedImage("registry", "quay.io/x:42", UNVERIFIED),
        "ostree-unverified-registry:quay.io/x:42",
        "docker://quay.io/x:42",
    ),
    (
        "ostree-unverified-image:docker://quay.io/x",
        TrackedImage("registry", "quay.io/x", UNVERIFIED),
        "ostree-unverified-registry:quay.io/x",
        "docker://quay.io/x",
    ),
    (
        "ostree-unverified-image:registry:quay.io/x",
        TrackedImage("registry", "quay.io/x", UNVERIFIED),
        "ostree-unverified-registry:quay.io/x",
        "docker://quay.io/x",
    ),
    (
        "ostree-unverified-image:oci:/mnt/os:v1",
        TrackedImage("oci", "/mnt/os:v1", UNVERIFIED),
        "ostree-unverified-image:oci:/mnt/os:v1",
        "oci:/mnt/os:v1",
    ),
    (
        "ostree-unverified-image:containers-storage:localhost/x",
        TrackedImage("containers-storage", "localhost/x", UNVERIFIED),
        "ostree-unverified-image:containers-storage:localhost/x",
        "containers-storage:localhost/x",
    ),
    (
        "ostree-image-signed:docker://quay.io/x",
        TrackedImage("registry", "quay.io/x", SIGNED),
        "ostree-image-signed:docker://quay.io/x",
        "docker://quay.io/x",
    ),
    (
        "ostree-image-signed:registry:quay.io/x",
        TrackedImage("registry", "quay.io/x", SIGNED),
        "ostree-image-signed:docker://quay.io/x",
        "docker://quay.io/x",
    ),
    (
        "ostree-image-signed:docker-archive:/x.tar",
        TrackedImage("docker-archive", "/x.tar", SIGNED),
        "ostree-image-signed:docker-archive:/x.tar",
        "docker-archive:/x.tar",
    ),
    (
        "ostree-remote-registry:fedora:quay.io/x:1",
        TrackedImage("registry", "quay.io/x:1", REMOTE),
        "ostree-remote-image:fedora:docker://quay.io/x:1",
        "docker://quay.io/x:1",
    ),
    (
        "ostree-remote-image:fedora:docker://quay.io/x:1",
        TrackedImage("registry", "quay.io/x:1", REMOTE),
        "ostree-remote-image:fedora:docker://quay.io/x:1",
        "docker://quay.io/x:1",
    ),
    (
        "ostree-remote-image:fedora:oci-archive:/x",
        TrackedImage("oci-archive", "/x", REMOTE),
        "ostree-remote-image:fedora:oci-archive:/x",
        "oci-archive:/x",
    ),
]


@pytest.mark.parametrize(("text", "image", "output", "ref_name"), FORMS, ids=[form[0] for form in FORMS])
def test_tracked_image_form_parses_and_prints_canonically(
    text: str, image: TrackedImage, output: str, ref_name: str
) -> None:
    parsed = parse_tracked_image(text)
    assert parsed == image
    assert str(parsed) == output
    assert parse_tracked_image(output) == image
    assert parsed.image_ref_name == ref_name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quay.io/x",
        "docker://quay.io/x",
        "registry:quay.io/x",
        "ostree-unverified-registry",
        "ostree-unverified-registry:",
        "ostree-unverified-image:quay.io/x",
        "ostree-unverified-image:docker:quay.io/x",
        "ostree-unverified-image:docker://",
        "ostree-unverified-image:atomic:x",
        "ostree-image-signed:",
        "ostree-image-signed:oci:",
        "ostree-remote-registry:fedora",
        "ostree-remote-registry::quay.io/x",
        "ostree-remote-image:fedora:quay.io/x",
        "ostree-unverified-registry:quay.io/x\n[packages]",
        "ostree-unverified-registry:quay.io/\ud800",
        "ostree-unverified-registry: ",
        "ostree-unverified-registry:" + "x" * 5000,
    ],
    ids=lambda text: ascii(text)[:50],
)
def test_tracked_image_malformed_text_raises(text: str) -> None:
    with pytest.raises(InvalidImage):
        parse_tracked_image(text)


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (
            TrackedImage.registry("quay.io/x:1"),
            ImageReferenceStatus(image="quay.io/x:1", transport="registry"),
        ),
        (
            TrackedImage("oci", "/x", SIGNED),
            ImageReferenceStatus(image="/x", transport="oci", signature="containerPolicy"),
        ),
        (
            TrackedImage("registry", "q.io/x", REMOTE),
            ImageReferenceStatus(
                image="q.io/x", transport="registry", signature=OstreeRemote(ostree_remote="fedora")
            ),
        ),
    ],
    ids=["unverified", "policy", "remote"],
)
def test_tracked_image_status_shows_its_signature(image: TrackedImage, status: ImageReferenceStatus) -> None:
    assert image.status == status


FRESH = "[origin]\ncontainer-image-reference=ostree-unverified-registry:quay.io/fedora/fedora-bootc:42\n"


@pytest.mark.parametrize(
    ("transport", "name", "path", "tag"),
    [
        ("oci", "/mnt/usb/os.oci", "/mnt/usb/os.oci", ""),
        ("oci", "/mnt/usb/os:v1", "/mnt/usb/os", "v1"),
        ("oci-archive", "/mnt/os.tar:a:b", "/mnt/os.tar", "a:b"),
        ("dir", "/mnt/os:v1", "/mnt/os:v1", ""),
        ("docker-archive", "/mnt/os.tar:localhost/os:1", "/mnt/os.tar", "localhost/os:1"),
        ("containers-storage", "localhost/os:1", "localhost/os:1", ""),
    ],
)
def test_tracked_image_in_files_is_taken_apart(transport: str, name: str, path: str, tag: str) -> None:
    image = TrackedImage.unverified(transport, name)
    image.require_usable()
    assert image.place == (path, tag)
    assert str(image) == f"ostree-unverified-image:{transport}:{name}"


@pytest.mark.parametrize("name", ["os", "./os:1", "/mnt/../os", "/..:1", ":/mnt"])
def test_tracked_image_that_is_not_one_place_is_refused(name: str) -> None:
    with pytest.raises(InvalidImage):
        TrackedImage.unverified("oci", name).require_usable()


def test_tracked_image_in_a_store_with_options_is_refused() -> None:
    name = "[overlay@/graph+/run:overlay.mount_program=/tmp/program]localhost/os:1"
    with pytest.raises(InvalidImage):
        TrackedImage.unverified("containers-storage", name).require_usable()


def test_tracked_image_of_a_docker_daemon_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        TrackedImage.unverified("docker-daemon", "os:1").require_usable()


def test_origin_fresh_has_the_one_key_bootc_writes() -> None:
    origin = Origin.fresh(TrackedImage.registry("quay.io/fedora/fedora-bootc:42"))
    assert origin.to_keyfile() == FRESH
    assert parse_origin(FRESH) == origin


@pytest.mark.parametrize("group", ["rpmostree", "packages", "overrides", "modules"])
def test_origin_with_local_changes_is_incompatible_and_keeps_its_image(group: str) -> None:
    origin = parse_origin(f"{FRESH}\n[{group}]\nrequested=vim;\n")
    assert origin.incompatible
    assert origin.image == TrackedImage.registry("quay.io/fedora/fedora-bootc:42")


def test_origin_with_empty_local_change_group_is_incompatible() -> None:
    assert parse_origin("[origin]\nbaserefspec=fedora:x\n[packages]\n").incompatible


def test_origin_with_foreign_group_is_compatible() -> None:
    assert not parse_origin(f"{FRESH}[vendor]\npackages=1\n").incompatible


@pytest.mark.parametrize("key", ["refspec", "baserefspec"])
def test_origin_of_plain_ostree_tracks_a_refspec(key: str) -> None:
    origin = parse_origin(f"[origin]\n{key}=fedora:fedora/x86_64/silverblue\n")
    assert (origin.image, origin.refspec) == (None, "fedora:fedora/x86_64/silverblue")


@pytest.mark.parametrize("text", ["", "# nothing\n\n", "[origin]\n", "[other]\na=b\n"])
def test_origin_without_image_or_refspec_tracks_nothing(text: str) -> None:
    origin = parse_origin(text)
    assert (origin.image, origin.refspec, origin.incompatible) == (None, None, False)


@pytest.mark.parametrize(
    ("value", "pinned"), [("true", True), ("1", True), ("true \t", True), ("false", False), ("yes", False)]
)
def test_origin_pinned_reads_libostrees_own_key(value: str, pinned: bool) -> None:
    assert parse_origin(f"{FRESH}[libostree-transient]\npinned={value}\n").pinned is pinned
    assert not parse_origin(f"{FRESH}[other]\npinned=true\n").pinned


def test_origin_odd_layout_parses_as_glib_would() -> None:
    origin = parse_origin(
        "# comment\r\n\n  [origin] \t\r\n"
        "\tcontainer-image-reference  =  ostree-image-signed:oci:/a\\\\b\\sc\r\n"
        "refspec=old\nrefspec=new\n[x]\nk=1\n[origin]\nextra = v \n"
    )
    assert origin.image == TrackedImage("oci", "/a\\b c", SIGNED)
    assert origin.refspec == "new"
    assert dict(origin.groups)["origin"][-1] == ("extra", "v ")


def test_origin_rewritten_keeps_unknown_groups_and_raw_values() -> None:
    text = (
        "[origin]\ncontainer-image-reference=ostree-image-signed:oci:/a\\sb\n\n[vendor]\nk=a\\nb;\nk[de]=x\n"
    )
    assert parse_origin(text).to_keyfile() == text


def test_origin_tracking_new_image_keeps_others_groups_and_drops_old_state() -> None:
    old = parse_origin("[vendor]\nk=v\n[origin]\nrefspec=a:b\nx=y\n[libostree-transient]\npinned=true\n")
    new = old.tracking(TrackedImage.registry("q.io/x"))
    assert (
        new.to_keyfile()
        == "[origin]\ncontainer-image-reference=ostree-unverified-registry:q.io/x\n\n[vendor]\nk=v\n"
    )
    assert not new.pinned
    assert parse_origin(new.to_keyfile()) == new


def test_origin_image_name_with_backslash_survives_the_file() -> None:
    origin = Origin.fresh(TrackedImage("dir", "/a\\s b", UNVERIFIED))
    assert parse_origin(origin.to_keyfile()) == origin


@pytest.mark.parametrize(
    "text",
    [
        "key=before any group\n",
        "[origin]\njunk\n",
        "[origin]\n=v\n",
        "[ori[gin]\n",
        "[]\na=b\n",
        "[origin] x\n",
        "[origin]\na\x01b=c\n",
        "[origin]\nk=\0\n",
        "[origin]\nk=\ud800\n",
        "[origin]\nrefspec=a\\qb\n",
        "[origin]\nrefspec=a\\\n",
        "[origin]\n" + "#" * (64 << 10),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_origin_malformed_file_raises(text: str) -> None:
    with pytest.raises(BackendFailed):
        parse_origin(text)


def test_origin_malformed_image_raises() -> None:
    with pytest.raises(InvalidImage):
        parse_origin("[origin]\ncontainer-image-reference=quay.io/x\n")


@given(st.text(alphabet=st.sampled_from("[]=#\n\r\t \\sorigin-:."), max_size=80) | st.text(max_size=80))
def test_parse_origin_any_text_is_typed_error_or_stable_when_rewritten(text: str) -> None:
    try:
        origin = parse_origin(text)
    except BootcdError:
        return
    assert parse_origin(origin.to_keyfile()) == origin
