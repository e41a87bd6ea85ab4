"""Where the image a host tracks comes from, whatever its transport: the one thing a pull asks.

Transports: containers-transports(5).
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from bootcd import __version__
from bootcd.model.errors import Unsupported
from bootcd.model.job import WorkerSettings
from bootcd.oci.manifest import Descriptor
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.resolve import ResolvedImage
from bootcd.oci.trust.attachment import Attachment
from bootcd.oci.trust.registriesd import SignatureStorage
from bootcd.oci.trust.scopes import registry_scopes
from bootcd.ostreefmt.origin import REGISTRY, TrackedImage
from bootcd.ostreefmt.origin import TRANSPORTS as ALL_TRANSPORTS
from bootcd.registry.certificates import CERTIFICATE_DIRS, Certificates
from bootcd.registry.client import RegistryClient
from bootcd.registry.configuration import load_registries
from bootcd.registry.credentials import load_credentials
from bootcd.registry.failures import Target
from bootcd.registry.notes import release_notes
from bootcd.registry.signatures import attached_signatures, lookaside_signatures
from bootcd.transports.podman import open_stored
from bootcd.transports.source import TRANSPORTS, open_local

_FILES = ("oci", "oci-archive", "docker-archive", "dir")
"Transports whose name begins with a path."


class ImageSource(Protocol):
    """The place of one image, for the length of one job."""

    async def resolve(self, *, architecture: str, variant: str | None = None) -> ResolvedImage:
        """Find the image of a platform, every digest verified."""
        ...

    async def current_digest(self) -> str:
        """Return the digest, of the index if there is one, the image has now; as cheap as possible.

        Unverified: good to tell that nothing changed, and for nothing else.
        """
        ...

    def open_blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Stream a blob of the image; it is verified once the iteration has ended by itself.

        A reader that may stop early wraps it into `contextlib.aclosing`.
        """
        ...


@runtime_checkable
class AskedSource(Protocol):
    """A source whose blobs may be missing although it has the manifest."""

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Ask whether a blob is there, without fetching it."""
        ...


@runtime_checkable
class RangedSource(Protocol):
    """A source that may give parts of a blob; from the others whole ones are as cheap."""

    async def read_range(self, descriptor: Descriptor, start: int, size: int) -> bytes | None:
        """Return a part of a blob, unverified; None if it turns out that there are no parts to be had."""
        ...


@runtime_checkable
class SignedSource(Protocol):
    """A source that can hold signatures of its image; the others hold none."""

    async def stored_signatures(self, digest: str, storage: SignatureStorage) -> Sequence[bytes]:
        """Return the files that may hold signatures of the manifest `digest`."""
        ...

    async def attached_signatures(self, digest: str, storage: SignatureStorage) -> Sequence[Attachment]:
        """Return what is attached to the manifest `digest`, if the host wants that looked for."""
        ...


def open_source(tracked: TrackedImage, settings: WorkerSettings) -> AbstractAsyncContextManager[ImageSource]:
    """Give access to an image for the length of a block.

    Raises:
        InvalidImage: the name is none of its transport. At once, like the others.
        InvalidConfig: the host's files about registries are not valid.
        RegistryBlocked: they forbid to ask for the image.
        Unsupported: the transport is one that cannot be read.
    """
    tracked.require_usable()
    if tracked.transport == REGISTRY:
        return _open_registry(parse_reference(tracked.name), settings)
    if tracked.transport in TRANSPORTS:
        name, tag = tracked.place
        if tracked.transport == "containers-storage" and shutil.which("skopeo") is None:
            return open_stored(name, tracked.image_ref_name, stall_timeout=settings.stall_timeout_secs)
        return open_local(
            tracked.transport, name, tag, tracked.image_ref_name, stall_timeout=settings.stall_timeout_secs
        )
    raise Unsupported(f"images of transport {tracked.transport} cannot be pulled yet")


def parse_source(text: str) -> TrackedImage:
    """Return the image that words of a command line name: with a transport, or of a registry.

    Raises InvalidImage.
    """
    if text.startswith(("docker://", "registry:")):
        return named_image(REGISTRY, text.removeprefix("docker://").removeprefix("registry:"))
    transport, colon, name = text.partition(":")
    # `oci:5000/x` is a host and its port.
    if colon and transport in ALL_TRANSPORTS and not re.match(r"[0-9]+/", name):
        return named_image(transport, name)
    return named_image(REGISTRY, text)


def named_image(transport: str, name: str) -> TrackedImage:
    """Return the image `name` of a transport; a path is taken from the current directory."""
    if transport == REGISTRY:
        return TrackedImage.registry(str(parse_reference(name)))
    if transport in _FILES and name and not name.startswith("/"):
        name = f"{Path.cwd()}/{name}"
    return TrackedImage.unverified(transport, name)


def _open_registry(
    reference: ImageReference, settings: WorkerSettings
) -> AbstractAsyncContextManager[ImageSource]:
    root = Path(settings.sysroot)
    registries = load_registries(root)
    sources = registries.sources(reference)
    if all(source.blocked for source in sources):
        raise Target(sources[-1].reference).blocked()
    client = RegistryClient(
        sources=registries.sources,
        insecure=settings.insecure_registries,
        certificates=Certificates(settings.ca_file, [root / name for name in CERTIFICATE_DIRS]),
        credentials=load_credentials(settings.auth_files, registries.credential_helpers),
        parallel=settings.parallel_downloads,
        per_registry=settings.parallel_per_registry,
        max_bandwidth=settings.max_bandwidth_bytes,
        pauses_file=Path(settings.pauses_file) if settings.pauses_file else None,
        stall_timeout=settings.stall_timeout_secs,
        retries=settings.retries,
        chance=random.random,
        user_agent=f"bootcd/{__version__}",
    )
    return _registry(client, reference)


@asynccontextmanager
async def _registry(client: RegistryClient, reference: ImageReference) -> AsyncGenerator[ImageSource, None]:
    async with client:
        yield _RegistrySource(client, reference)


@dataclass(frozen=True, slots=True)
class _RegistrySource:
    client: RegistryClient
    reference: ImageReference

    async def resolve(self, *, architecture: str, variant: str | None = None) -> ResolvedImage:
        return await self.client.resolve(self.reference, architecture=architecture, variant=variant)

    async def current_digest(self) -> str:
        return await self.client.head_digest(self.reference)

    def open_blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        return self.client.open_blob(self.reference, descriptor)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        return await self.client.has_blob(self.reference, descriptor)

    async def read_range(self, descriptor: Descriptor, start: int, size: int) -> bytes | None:
        return await self.client.read_range(self.reference, descriptor, start, size)

    async def release_notes(self, digest: str) -> str:
        return await release_notes(self.client, self.reference, digest)

    async def stored_signatures(self, digest: str, storage: SignatureStorage) -> Sequence[bytes]:
        base = storage.lookaside(registry_scopes(self.reference))
        return await lookaside_signatures(self.client, self.reference, digest, base)

    async def attached_signatures(self, digest: str, storage: SignatureStorage) -> Sequence[Attachment]:
        if not storage.attachments(registry_scopes(self.reference)):
            return []
        return await attached_signatures(self.client, self.reference, digest)
