"""An image of a layout sent to a registry: what is there already stays, and what names it comes last.

Killed at any point, the registry has some blobs that nothing names, and the next time they are not sent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bootcd.image.client import Content
from bootcd.image.layout import LayoutWriter
from bootcd.image.report import Transfer, size
from bootcd.image.repository import Repository
from bootcd.model.errors import Cancelled, RegistryProtocolError, RegistryUnavailable
from bootcd.oci.manifest import Descriptor, ImageManifest, parse_manifest

_PARALLEL = 3
_PAUSES_SECS = (1.0, 5.0, 20.0)
"Before a blob is tried again when the registry failed or the connection broke."


@dataclass(slots=True)
class _Progress:
    """What was sent so far, counted by any thread and told on the event loop."""

    total: int
    tell: Callable[[str], object]
    loop: asyncio.AbstractEventLoop
    stopped: threading.Event
    sent: int = 0
    _told: int = 0

    def add(self, count: int) -> None:
        if self.stopped.is_set():
            raise Cancelled("nobody waits for it any more")
        is_first = not self.sent
        self.sent += count
        if is_first or self.sent - self._told >= 1 << 20:
            self._told = self.sent
            text = f"Sending {size(self.sent)} of at most {size(self.total)}"
            self.loop.call_soon_threadsafe(self.tell, text)


async def push_image(
    repository: Repository,
    layout: LayoutWriter,
    *,
    mounts: Mapping[str, str],
    progress: Callable[[str], object],
) -> Transfer:
    """Send the image that was named last; return the layers that were not there.

    Args:
        mounts: repositories of the registry that have a blob, by its digest.
    """
    assert layout.image is not None
    digest = layout.image["digest"]
    data = layout.blob(digest).read_bytes()
    manifest = parse_manifest(data, layout.image["mediaType"])
    assert isinstance(manifest, ImageManifest), "just written"
    blobs = list({blob.digest: blob for blob in (*manifest.layers, manifest.config)}.values())
    loop, stopped = asyncio.get_running_loop(), threading.Event()
    told = _Progress(sum(blob.size for blob in blobs), progress, loop, stopped)

    def send(blob: Descriptor) -> bool:
        return _send(repository, layout, blob, mounts.get(blob.digest, ""), told)

    with ThreadPoolExecutor(_PARALLEL) as threads:
        running = [loop.run_in_executor(threads, send, blob) for blob in blobs]
        try:
            were_sent = await asyncio.gather(*running)
        except BaseException:
            stopped.set()
            threads.shutdown(wait=True, cancel_futures=True)
            raise
    reference = repository.reference
    name = reference.tag or reference.for_fetch
    answer = await asyncio.to_thread(repository.put_manifest, name, data, layout.image["mediaType"])
    given = answer.headers.get("Docker-Content-Digest", digest)
    if given != digest:
        raise RegistryProtocolError(
            f"registry {reference.registry} has made another image of {reference}: {given[:80]}"
        )
    sent = [blob for blob, was in zip(blobs, were_sent, strict=True) if was and blob is not manifest.config]
    return Transfer(layers=len(sent), bytes=sum(blob.size for blob in sent))


def _send(
    repository: Repository, layout: LayoutWriter, blob: Descriptor, mount_from: str, told: _Progress
) -> bool:
    content = Content(layout.blob(blob.digest), blob.size, told.add)
    for pause in _PAUSES_SECS:
        try:
            return repository.put_blob(blob.digest, content, mount_from=mount_from)
        except RegistryUnavailable:
            if told.stopped.wait(pause):
                raise
    return repository.put_blob(blob.digest, content, mount_from=mount_from)
