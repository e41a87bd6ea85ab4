"""Release notes of an image that was found: shown where there are any, waited for by nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, runtime_checkable

from bootcd.model.errors import BootcdError
from bootcd.oci.resolve import ResolvedImage

log = logging.getLogger(__name__)

_DEADLINE_SECS = 20.0


@runtime_checkable
class NotedSource(Protocol):
    """An image source where notes can lie beside an image; the others have none."""

    async def release_notes(self, digest: str) -> str:
        """Return the notes attached to a manifest or index, empty if there are none."""
        ...


async def release_notes(source: object, resolved: ResolvedImage) -> str:
    """Return the notes of an image, or of the index it comes from; empty also if they cannot be read."""
    if not isinstance(source, NotedSource):
        return ""
    try:
        async with asyncio.timeout(_DEADLINE_SECS):
            notes = await source.release_notes(resolved.digest)
            if not notes and resolved.index_digest:
                notes = await source.release_notes(resolved.index_digest)
            return notes
    except TimeoutError:
        log.info("the release notes did not come in time, proceeding without")
    except BootcdError as error:
        log.info("the release notes cannot be read, proceeding without: %s", error.message)
    return ""
