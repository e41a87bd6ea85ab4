"""What is fuzzed: each parser of bytes from strangers, with what must hold whatever the bytes are.

A target returns if the bytes are refused as they should be, by a typed error, or if what was made of
them keeps its promises; anything else is a finding. A new parser gets an entry in `TARGETS` and a
directory `corpus/<name>/` with inputs of every kind it knows, good and bad.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit

from bootcd.image.flatten import Spool, Tree, apply_layer, parents
from bootcd.image.owners import apk_owners, dpkg_owners, owner_of, rpm_owners
from bootcd.model.errors import (
    InvalidConfig,
    InvalidImage,
    InvalidLayer,
    InvalidManifest,
    RegistryProtocolError,
    SignatureRejected,
)
from bootcd.oci.authfile import parse_authfile, parse_helper_answer
from bootcd.oci.challenge import MAX_CHALLENGES, parse_challenges, parse_token, token_request
from bootcd.oci.chunked import (
    CHECKSUM,
    POSITION,
    TAR_SPLIT_POSITION,
    Table,
    footer,
    layer_annotations,
    layer_layout,
    parse_footer,
    write_table,
)
from bootcd.oci.manifest import ImageIndex, check_layers, parse_config, parse_digest, parse_manifest
from bootcd.oci.reference import MAX_NAME_CHARS, parse_reference
from bootcd.oci.registries import parse_registries
from bootcd.oci.tar import MAX_NAME_BYTES, TarReader
from bootcd.oci.tarsplit import Payload, file_line, read_tar_split, segment_line
from bootcd.oci.tarwrite import END, header
from bootcd.oci.trust.attachment import MAX_ATTACHMENTS, parse_referrers, parse_signature_manifest
from bootcd.oci.trust.bundle import parse_bundle, parse_log_annotation, parse_log_body, parse_statement
from bootcd.oci.trust.payload import parse_payload
from bootcd.oci.trust.policy import parse_policy
from bootcd.oci.trust.registriesd import merge_files
from bootcd.oci.trust.scopes import registry_scopes
from bootcd.oci.trust.stored import parse_stored
from bootcd.ostreefmt.packages import DPKG_PATHS
from bootcd.varlink.verbs import VERBS, InvalidParameter, checked
from bootcd.varlink.wire import parse_call

_IMAGE = parse_reference("a.test/os/base:1")


def reference(data: bytes) -> None:
    with suppress(InvalidImage):
        parsed = parse_reference(data.decode(errors="replace"))
        assert parse_reference(str(parsed)) == parsed
        assert len(parsed.name) <= MAX_NAME_CHARS
        assert ".." not in parsed.name.split("/")
        assert str(parsed).isascii()


def manifest(data: bytes) -> None:
    """The first line is the media type of the answer."""
    media_type, _, document = data.partition(b"\n")
    with suppress(InvalidManifest):
        parsed = parse_manifest(document, media_type.decode(errors="replace") or None)
        if isinstance(parsed, ImageIndex):
            entries = list(parsed.manifests)
        else:
            entries = [parsed.config, *parsed.layers]
        for entry in entries:
            parse_digest(entry.digest)
            assert entry.size >= 0


def config(data: bytes) -> None:
    with suppress(InvalidManifest):
        parsed = parse_config(data)
        for diff_id in parsed.diff_ids:
            parse_digest(diff_id)
        assert all(isinstance(text, str) for item in parsed.labels.items() for text in item)
        _ = parsed.version, parsed.created_at, parsed.timestamp


def image(data: bytes) -> None:
    """A manifest and a config that may or may not be of one image, with a zero byte between them."""
    first, _, second = data.partition(b"\0")
    with suppress(InvalidManifest):
        parsed = parse_manifest(first, None)
        if not isinstance(parsed, ImageIndex):
            check_layers(parsed, parse_config(second))


def tar(data: bytes) -> None:
    given = 0
    with suppress(InvalidLayer):
        reader = TarReader(io.BytesIO(data), buffer_bytes=4096)
        for entry in reader:
            assert len(entry.name.encode("utf-8", "surrogateescape")) <= MAX_NAME_BYTES
            for chunk in reader.read_chunks():
                given += len(chunk)
                assert given <= len(data)


def layer(data: bytes) -> None:
    """Applied to nothing and then to what came of it, content aside; the tree can be written again."""
    tree: Tree = {}
    with suppress(InvalidLayer):
        for _ in range(2):
            apply_layer(tree, io.BytesIO(data), cast("Spool", None), lambda _: False)  # type: ignore[arg-type]
        for path, node in tree.items():
            assert ".." not in path.split("/")
            assert all(tree[parent].is_directory for parent in parents(path))
            entry = replace(node.entry, name=path or ".", size=0)
            (read,) = TarReader(io.BytesIO(header(entry) + END))  # type: ignore[arg-type]
            assert read == entry


def chunked(data: bytes) -> None:
    """Annotations of a layer of 100,000 bytes in a line, then its table of contents."""
    line, _, document = data.partition(b"\n")
    texts = line.decode(errors="replace").split("|")
    with suppress(InvalidLayer):
        layout = layer_layout(
            dict(zip((CHECKSUM, POSITION, TAR_SPLIT_POSITION), texts, strict=False)), 100_000
        )
        if layout is None:
            return
        assert layer_layout(layer_annotations(layout), 100_000) == layout
        assert parse_footer(footer(layout), 100_000) == (layout.table, layout.tar_split)
        blocks = [document[at : at + 100] for at in range(0, len(document), 100)]
        table = Table(blocks, data_end=layout.data_end)
        entries = list(table)
        end = 0
        for entry in entries:
            assert ".." not in entry.name.split("/")
            if entry.type == "reg" and entry.size:
                parse_digest(entry.digest)
                assert end <= entry.offset < entry.end_offset <= layout.data_end
                end = entry.end_offset
        if table.tar_split_digest:
            again = write_table(entries, table.tar_split_digest)
            assert list(Table(again, data_end=layout.data_end)) == entries


def tarsplit(data: bytes) -> None:
    with suppress(InvalidLayer):
        found = list(read_tar_split([data]))
        lines = [
            file_line(0, item.name, item.size, bytes(8))
            if isinstance(item, Payload)
            else segment_line(0, item)
            for item in found
        ]
        assert list(read_tar_split(lines)) == found


def owners(data: bytes) -> None:
    """Databases of dpkg (status, a zero byte, a list of files), apk, and what rpm prints."""
    text = data.decode(errors="surrogateescape")
    status, _, listed = text.partition("\0")
    files = {DPKG_PATHS[0]: status, "usr/lib/sysimage/dpkg/info/x.list": listed}
    for found in (dpkg_owners(DPKG_PATHS[0], files), apk_owners(text), rpm_owners(text)):
        assert all(component for component in found.values())
        assert owner_of("usr/bin/x", found, {"bin": "usr/bin"}) in {"", *found.values()}


def challenge(data: bytes) -> None:
    with suppress(RegistryProtocolError):
        offered = parse_challenges(data.decode("latin-1"))
        assert len(offered) <= MAX_CHALLENGES
        for one in offered:
            with suppress(RegistryProtocolError):
                address, _ = token_request(one, "os/base")
                assert urlsplit(address).scheme == "https"
                assert "@" not in urlsplit(address).netloc


def token(data: bytes) -> None:
    with suppress(RegistryProtocolError):
        parsed = parse_token(data)
        assert parsed.value.isascii()
        assert not set(parsed.value) & set(" \r\n")
        assert 0 < parsed.expires_in_secs <= 24 * 3600


def registries(data: bytes) -> None:
    with suppress(InvalidConfig):
        conf = parse_registries(data, "registries.conf")
        assert conf.sources(_IMAGE)
        assert conf.updated(conf).sources(_IMAGE) == conf.sources(_IMAGE)


def authfile(data: bytes) -> None:
    parse_helper_answer(data)
    with suppress(InvalidConfig):
        parsed = parse_authfile(data, "auth.json")
        parsed.helper_for("a.test")
        parsed.lookup("a.test", "os/base")


def signature(data: bytes) -> None:
    """What a simple signature says, and a file that keeps one."""
    for kind in ("atomic", "cosign"):
        with suppress(SignatureRejected):
            parse_digest(parse_payload(data, kind).manifest_digest)
    with suppress(SignatureRejected):
        parse_stored(data)


def bundle(data: bytes) -> None:
    """A sigstore bundle, or one of the documents inside."""
    for parse in (parse_bundle, parse_log_annotation, parse_log_body, parse_statement):
        with suppress(SignatureRejected):
            parse(data)
    for listing in (parse_signature_manifest, parse_referrers):
        with suppress(InvalidManifest):
            assert len(listing(data)) <= MAX_ATTACHMENTS


def varlink(data: bytes) -> None:
    with suppress(ValueError):
        call = parse_call(data)
        assert call.method[0].isupper()
        with suppress(InvalidParameter):
            checked(call.parameters, VERBS["Switch"].parameters())


def policy(data: bytes) -> None:
    with suppress(InvalidConfig):
        matched = parse_policy(data, "policy.json").match("docker", registry_scopes(_IMAGE))
        assert matched.requirements
    with suppress(InvalidConfig):
        merge_files([("site.yaml", data)]).lookaside(registry_scopes(_IMAGE))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(reference, manifest, config, image, tar, challenge, token, registries, authfile),
        *(signature, bundle, policy, varlink, layer, owners, chunked, tarsplit),
    )
}
