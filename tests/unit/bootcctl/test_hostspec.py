import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcctl.exitcodes import Failure
from bootcctl.hostspec import Change, parse_spec, plan_change, render_spec
from bootcctl.yamltext import render_yaml
from bootcd.model.host import BootEntry, Host, HostSpec, HostState, ImageReferenceStatus, OstreeRemote
from tests.support.scripted_service import deployment, host

IMAGE = {"image": "quay.io/x/os:1", "transport": "registry"}
HEAD = "apiVersion: org.containers.bootc/v1\nkind: BootcHost\n"


def spec(image: dict[str, Any] | None = IMAGE, order: str = "default") -> dict[str, Any]:
    return {"bootOrder": order, "image": image}


def document(text: str) -> str:
    return f"{HEAD}spec:\n" + "".join(f"  {line}\n" for line in text.splitlines())


def test_spec_that_is_rendered_is_read_back_as_it_was() -> None:
    shown = json.loads(host(booted=deployment("1.0", "a")).to_json())
    assert parse_spec(render_spec(shown)) == shown["spec"]
    assert "status" not in render_spec(shown)


def test_whole_status_can_be_edited_too() -> None:
    entry: BootEntry = deployment("42", "a")
    reference = ImageReferenceStatus(
        image="x:1", transport="registry", signature=OstreeRemote(ostree_remote="fedora")
    )
    shown = json.loads(Host(spec=HostSpec(image=reference), status=HostState(booted=entry)).to_json())
    assert parse_spec(render_yaml(shown)) == shown["spec"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image: null", spec(None)),
        ("image:\n  image: 42\n  transport: registry", spec({"image": "42", "transport": "registry"})),
        (
            "image: {image: x, transport: oci}\nbootOrder: rollback",
            spec({"image": "x", "transport": "oci"}, "rollback"),
        ),
        (
            "image: {image: x, transport: oci, signature: {ostreeRemote: no}}",
            spec({"image": "x", "transport": "oci", "signature": {"ostreeRemote": "no"}}),
        ),
        ("image: {image: x, transport: oci, signature: null}", spec({"image": "x", "transport": "oci"})),
    ],
)
def test_spec_is_read_as_bootc_reads_it(text: str, expected: dict[str, Any]) -> None:
    assert parse_spec(document(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "{",
        "kind: BootcHost\n",
        HEAD,
        HEAD + "spec: x\n",
        document("bootOrder: later"),
        document("image: x"),
        document("image: {image: x}"),
        document("image: {image: '', transport: oci}"),
        document("image: {image: x, transport: oci, tag: y}"),
        document("image: {image: x, transport: oci, signature: maybe}"),
        document("image: {image: x, transport: oci, signature: [a]}"),
        document("imgae: null"),
        document("image: null\nimage: null"),
        document("image: &a {image: x, transport: oci}\nbootOrder: *a"),
        "[" * 100_000,
        "a: 'x" * 300_000,
        f"{HEAD}? [a]\n: b\n",
    ],
    ids=lambda text: repr(text[-30:]),
)
def test_text_that_is_no_spec_is_a_usage_failure(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_spec(text)
    assert caught.value.kind == "InvalidArguments"


@given(st.text(max_size=80) | st.text("{}[]:-&*!| \nabspeci", max_size=60).map(lambda text: HEAD + text))
def test_any_text_is_a_spec_or_a_failure(text: str) -> None:
    with suppress(Failure):
        assert parse_spec(text).keys() == {"bootOrder", "image"}


OTHER = {"image": "/mnt/os", "transport": "oci"}


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (spec(), None),
        (spec(order="rollback"), Change("rollback")),
        (spec({"image": "quay.io/x/os:2", "transport": "registry"}), Change("switch", "quay.io/x/os:2")),
        (spec(OTHER), Change("switch", "/mnt/os", "oci")),
    ],
)
def test_change_follows_from_what_differs(new: dict[str, Any], change: Change | None) -> None:
    assert plan_change(spec(), new) == change


@pytest.mark.parametrize(
    ("before", "after", "enforce"),
    [
        (None, "containerPolicy", True),
        ("containerPolicy", None, False),
        ({"ostreeRemote": "x"}, "insecure", False),
    ],
    ids=["demanded", "no longer demanded", "no longer an ostree remote's"],
)
def test_change_of_the_signature_is_a_switch(before: object, after: object, enforce: bool) -> None:
    old, new = (spec({**IMAGE, "signature": signature}) for signature in (before, after))
    assert plan_change(old, new) == Change("switch", IMAGE["image"], IMAGE["transport"], enforce)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (spec(), spec(OTHER, "rollback"), "InvalidArguments"),
        (spec(), spec(None), "InvalidArguments"),
        (spec(), spec({**IMAGE, "signature": {"ostreeRemote": "fedora"}}), "Unsupported"),
    ],
    ids=["both", "no image", "demand an ostree remote's signature"],
)
def test_change_that_is_not_there_is_refused(old: dict[str, Any], new: dict[str, Any], kind: str) -> None:
    with pytest.raises(Failure) as caught:
        plan_change(old, new)
    assert caught.value.kind == kind
