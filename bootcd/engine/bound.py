"""The images bound to host images: there before a deployment can be booted, gone when none needs them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bootcd.engine.protocol import Report
from bootcd.model.job import Phase, Progress, WorkerSettings
from bootcd.ostree.boundimages import read_bound_images
from bootcd.ostree.sysroot import Sysroot
from bootcd.podman import BoundImageStore


class BoundImages:
    """Those of one host. The caller of what changes something holds the system root's lock."""

    def __init__(self, sysroot: Sysroot, settings: WorkerSettings) -> None:
        self._sysroot = sysroot
        self._store = BoundImageStore(
            Path(settings.sysroot) / "ostree/bootc/storage",
            auth_files=settings.auth_files,
            insecure_registries=settings.insecure_registries,
        )

    async def pull(self, commit: str, report: Report) -> None:
        """Pull the images that are bound to the host image of a commit.

        Raises what `read_bound_images` and `BoundImageStore.pull` raise.
        """
        images = await self._of(commit)
        if not images:
            return
        progress = Progress(phase=Phase.BOUND_IMAGES, steps_total=len(images))
        report(progress)
        await self._store.create()
        for done, image in enumerate(images, 1):
            await self._store.pull(image)
            report(progress.model_copy(update={"steps_done": done}))

    async def remove_unneeded(self) -> None:
        """Remove the images no deployment is bound to; one that cannot be read keeps all of them."""
        if not self._store.exists:
            return
        wanted: set[str] = set()
        for deployment in self._sysroot.deployments:
            wanted.update(await self._of(deployment.get_csum()))
            # A store made by bootc may hold host images as well.
            if (image := self._sysroot.image(deployment)) is not None:
                wanted.add(image.name)
        await self._store.remove_except(wanted)

    async def _of(self, commit: str) -> list[str]:
        return await asyncio.to_thread(read_bound_images, self._sysroot.repository, commit)
