"""The `containers-storage:` transport on a host that has podman and no skopeo.

podman gives out whole images alone, so the image is written to a file without a name first and read as the
docker archive it is: that takes its size on the disk for the length of the job, and leaves nothing behind
whatever ends the job. Such an archive lacks the stored manifest. The image keeps the digest by which the
store knows it, as skopeo says it too; config and layers are held to the image by its id, which is the digest
of the config, and by the diff_ids of the config.

podman-save(1), podman-image-inspect(1)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from bootcd.host import process
from bootcd.model.errors import BackendFailed, InvalidImage, NotFound, OutOfSpace, Unsupported
from bootcd.model.text import one_line
from bootcd.oci.manifest import Descriptor, ImageManifest
from bootcd.oci.reference import DOCKER_HUB, is_digest, parse_reference
from bootcd.oci.resolve import Document, ResolvedImage, resolve_image
from bootcd.transports.source import LocalSource, open_local
from bootcd.transports.verify import mismatch

_INSPECT_SECS = 60.0
_SAVE_SECS = 3600.0
_OUTPUT_BYTES = 4 << 20
_ABSENT = "image not known"
_SPOOL = "/var/tmp"  # noqa: S108 - file-hierarchy(7) has what is large here; the file has no name


@dataclass(frozen=True, slots=True)
class _Stored:
    """An image as the store knows it."""

    id: str
    digest: str
    size_bytes: int
    "Of its layers, unpacked."


class PodmanSource:
    """One image of the host's store. Make one with `open_stored`."""

    def __init__(self, name: str, image: str, stall_timeout: float, files: AsyncExitStack) -> None:
        self._name = _full_name(name)
        self._image = image
        self._stall_timeout = stall_timeout
        self._files = files
        self._saved: LocalSource | None = None

    async def resolve(self, *, architecture: str, variant: str | None = None) -> ResolvedImage:
        """Find the image, every digest but that of the manifest verified.

        Raises NotFound, OutOfSpace, BackendFailed, Unsupported, InvalidLayout, InvalidManifest,
        DigestMismatch, Stalled.
        """
        return await resolve_image(self, architecture=architecture, variant=variant)

    async def current_digest(self) -> str:
        return (await self._inspect()).digest

    async def open_blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Stream a layer; chunks are verified only once the iteration has ended by itself."""
        async with aclosing(self._archive().open_blob(descriptor)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def manifest(self, entry: Descriptor | None) -> Document:
        assert entry is None, "the store has chosen from an index already"
        stored = await self._inspect()
        self._saved = await self._save(stored)
        document = await self._saved.manifest(None)
        assert isinstance(document.parsed, ImageManifest), "there is no index in such an archive"
        config = document.parsed.config.digest
        if config != f"sha256:{stored.id}":
            raise mismatch(self._image, f"sha256:{stored.id}", config, "the config")
        return replace(document, digest=stored.digest)

    async def config(self, manifest: ImageManifest) -> bytes:
        return await self._archive().config(manifest)

    def _archive(self) -> LocalSource:
        assert self._saved, "it was resolved first"
        return self._saved

    async def _inspect(self) -> _Stored:
        done = await self._podman(["image", "inspect", "--", self._name], _INSPECT_SECS)
        try:
            [found] = json.loads(done.stdout)
            stored = _Stored(str(found["Id"]), str(found["Digest"]), int(found["Size"]))
        except (ValueError, TypeError, KeyError) as error:
            raise self._failure("podman answers otherwise than expected") from error
        if not is_digest(stored.digest) or not is_digest(f"sha256:{stored.id}"):
            raise self._failure("podman gave no digest of it")
        return stored

    async def _save(self, stored: _Stored) -> LocalSource:
        """Write the image to a file and open it; by its id, as the name may be another's by now."""
        try:
            spool = self._files.enter_context(tempfile.TemporaryFile(dir=_SPOOL, buffering=0))  # noqa: SIM115
            status = os.fstatvfs(spool.fileno())
        except OSError as error:
            raise self._failure(f"nothing can be written below {_SPOOL}: {error.strerror}") from error
        available = status.f_bavail * status.f_frsize
        if available < stored.size_bytes:
            raise OutOfSpace(
                f"{self._image} needs {stored.size_bytes} bytes below {_SPOOL}, where {available} are free",
                hint="free some space there, or install skopeo, which reads images without a copy",
                needed_bytes=stored.size_bytes,
                available_bytes=available,
                path=_SPOOL,
            )
        save = ["image", "save", "--quiet", "--format=docker-archive", "--", stored.id]
        await self._podman(save, _SAVE_SECS, output=spool.fileno())
        return await self._files.enter_async_context(
            open_local(
                "docker-archive",
                f"/proc/self/fd/{spool.fileno()}",
                "",
                self._image,
                stall_timeout=self._stall_timeout,
            )
        )

    async def _podman(
        self, arguments: list[str], deadline_secs: float, output: int | None = None
    ) -> process.Completed:
        try:
            done = await process.run(
                ["podman", *arguments], deadline_secs=deadline_secs, limit=_OUTPUT_BYTES, output=output
            )
        except FileNotFoundError as error:
            raise Unsupported(
                f"{self._image} is read through skopeo or podman, and this host has neither",
                hint="install skopeo",
                image=self._image,
            ) from error
        except OSError as error:
            raise self._failure(f"podman cannot be started: {error.strerror}") from error
        except TimeoutError as error:
            raise self._failure(f"podman did not end within {deadline_secs:.0f} s") from error
        if done.status:
            words = done.stderr.decode(errors="replace")
            if _ABSENT in words:
                raise NotFound(
                    f"this host has no {self._image}", hint="see: podman images", image=self._image
                )
            raise self._failure(words)
        return done

    def _failure(self, words: str) -> BackendFailed:
        return BackendFailed(f"{self._image} cannot be read: {one_line(words)}", image=self._image)


@asynccontextmanager
async def open_stored(name: str, image: str, *, stall_timeout: float) -> AsyncGenerator[PodmanSource, None]:
    """Give access to an image of the host's store for the length of a block; `image` names it in messages."""
    async with AsyncExitStack() as files:
        yield PodmanSource(name, image, stall_timeout, files)


def _full_name(name: str) -> str:
    """Return what skopeo takes a name for: podman looks for a short one in other places, localhost first."""
    try:
        return str(parse_reference(name, default_registry=DOCKER_HUB))
    except InvalidImage:
        return name
