"""Manifests, indexes and configs: what the specifications allow, and what must not pass."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidManifest, NoMatchingPlatform, Unsupported
from bootcd.oci.manifest import (
    MAX_CONFIG_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageConfig,
    ImageIndex,
    ImageManifest,
    check_layers,
    host_architecture,
    parse_config,
    parse_digest,
    parse_manifest,
    select_platform,
)

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def descriptor(number: int = 1, media_type: str = OCI_LAYER + "+gzip", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(number), "size": 1000 + number, **more}


def manifest(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(0, OCI_CONFIG),
        "layers": [descriptor(1), descriptor(2, OCI_LAYER + "+zstd")],
        "annotations": {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"},
    }
    return without_absent(document | changes)


def index(*platforms: str, **changes: Any) -> dict[str, Any]:
    entries = []
    for number, text in enumerate(platforms):
        os, architecture, variant = [*text.split("/"), ""][:3]
        platform = {"os": os, "architecture": architecture, "variant": variant or None}
        entries.append(descriptor(number, OCI_MANIFEST, platform=platform))
    return without_absent({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries} | changes)


def config(**changes: Any) -> dict[str, Any]:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.5+01:00",
        "config": {"Labels": {"containers.bootc": "1"}, "Cmd": ["/sbin/init"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(1), digest(2)]},
        "history": [{"created_by": "x"}],
    }
    return without_absent(document | changes)


def without_absent(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not ...}


def dump(document: object) -> bytes:
    return json.dumps(document).encode()


def parsed_manifest(document: dict[str, Any], media_type: str | None = None) -> ImageManifest:
    result = parse_manifest(dump(document), media_type)
    assert isinstance(result, ImageManifest)
    return result


def parsed_index(document: dict[str, Any], media_type: str | None = None) -> ImageIndex:
    result = parse_manifest(dump(document), media_type)
    assert isinstance(result, ImageIndex)
    return result


# Kinds and media types


def test_oci_manifest_is_parsed():
    result = parsed_manifest(manifest(), OCI_MANIFEST)
    assert result.config.digest == digest(0)
    assert [layer.digest for layer in result.layers] == [digest(1), digest(2)]
    assert [layer.compression for layer in result.layers] == ["gzip", "zstd"]
    assert result.layers[0].size == 1001
    assert result.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_docker_manifest_is_parsed():
    document = manifest(
        mediaType=DOCKER_MANIFEST,
        config=descriptor(0, DOCKER_CONFIG),
        layers=[descriptor(n, DOCKER_LAYER + end) for n, end in enumerate(("", ".gzip", ".zstd"))],
        annotations=...,
    )
    result = parsed_manifest(document, DOCKER_MANIFEST)
    assert [layer.compression for layer in result.layers] == ["none", "gzip", "zstd"]
    assert (result.media_type, result.created) == (DOCKER_MANIFEST, None)


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_index_is_parsed(kind):
    result = parsed_index(index("linux/amd64", "linux/arm64/v8", mediaType=kind), kind)
    assert [str(entry.platform) for entry in result.manifests] == ["linux/amd64", "linux/arm64/v8"]


@pytest.mark.parametrize(
    "header",
    [None, "", "application/json", "text/plain; charset=utf-8", "application/octet-stream", OCI_MANIFEST],
)
def test_manifest_without_media_type_is_told_by_header_or_members(header):
    assert parsed_manifest(manifest(mediaType=...), header).media_type == OCI_MANIFEST


def test_index_without_media_type_is_told_by_its_members():
    assert parsed_index(index("linux/amd64", mediaType=...)).media_type == OCI_INDEX


def test_header_with_parameters_and_capitals_is_understood():
    parsed_manifest(manifest(), "Application/vnd.OCI.image.manifest.v1+json; charset=utf-8")


def test_escaped_text_is_read():
    escaped = dump(manifest(annotations={"a": "ä\U0001f600"}))
    assert b"\\ud83d" in escaped
    result = parse_manifest(escaped, None)
    assert result.annotations == {"a": "ä\U0001f600"}


def test_unknown_members_and_null_maps_are_ignored():
    document = manifest(
        annotations=None,
        subject={"x": 1},
        layers=[descriptor(1, annotations=None, urls=["https://x"], data="eA==")],
    )
    assert parsed_manifest(document).annotations == {}


@pytest.mark.parametrize(
    ("document", "header", "reason"),
    [
        (manifest(), DOCKER_MANIFEST, "announced"),
        (manifest(), OCI_INDEX, "announced"),
        (manifest(), "text/html", "announced as 'text/html'"),
        (manifest(mediaType=...), "text/html", "'text/html' is none"),
        (manifest(mediaType=7), None, "mediaType that is not a text"),
        (manifest(mediaType="application/x"), None, "'application/x' is none"),
        (manifest(schemaVersion=1), None, "schema 1"),
        (
            {"schemaVersion": 1, "fsLayers": []},
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "schema 1",
        ),
        (manifest(schemaVersion=...), None, "schemaVersion 2"),
        (manifest(schemaVersion="2"), None, "schemaVersion 2"),
        (manifest(schemaVersion=2.0), None, "schemaVersion 2"),
        (manifest(schemaVersion=True), None, "schemaVersion 2"),
        (manifest(manifests=[]), None, "member 'manifests'"),
        (manifest(fsLayers=[]), None, "member 'fsLayers'"),
        (manifest(manifests=[], mediaType=...), None, "member 'config'"),
        (index(layers=[]), None, "member 'layers'"),
        (index(config={}), None, "member 'config'"),
        (index(manifests=...), None, "'manifests' of the index is missing"),
        (index(manifests={}), None, "'manifests' of the index is not valid"),
        (manifest(layers=...), None, "'layers' of the manifest is missing"),
        (manifest(layers=None), None, "'layers' of the manifest is not valid"),
        (manifest(layers="abc"), None, "'layers' of the manifest is not valid"),
        (manifest(layers=[None]), None, "'layers.0'"),
        (manifest(config=...), None, "'config' of the manifest is missing"),
        (
            manifest(config=descriptor(0, "application/vnd.oci.empty.v1+json")),
            None,
            "not of a container image",
        ),
        (
            manifest(config=descriptor(0, OCI_CONFIG, size=MAX_CONFIG_BYTES + 1)),
            None,
            "config of the image is larger",
        ),
        (manifest(layers=[descriptor(n) for n in range(MAX_LAYERS + 1)]), None, "513 layers"),
        (manifest(layers=[descriptor(1, size=-1)]), None, "'layers.0.size'"),
        (manifest(layers=[descriptor(1, size=2**62)]), None, "'layers.0.size'"),
        (manifest(layers=[descriptor(1, size=1.0)]), None, "'layers.0.size'"),
        (manifest(layers=[descriptor(1, size="1")]), None, "'layers.0.size'"),
        (manifest(layers=[descriptor(1, size=True)]), None, "'layers.0.size'"),
        (manifest(layers=[descriptor(1, digest="sha256:xyz")]), None, "digest 'sha256:xyz'"),
        (manifest(layers=[descriptor(1, digest=digest(1) + "\n")]), None, "digest 'sha256:"),
        (manifest(layers=[descriptor(1, digest="md5:" + "a" * 32)]), None, "digest 'md5:"),
        (
            manifest(layers=[descriptor(1, "application/x-tar")]),
            None,
            "unsupported media type 'application/x-tar'",
        ),
        (
            manifest(layers=[descriptor(1, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")]),
            None,
            "not distributable",
        ),
        (
            manifest(layers=[descriptor(1, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]),
            None,
            "not distributable",
        ),
        (manifest(annotations={"a": 1}), None, "'annotations.a'"),
        (manifest(annotations=[]), None, "'annotations'"),
    ],
)
def test_manifest_that_breaks_the_specification_is_refused(document, header, reason):
    with pytest.raises(InvalidManifest, match=reason) as caught:
        parse_manifest(dump(document), header)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"<html>", "not valid JSON"),
        (rb'{"a": "\ud800"}', "not valid JSON"),
        (rb'{"\udc00": 1}', "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"schemaVersion": NaN}', "not valid JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"schemaVersion":2,"schemaVersion":2}', "names 'schemaVersion' twice"),
        (b'{"x":{"' + b"k" * 500 + b'":1,"' + b"k" * 500 + b'":2}}', "twice"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "larger than 4194304"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_two_readers_could_read_differently_is_refused(data, reason):
    with pytest.raises(InvalidManifest, match=reason) as caught:
        parse_manifest(data, None)
    assert len(caught.value.message) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([manifest(), index("linux/amd64", "linux/arm/v7"), config()]), st.data())
def test_any_change_to_a_document_is_parsed_or_refused(document, data):
    document = json.loads(json.dumps(document))
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not node[key] or not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    for parse in (lambda raw: parse_manifest(raw, None), parse_config):
        try:
            result = parse(dump(document))
        except InvalidManifest as error:
            text = error.message
        else:
            text = str(result.timestamp) + str(result.version) if isinstance(result, ImageConfig) else ""
        assert "\n" not in text


# Digests


@pytest.mark.parametrize(("name", "length"), [("sha256", 64), ("sha384", 96), ("sha512", 128)])
def test_digest_is_taken_apart(name, length):
    assert parse_digest(f"{name}:{'a' * length}") == (name, "a" * length)
    with pytest.raises(InvalidManifest):
        parse_digest(f"{name}:{'a' * (length - 1)}")


# Config


def test_config_is_parsed():
    result = parse_config(dump(config()))
    assert (result.architecture, result.os, result.variant) == ("amd64", "linux", None)
    assert result.labels == {"containers.bootc": "1"}
    assert result.diff_ids == (digest(1), digest(2))
    assert result.created_at == datetime(2026, 1, 2, 2, 4, 5, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("inner", [..., None, {}, {"Labels": None}])
def test_config_without_labels_has_none(inner):
    assert parse_config(dump(config(config=inner))).labels == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": ...}, "'architecture' of the image config is missing"),
        ({"architecture": ""}, "'architecture'"),
        ({"architecture": "amd64\n"}, "'architecture'"),
        ({"os": None}, "'os'"),
        ({"variant": 7}, "'variant'"),
        ({"created": 12}, "'created'"),
        ({"rootfs": ...}, "'rootfs' of the image config is missing"),
        ({"rootfs": {"type": "other", "diff_ids": []}}, "'rootfs.type'"),
        ({"rootfs": {"type": "layers"}}, "'rootfs.diff_ids'"),
        ({"rootfs": {"type": "layers", "diff_ids": ["abc"]}}, "digest 'abc'"),
        ({"rootfs": {"type": "layers", "diff_ids": [digest(1)] * 513}}, "513 layers"),
        ({"config": {"Labels": {"a": 1}}}, "'config.Labels.a'"),
        ({"config": []}, "'config'"),
    ],
)
def test_config_that_breaks_the_specification_is_refused(changes, reason):
    with pytest.raises(InvalidManifest, match=reason):
        parse_config(dump(config(**changes)))


@pytest.mark.parametrize(
    ("labels", "version"),
    [
        ({}, None),
        ({"version": "1"}, "1"),
        ({"org.opencontainers.image.version": "2", "version": "1"}, "2"),
        ({"version": "1\0"}, None),
        ({"version": "\x1b[2J"}, None),
        ({"version": "v" * 257}, None),
    ],
)
def test_version_comes_from_the_labels_and_can_be_shown(labels, version):
    assert parse_config(dump(config(config={"Labels": labels}))).version == version


@pytest.mark.parametrize(
    ("label", "created", "expected"),
    [
        (None, "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2025-01-01T00:00:00Z", "2026-01-02T03:04:05Z", "2025-01-01T00:00:00Z"),
        ("yesterday", "2026-01-02T03:04:05Z", None),
        (None, None, None),
    ],
)
def test_timestamp_comes_from_the_label_before_the_config(label, created, expected):
    labels = {"org.opencontainers.image.created": label} if label else {}
    assert parse_config(dump(config(created=created, config={"Labels": labels}))).timestamp == expected


def test_layers_and_diff_ids_must_be_as_many():
    check_layers(parsed_manifest(manifest()), parse_config(dump(config())))
    with pytest.raises(InvalidManifest, match=r"1 layers .* 2 diff_ids"):
        check_layers(parsed_manifest(manifest(layers=[descriptor()])), parse_config(dump(config())))


# Platforms


@pytest.mark.parametrize(
    ("offered", "architecture", "variant", "chosen"),
    [
        (["linux/amd64", "linux/arm64"], "arm64", None, 1),
        (["linux/arm64/v8"], "arm64", None, 0),
        (["linux/arm64"], "arm64", "v8", 0),
        (["linux/arm64", "linux/arm64/v8"], "arm64", "v8", 0),
        (["linux/arm64/v9", "linux/arm64/v8"], "arm64", "v8", 1),
        (["linux/arm64/v8", "linux/arm64/v9"], "arm64", "v9.2", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "arm", "v7", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "arm", "v6", 2),
        (["linux/arm/v5", "linux/arm/v6"], "arm", "v7", 1),
        (["linux/arm/v6", "linux/arm"], "arm", "v7", 1),
        (["linux/amd64/v3", "linux/amd64"], "amd64", None, 1),
        (["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "amd64", "v3", 1),
        (["linux/amd64/odd", "linux/amd64"], "amd64", "odd", 0),
        (["windows/amd64", "linux/amd64", "linux/amd64"], "amd64", None, 1),
        (["unknown/unknown", "linux/s390x"], "s390x", None, 1),
    ],
)
def test_platform_is_chosen_by_the_best_variant_that_runs(offered, architecture, variant, chosen):
    assert select_platform(parsed_index(index(*offered)), architecture, variant).digest == digest(chosen)


@pytest.mark.parametrize(
    ("offered", "architecture", "variant"),
    [
        (["linux/amd64"], "arm64", None),
        (["linux/arm64"], "arm", "v7"),
        (["linux/arm/v7"], "arm", "v6"),
        (["linux/arm"], "arm", "v6"),
        (["linux/amd64/v2"], "amd64", None),
        (["linux/amd64/odd"], "amd64", "v3"),
        (["windows/amd64"], "amd64", None),
    ],
)
def test_missing_platform_is_reported_with_what_is_offered(offered, architecture, variant):
    with pytest.raises(NoMatchingPlatform) as caught:
        select_platform(parsed_index(index(*offered)), architecture, variant)
    assert caught.value.message.endswith(f"only for {offered[0]}")
    assert f"linux/{architecture}" in caught.value.message


def test_offered_platforms_are_shown_bounded_and_escaped():
    offered = [f"linux/{'x' * 500}\n{n}" for n in range(200)]
    with pytest.raises(NoMatchingPlatform) as caught:
        select_platform(parsed_index(index(*offered)), "amd64")
    assert len(caught.value.message) < 2000
    assert caught.value.message.isprintable()


def test_empty_index_offers_nothing():
    with pytest.raises(NoMatchingPlatform, match="only for none"):
        select_platform(parsed_index(index()), "amd64")


def test_lone_entry_without_platform_is_taken():
    lone = parsed_index(index(manifests=[descriptor(4, DOCKER_MANIFEST)]))
    assert select_platform(lone, "amd64").digest == digest(4)
    two = parsed_index(index(manifests=[descriptor(4, OCI_MANIFEST), descriptor(5, OCI_MANIFEST)]))
    with pytest.raises(NoMatchingPlatform):
        select_platform(two, "amd64")


@pytest.mark.parametrize(
    "entry",
    [
        descriptor(1, OCI_INDEX, platform={"os": "linux", "architecture": "amd64"}),
        descriptor(1, DOCKER_LIST),
    ],
)
def test_nested_index_is_refused(entry):
    with pytest.raises(InvalidManifest, match="another index"):
        select_platform(parsed_index(index(manifests=[entry])), "amd64")


def test_chosen_manifest_over_the_limit_is_refused():
    platform = {"os": "linux", "architecture": "amd64"}
    entry = descriptor(1, OCI_MANIFEST, platform=platform, size=MAX_MANIFEST_BYTES + 1)
    with pytest.raises(InvalidManifest, match="larger than"):
        select_platform(parsed_index(index(manifests=[entry])), "amd64")


def test_entry_that_is_no_image_is_passed_over():
    platform = {"os": "linux", "architecture": "amd64"}
    entries = [
        descriptor(1, "application/vnd.in-toto+json", platform=platform),
        descriptor(2, OCI_MANIFEST, platform=platform),
    ]
    assert select_platform(parsed_index(index(manifests=entries)), "amd64").digest == digest(2)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", ("amd64", None)),
        ("aarch64", ("arm64", "v8")),
        ("armv7l", ("arm", "v7")),
        ("armv6l", ("arm", "v6")),
        ("i686", ("386", None)),
        ("ppc64le", ("ppc64le", None)),
        ("s390x", ("s390x", None)),
        ("riscv64", ("riscv64", None)),
        ("loongarch64", ("loong64", None)),
    ],
)
def test_machine_has_its_oci_architecture(machine, expected):
    assert host_architecture(machine) == expected


def test_unknown_machine_is_unsupported():
    with pytest.raises(Unsupported, match="'vax'"):
        host_architecture("vax")


def test_descriptor_is_built_by_field_name_too():
    built = Descriptor(media_type=OCI_LAYER, digest=digest(1), size=1)
    assert built.compression == "none"
