"""The image source of local media: what a layout says and holds, read beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, TypeVar

from bootcd.model.errors import BootcdError, Stalled, Unsupported
from bootcd.oci.manifest import Descriptor, ImageManifest
from bootcd.oci.resolve import Document, ResolvedImage, digest_of, resolve_image
from bootcd.oci.trust.attachment import Attachment
from bootcd.oci.trust.registriesd import SignatureStorage
from bootcd.transports import background, verify
from bootcd.transports.archive import Archive
from bootcd.transports.directory import DirectoryImage
from bootcd.transports.docker import DockerArchive
from bootcd.transports.layout import Layout
from bootcd.transports.place import Directory
from bootcd.transports.storage import StorageImage

T = TypeVar("T")


class Format(Protocol):
    """One image, as a transport lays it out. All of it blocks."""

    image: str
    "Transport and name, for messages."

    def current_digest(self) -> str: ...

    def manifest(self, entry: Descriptor | None) -> Document:
        """Return what the name stands for, or an entry of its index, verified."""
        ...

    def config(self, manifest: ImageManifest) -> bytes: ...

    def blob(self, layer: Descriptor) -> Generator[bytes, None, None]:
        """Yield a layer, verified at the end, unless only its diff_id is known."""
        ...

    def close(self) -> None: ...


_Open = Callable[[str, str, str], Format]
"Takes path or name, tag, and the whole name for messages."

_FORMATS: dict[str, _Open] = {
    "containers-storage": lambda name, _, image: StorageImage(name, image),
    "dir": lambda path, _, image: DirectoryImage(Directory(path, image)),
    "docker-archive": lambda path, tag, image: DockerArchive(Archive(path, image), tag),
    "oci": lambda path, tag, image: Layout(Directory(path, image), tag),
    "oci-archive": lambda path, tag, image: Layout(Archive(path, image), tag),
}
TRANSPORTS = frozenset(_FORMATS)


class LocalSource:
    """An image on a local medium. Make one with `open_local`."""

    def __init__(self, files: Format, deadline: float) -> None:
        self._files = files
        self._deadline = deadline

    async def resolve(self, *, architecture: str, variant: str | None = None) -> ResolvedImage:
        """Find the image of a platform, every digest verified.

        Raises MediumUnavailable, InvalidLayout, NotFound, NoMatchingPlatform, InvalidManifest,
        DigestMismatch, Stalled.
        """
        return await resolve_image(self, architecture=architecture, variant=variant)

    async def current_digest(self) -> str:
        return await self._call(self._files.current_digest)

    async def open_blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Stream a blob; chunks are verified only once the iteration has ended by itself."""
        chunks = background.stream(
            lambda: self._files.blob(descriptor), deadline=self._deadline, stalled=self._stalled
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def stored_signatures(self, digest: str, _: SignatureStorage) -> list[bytes]:
        """Return the files that may hold signatures of a manifest; only directories keep any."""
        files = self._files
        return await self._call(lambda: files.signatures(digest)) if isinstance(files, DirectoryImage) else []

    async def attached_signatures(self, _: str, __: SignatureStorage) -> list[Attachment]:
        return []

    async def manifest(self, entry: Descriptor | None) -> Document:
        return await self._call(lambda: self._files.manifest(entry))

    async def config(self, manifest: ImageManifest) -> bytes:
        data = await self._call(lambda: self._files.config(manifest))
        if (actual := digest_of(data, manifest.config.digest)) != manifest.config.digest:
            raise verify.mismatch(self._files.image, manifest.config.digest, actual, "the config")
        return data

    async def _call(self, action: Callable[[], T]) -> T:
        return await background.call(action, deadline=self._deadline, stalled=self._stalled)

    def _stalled(self) -> BootcdError:
        return stalled(self._files.image, self._deadline)


def stalled(image: str, seconds: float) -> BootcdError:
    return Stalled(
        f"no byte of {image} could be read for {seconds:g} seconds",
        hint="check the medium or the share it is on, then try again",
        image=image,
    )


@asynccontextmanager
async def open_local(
    transport: str, path: str, tag: str, image: str, *, stall_timeout: float
) -> AsyncGenerator[LocalSource, None]:
    """Hold an image open for the length of a block; `image` is how messages name it."""
    if transport not in _FORMATS:
        raise Unsupported(f"images of transport {transport} cannot be read")
    files = await background.call(
        lambda: _FORMATS[transport](path, tag, image),
        deadline=stall_timeout,
        stalled=lambda: stalled(image, stall_timeout),
    )
    try:
        yield LocalSource(files, stall_timeout)
    finally:
        await asyncio.to_thread(files.close)
