"""What is in an image, found out before anything is written: kernel, boot loader, settings, size.

The layers are read one after the other, and of each file only its name and size are kept, or its
content where that decides something. So an image that cannot boot, or does not fit, is refused while
the disk is still as it was. What the survey found is no promise: the import looks at everything once more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from bootcd.install.settings import DIRECTORIES, MAX_FILE_BYTES
from bootcd.model.errors import NotBootable
from bootcd.oci.manifest import Descriptor, ImageConfig, ImageManifest
from bootcd.oci.tar import EntryType, TarEntry, TarReader
from bootcd.ostree.fetch import OpenBlob
from bootcd.ostree.layer import unpack
from bootcd.ostree.prepare_root import CONFIG_PATHS
from bootcd.ostree.stream import BytePipe, ByteSource, cancelled
from bootcd.ostreefmt.paths import REPO_PREFIX, Delete, Marker, whiteout_target

BOUND_IMAGES = "usr/lib/bootc/bound-images.d"
_QUADLET = r"(?:usr/share|(?:usr/)?etc)/containers/systemd/.+\.(?:image|container)"
"What a bound image's link leads to, by all advice there is."
_PIPE_BYTES = 8 << 20
_FILES_LIMIT = 4096
"Settings and boot loader files an image may have; more is an attempt to fill the memory."

# Everything an answer below needs; all else of a layer is only counted.
_WANTED = re.compile(
    r"usr/lib/modules/[^/]+/(?:vmlinuz|initramfs\.img|[^/]+\.efi)"
    r"|boot/EFI/Linux/[^/]+\.efi"
    rf"|(?:{'|'.join(DIRECTORIES[:3])})/[^/]+\.toml"
    rf"|{'|'.join(CONFIG_PATHS)}"
    r"|(?:usr/)?etc/selinux/config|(?:usr/)?etc/selinux/[^/]+/policy/policy\.[0-9]+"
    r"|usr/s?bin/(?:bootupctl|grub2?-mkimage|zipl)"
    r"|usr/lib/bootupd/updates/.+"
    r"|usr/lib/efi/.+\.(?:efi|EFI|CSV)"
    r"|usr/lib/grub/[^/]+/(?:moddep\.lst|blsuki\.mod|blscfg\.mod)"
    r"|usr/lib/systemd/boot/efi/[^/]+\.efi"
    rf"|{BOUND_IMAGES}/[^/]+|{_QUADLET}"
)
_READ = re.compile(rf".*\.toml|.*prepare-root\.conf|.*etc/selinux/config|{BOUND_IMAGES}/[^/]+|{_QUADLET}")
_KERNEL = re.compile(r"usr/lib/modules/([^/]+)/vmlinuz")
_UKI = re.compile(r"(?:boot/EFI/Linux|usr/lib/modules/[^/]+)/[^/]+\.efi")
_SELINUX_OFF = re.compile(rb"^[ \t]*SELINUX=disabled[ \t]*$", re.MULTILINE)


@dataclass(slots=True)
class Survey:
    """The files of an image that matter to its installation, by path without a slash at the start."""

    files: dict[str, bytes | None] = field(default_factory=dict)
    "With the content of those that are read."
    links: dict[str, str] = field(default_factory=dict)
    "Where those that are symbolic links lead."
    content_bytes: int = 0
    "Of all regular files of all layers: no less than what is deployed."

    @property
    def kernels(self) -> list[str]:
        return sorted(m[1] for path in self.files if (m := _KERNEL.fullmatch(path)))

    def has(self, *paths: str) -> bool:
        """Whether any of these files is there."""
        return any(path in self.files for path in paths)

    def below(self, directory: str) -> list[str]:
        """Return the files that matter below a directory."""
        return sorted(path for path in self.files if path.startswith(f"{directory}/"))

    def settings_files(self) -> list[tuple[str, bytes]]:
        """Return the drop-ins of the image in the order `merge_files` takes them."""
        return [
            (f"/{path}", self.files[path] or b"")
            for directory in DIRECTORIES
            for path in self.below(directory)
            if path.endswith(".toml")
        ]

    @property
    def enforces_selinux(self) -> bool:
        """Whether the image has a policy it loads at boot."""
        config = next((self.files[p] for p in ("etc/selinux/config",) if p in self.files), None)
        has_policy = any("/selinux/" in path and "/policy/" in path for path in self.files)
        return has_policy and not _SELINUX_OFF.search(config or b"")

    def require_kernel(self, reference: str) -> None:
        """Refuse an image that has no kernel, or boots in a way that cannot be installed.

        Raises NotBootable.
        """
        if len(self.kernels) == 1:
            return
        if not self.kernels and any(_UKI.fullmatch(path) for path in self.files):
            raise NotBootable(
                f"{reference} has a unified kernel image, which only a composefs-native host boots",
                hint="install it with: bootc install to-disk --composefs-backend",
            )
        raise NotBootable(
            f"{reference} has {len(self.kernels) or 'no'} kernels in /usr/lib/modules, one is needed",
            hint="a host image holds one directory there with vmlinuz and initramfs.img",
        )


async def survey_image(
    manifest: ImageManifest,
    config: ImageConfig,
    open_blob: OpenBlob,
    *,
    on_layer: Callable[[int], None] = lambda size: None,
) -> Survey:
    """Read all layers once; every digest is checked on the way.

    Args:
        on_layer: called with the compressed size of each layer that was read.
    Raises: what `open_blob` raises, InvalidLayer, DigestMismatch.
    """
    survey = Survey()
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        found = await _read(layer, diff_id, open_blob, frozenset())
        if found.unread:
            # A hard link to a file that lay before it and was not kept: now it is known which ones matter.
            found = await _read(layer, diff_id, open_blob, frozenset(found.unread))
        _apply(survey, found)
        on_layer(layer.size)
    return survey


@dataclass(slots=True)
class _Layer:
    files: dict[str, bytes | None] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    content_bytes: int = 0


async def _read(layer: Descriptor, diff_id: str, open_blob: OpenBlob, wanted: frozenset[str]) -> _Layer:
    loop = asyncio.get_running_loop()
    pipe = BytePipe(loop, limit_bytes=_PIPE_BYTES)
    what = f"layer {layer.digest[:19]}"

    def read_or_abort() -> _Layer:
        try:
            return unpack(
                pipe,
                lambda source: _scan(source, wanted),
                compression=layer.compression,
                compressed_bytes=layer.size,
                diff_id=diff_id,
                what=what,
            )
        except BaseException as error:
            pipe.abort(error)
            raise

    reader = loop.run_in_executor(None, read_or_abort)
    try:
        await _feed(pipe, open_blob(layer))
        return await asyncio.shield(reader)
    except BaseException as error:
        pipe.abort(cancelled() if isinstance(error, asyncio.CancelledError) else error)
        await asyncio.wait([reader])
        if not reader.cancelled():
            reader.exception()
        raise


async def _feed(pipe: BytePipe, blob: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(blob) as chunks:
        async for chunk in chunks:
            if not await pipe.feed(chunk):
                return
    pipe.end()


def _scan(source: ByteSource, wanted: frozenset[str]) -> _Layer:
    """Read an archive; `wanted` are files to keep besides, because what matters is a hard link to them."""
    found = _Layer()
    reader = TarReader(source)
    for entry in reader:
        path = entry.name.removeprefix("./").strip("/")
        if entry.type is EntryType.FILE:
            found.content_bytes += entry.size
            if path in wanted:
                found.objects[path] = _content(reader)
        elif entry.type is EntryType.SYMLINK and path in wanted:
            found.links[path] = entry.linkname
        if path.startswith(REPO_PREFIX):
            continue
        parent, _, name = path.rpartition("/")
        hidden = whiteout_target(name)
        if isinstance(hidden, Delete):
            found.removed.append(f"{parent}/{hidden.name}".strip("/"))
        elif hidden is Marker.OPAQUE:
            found.emptied.append(parent)
        elif _WANTED.fullmatch(path) and entry.type is not EntryType.DIRECTORY:
            if len(found.files) >= _FILES_LIMIT:
                raise NotBootable(f"the image has more than {_FILES_LIMIT} boot loader files and settings")
            found.files[path] = _kept(found, path, entry, reader) if _READ.fullmatch(path) else None
    reader.drain()
    return found


def _kept(found: _Layer, path: str, entry: TarEntry, reader: TarReader) -> bytes | None:
    if entry.type is EntryType.FILE:
        return found.objects[path] if path in found.objects else _content(reader)
    if entry.type is EntryType.SYMLINK:
        found.links[path] = entry.linkname
    if entry.type is EntryType.HARDLINK:
        target = entry.linkname.removeprefix("./").strip("/")
        if target in found.links:
            found.links[path] = found.links[target]
            return None
        content = found.objects.get(target, found.files.get(target))
        if content is None:
            found.unread.add(target)
        return content
    return None


def _content(reader: TarReader) -> bytes:
    """Return what is kept of a file; one that is too large is cut where its parser notices."""
    content = bytearray()
    for chunk in reader.read_chunks():
        content += chunk[: MAX_FILE_BYTES + 1 - len(content)]
        if len(content) > MAX_FILE_BYTES:
            break
    return bytes(content)


def _apply(survey: Survey, layer: _Layer) -> None:
    below = [f"{path}/" for path in (*layer.removed, *layer.emptied) if path]
    gone = set(layer.removed)
    everything = "" in layer.emptied
    survey.files = {
        path: content
        for path, content in survey.files.items()
        if not everything and path not in gone and not path.startswith(tuple(below))
    }
    kept = survey.files.keys() - layer.files.keys()
    survey.links = {path: target for path, target in survey.links.items() if path in kept}
    survey.files |= layer.files
    survey.links |= {path: target for path, target in layer.links.items() if path in layer.files}
    survey.content_bytes += layer.content_bytes
