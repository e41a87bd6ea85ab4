"""An image written anew, with layers that follow what changes together.

    layers -> tree -> files by component -> plan -> layers, config, manifest -> layout

The same image, options and versions before it give the same bytes, with the same release of zstd; the
digests of the uncompressed layers do not depend on that.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bootcd.engine.source import ImageSource, open_source, parse_source
from bootcd.image.archive import Item
from bootcd.image.database import find_owners
from bootcd.image.destination import Destination, open_destination
from bootcd.image.flatten import Spool, Tree, apply_layer
from bootcd.image.grouping import (
    UNPACKAGED,
    Grouping,
    count_changes,
    directories_of,
    empty_directories,
    fingerprints,
    group_files,
    is_package,
    keep_times,
    size_of,
)
from bootcd.image.layering import Component, Layering, plan_layers
from bootcd.image.layout import LayoutWriter, WrittenLayer, to_json
from bootcd.image.owners import is_database
from bootcd.image.packing import Compression, Packing
from bootcd.image.push import push_image
from bootcd.image.report import RechunkReport, Transfer, UpgradeReport
from bootcd.image.repository import Repository
from bootcd.model.errors import InvalidArguments, InvalidManifest, Unsupported
from bootcd.model.job import WorkerSettings
from bootcd.oci.changes import layer_changes
from bootcd.oci.manifest import (
    MANIFEST_MEDIA_TYPES,
    MAX_CONFIG_BYTES,
    ImageManifest,
    host_architecture,
    parse_manifest,
)
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.resolve import ResolvedImage, digest_of
from bootcd.oci.strictjson import parse_object
from bootcd.ostree.image import FINAL_DIFF_ID
from bootcd.ostree.layer import unpack
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.partial import MAX_TABLES_BYTES
from bootcd.ostree.stream import BytePipe, ByteSource, cancelled
from bootcd.ostreefmt.origin import REGISTRY

COMPONENTS = "org.bootcd.layer.components"
"Annotation of a layer: a JSON array of the components in it, by which the next version keeps its layout."

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_PIPE_BYTES = 4 << 20
_WRITERS = 4
_CREATED_BY = "bootcd-image rechunk"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; images are by the names it has for them."""

    source: str
    destination: str
    previous: tuple[str, ...] = ()
    "Older versions, the oldest first."
    max_layers: int = 64
    packing: Packing = field(default_factory=Packing)
    architecture: str = ""
    "As in the platform of an index; the machine's own if empty."
    spool: Path = Path("/var/tmp")  # noqa: S108 - files there have no names
    settings: WorkerSettings = field(default_factory=WorkerSettings)
    authfile: str = ""
    plain_http: bool = False
    progress: Callable[[str], object] = lambda _: None
    "Is told what is being done, now and then; on the event loop."


@dataclass(frozen=True, slots=True)
class _Version:
    """An image that was read."""

    name: str
    image: ResolvedImage
    tree: Tree
    grouping: Grouping
    database: str
    prints: dict[str, bytes]


async def rechunk(options: Options) -> RechunkReport:
    """Write the image anew. Nothing of the destination is changed before all of it is there.

    Raises what reading and writing images raises, InvalidArguments and Unsupported.
    """
    destination = Destination.parse(options.destination)
    if destination.reference is None:
        return await _rechunk(options, destination, None)
    with await Repository.open(
        destination.reference,
        authfile=options.authfile,
        plain_http=options.plain_http,
        ca_file=options.settings.ca_file,
    ) as repository:
        # Told at once, and not after all the work.
        await asyncio.to_thread(repository.require_writable)
        return await _rechunk(options, destination, repository)


async def _rechunk(
    options: Options, destination: Destination, repository: Repository | None
) -> RechunkReport:
    if not options.spool.is_dir():
        raise InvalidArguments(
            f"there is no directory {options.spool} to keep the files of the image in",
            hint="name one with --spool-dir",
        )
    history: list[dict[str, bytes]] = []
    previous: _Version | None = None
    with host_errors("keep the files of the image", path=str(options.spool)):
        for name in options.previous:
            with Spool(options.spool) as spool:
                previous = await _read(name, options, spool, is_database)
            history.append(previous.prints)
        with Spool(options.spool) as spool:
            version = await _read(options.source, options, spool, lambda _: True)
            keep_times(version.tree, previous.tree if previous else {})
            layering = _plan(version, history, previous, options.max_layers)
            with (
                host_errors("write the image", path=str(options.spool if repository else destination.path)),
                open_destination(destination, options.spool) as layout,
            ):
                layers = await _write_layers(layout, version, layering, spool, options)
                manifest = _write_image(
                    layout, version.image, layering, layers, options.packing, destination.tag
                )
                sent = None
                if repository:
                    mounts = _mounts(previous, repository.reference)
                    sent = await push_image(repository, layout, mounts=mounts, progress=options.progress)
    return _report(options, version, layering, layers, manifest, previous, sent)


def _mounts(previous: _Version | None, reference: ImageReference) -> dict[str, str]:
    """Return what another repository of the registry has: the layers of the older version."""
    if previous is None or (tracked := parse_source(previous.name)).transport != REGISTRY:
        return {}
    other = parse_reference(tracked.name)
    if other.registry != reference.registry or other.repository == reference.repository:
        return {}
    return {layer.digest: other.repository for layer in previous.image.manifest.layers}


async def _read(name: str, options: Options, spool: Spool, keeps: Callable[[str], bool]) -> _Version:
    async with _opened(name, options) as source:
        architecture, variant = options.architecture, None
        if not architecture:
            architecture, variant = host_architecture(os.uname().machine)
        image = await source.resolve(architecture=architecture, variant=variant)
        if FINAL_DIFF_ID in image.config.labels:
            raise Unsupported(
                f"{name} is made from an ostree commit, and its layers are those of its components already"
            )
        tree: Tree = {}
        for number in range(count := len(image.manifest.layers)):
            options.progress(f"Reading layer {number + 1} of {count} of {name}")
            await _apply(tree, source, image, number, spool, keeps)
    owners, database = await asyncio.to_thread(find_owners, tree, spool)
    grouping = group_files(tree, owners)
    return _Version(name, image, tree, grouping, database, fingerprints(grouping))


@asynccontextmanager
async def _opened(name: str, options: Options) -> AsyncIterator[ImageSource]:
    tracked = parse_source(name)
    settings = options.settings
    if options.plain_http and tracked.transport == REGISTRY:
        insecure = frozenset({parse_reference(tracked.name).registry})
        settings = settings.model_copy(update={"insecure_registries": insecure})
    async with open_source(tracked, settings) as source:
        yield source


async def _apply(
    tree: Tree,
    source: ImageSource,
    image: ResolvedImage,
    number: int,
    spool: Spool,
    keeps: Callable[[str], bool],
) -> None:
    layer, diff_id = image.manifest.layers[number], image.config.diff_ids[number]
    pipe = BytePipe(asyncio.get_running_loop(), limit_bytes=_PIPE_BYTES)

    def read(plain: ByteSource) -> None:
        apply_layer(tree, plain, spool, keeps)

    def work() -> None:
        try:
            unpack(
                pipe,
                read,
                compression=layer.compression,
                compressed_bytes=layer.size,
                diff_id=diff_id,
                what=f"layer {layer.digest[:19]}",
            )
        except BaseException as error:
            pipe.abort(error)
            raise

    reader = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        async with aclosing(source.open_blob(layer)) as chunks:
            async for chunk in chunks:
                if not await pipe.feed(chunk):
                    break
            else:
                pipe.end()
    except BaseException as error:
        pipe.abort(cancelled() if isinstance(error, asyncio.CancelledError) else error)
        await asyncio.wait([reader])
        reader.exception()
        raise
    await reader


def _plan(
    version: _Version, history: Sequence[dict[str, bytes]], previous: _Version | None, max_layers: int
) -> Layering:
    """Return the layers; that of no component is the files no package owns."""
    versions = [*history, version.prints]
    changes = count_changes(versions)
    if max_layers == 1:
        return (tuple(sorted({*version.grouping, UNPACKAGED})),)
    components = [
        Component(name, size_of(members), changes[name])
        for name, members in version.grouping.items()
        if name != UNPACKAGED
    ]
    before = layering_of(previous.image.manifest) if previous else ()
    planned = plan_layers(components, max_layers=max_layers - 1, steps=len(versions) - 1, previous=before)
    if planned and UNPACKAGED not in version.grouping and not empty_directories(version.tree):
        return planned
    return (*planned, (UNPACKAGED,))


def layering_of(manifest: ImageManifest) -> Layering:
    """Return what the layers of an image say about what is in them, if it was rechunked."""
    found = []
    for layer in manifest.layers:
        try:
            names = json.loads(layer.annotations.get(COMPONENTS, "[]"))
        except ValueError:
            continue
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            found.append(tuple(names))
    return tuple(found)


async def _write_layers(
    layout: LayoutWriter, version: _Version, layering: Layering, spool: Spool, options: Options
) -> list[WrittenLayer]:
    empty = empty_directories(version.tree)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(min(_WRITERS, os.cpu_count() or 1)) as threads:
        running = [
            loop.run_in_executor(
                threads,
                layout.add_layer,
                _items(version, components, empty if UNPACKAGED in components else []),
                spool,
                options.packing,
            )
            for components in layering
        ]
        left = len(running)

        def tell(_: object) -> None:
            nonlocal left
            left -= 1
            options.progress(f"Writing layers: {len(running) - left} of {len(running)}")

        for each in running:
            each.add_done_callback(tell)
        try:
            return await asyncio.gather(*running)
        except BaseException:
            spool.stop()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def _items(version: _Version, components: Sequence[str], directories: Sequence[str]) -> Iterator[Item]:
    """Yield what goes into a layer by path: a directory before what is in it, a file before links to it."""
    tree = version.tree
    first: dict[str, str] = {}
    for component in components:
        for member in version.grouping.get(component, ()):
            first |= dict.fromkeys(member.names, member.names[0])
    paths = {*first, *directories, *directories_of(tree, [*first, *directories])}
    for path in sorted(paths):
        leader = first.get(path, path)
        yield Item(path, tree[path], "" if leader == path else leader)


def _write_image(
    layout: LayoutWriter,
    image: ResolvedImage,
    layering: Layering,
    layers: Sequence[WrittenLayer],
    packing: Packing,
    tag: str,
) -> bytes:
    config = layout.add_document(_config(image, layering, layers), _CONFIG_TYPE)
    descriptors = []
    for components, layer in zip(layering, layers, strict=True):
        descriptor: dict[str, Any] = {
            "mediaType": packing.media_type,
            "digest": layer.digest,
            "size": layer.size,
        }
        annotations = layer.packed.annotations
        if UNPACKAGED not in components:
            annotations = annotations | {COMPONENTS: json.dumps(components, separators=(",", ":"))}
        if annotations:
            descriptor["annotations"] = annotations
        descriptors.append(descriptor)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_MEDIA_TYPES[0],
        "config": config,
        "layers": descriptors,
    }
    if image.manifest.annotations:
        document["annotations"] = image.manifest.annotations
    manifest = to_json(document)
    layout.name_image(layout.add_document(manifest, MANIFEST_MEDIA_TYPES[0]), tag)
    return manifest


def _config(image: ResolvedImage, layering: Layering, layers: Sequence[WrittenLayer]) -> bytes:
    """Return the config with the new layers; the steps that made the old ones have none any more."""
    config = parse_object(
        image.config_bytes, what="image config", limit_bytes=MAX_CONFIG_BYTES, error=InvalidManifest
    )
    steps = config.get("history")
    kept = [step | {"empty_layer": True} for step in steps or [] if isinstance(step, dict)]
    created = {"created": config["created"]} if "created" in config else {}
    added = [created | {"created_by": _step(components)} for components in layering]
    rootfs = {"type": "layers", "diff_ids": [layer.packed.diff_id for layer in layers]}
    return to_json(config | {"rootfs": rootfs, "history": [*kept, *added]})


def _step(components: Sequence[str]) -> str:
    text = " ".join(components) or "files of no package"
    return f"{_CREATED_BY}: {text if len(text) <= 80 else text[:79] + '…'}"


def _report(
    options: Options,
    version: _Version,
    layering: Layering,
    layers: Sequence[WrittenLayer],
    data: bytes,
    previous: _Version | None,
    sent: Transfer | None,
) -> RechunkReport:
    manifest = parse_manifest(data, None)
    assert isinstance(manifest, ImageManifest), "just written"
    upgrade = None
    if previous:
        changed = [
            layer
            for components, layer in zip(layering, manifest.layers, strict=True)
            if any(previous.prints.get(name) != version.prints.get(name) for name in components)
        ]
        upgrade = UpgradeReport(
            previous=previous.name,
            before=_transfer(previous.image.manifest, version.image.manifest),
            after=_transfer(previous.image.manifest, manifest),
            by_files=_by_files(previous, layers),
            aligned=Transfer(layers=len(changed), bytes=sum(layer.size for layer in changed)),
            previous_is_rechunked=bool(layering_of(previous.image.manifest)),
        )
    is_chunked = options.packing.compression is Compression.CHUNKED
    whole = [layer for layer in layers if is_chunked and _is_whole(layer)]
    return RechunkReport(
        source=options.source,
        destination=options.destination,
        digest=digest_of(data),
        database=version.database,
        components=sum(map(is_package, version.grouping)),
        unpackaged_bytes=sum(m.node.entry.size for m in version.grouping.get(UNPACKAGED, [])),
        before=_whole(version.image.manifest),
        after=_whole(manifest),
        sent=sent,
        whole=Transfer(layers=len(whole), bytes=sum(layer.size for layer in whole)),
        upgrade=upgrade,
    )


def _by_files(previous: _Version, layers: Sequence[WrittenLayer]) -> Transfer:
    """Return what is fetched of new layers by a host that takes no file twice."""
    held = {layer.digest for layer in previous.image.manifest.layers}
    new = {layer.digest: layer for layer in layers if layer.digest not in held}
    known = {node.sha256 for node in previous.tree.values()}
    parted = [layer for layer in new.values() if not _is_whole(layer)]
    files = {sha: size for layer in parted for sha, size in layer.packed.files if sha not in known}
    tables = sum(layer.packed.table_bytes for layer in parted)
    whole = sum(layer.size for layer in new.values() if _is_whole(layer))
    return Transfer(layers=len(new), bytes=tables + whole + sum(files.values()))


def _is_whole(layer: WrittenLayer) -> bool:
    """Tell whether hosts do not fetch parts of a layer."""
    return not 0 < layer.packed.table_bytes <= MAX_TABLES_BYTES


def _transfer(old: ImageManifest, new: ImageManifest) -> Transfer:
    changes = layer_changes(old, new)
    return Transfer(layers=changes.added_layers, bytes=changes.added_bytes)


def _whole(manifest: ImageManifest) -> Transfer:
    return Transfer(layers=len(manifest.layers), bytes=sum(layer.size for layer in manifest.layers))
