"""What a host does not need any more, removed after every change of its deployments."""

from __future__ import annotations

import asyncio
import logging

from bootcd.engine.bound import BoundImages
from bootcd.model.errors import BootcdError
from bootcd.ostree.garbage import drop_unused_refs
from bootcd.ostree.sysroot import Sysroot

log = logging.getLogger(__name__)


async def clean_up(sysroot: Sysroot, bound: BoundImages) -> None:
    """Remove the images, layers and bound images that no deployment needs; the caller holds the lock."""
    try:
        await asyncio.to_thread(drop_unused_refs, sysroot)
        await asyncio.to_thread(sysroot.cleanup)
        await bound.remove_unneeded()
    except BootcdError as error:
        # What was asked for is done all the same; the next change cleans up after both.
        log.warning("what is not needed any more stays on the disk: %s", error.message)
