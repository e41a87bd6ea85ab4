"""Whether a registry has all of an image whose manifest it has.

It may lack layers: a copy is under way, a mirror fills up, a garbage collection went wrong. Such a version
could not be staged, so it is not offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bootcd.engine.source import AskedSource, ImageSource
from bootcd.model.errors import NotFound
from bootcd.oci.manifest import Descriptor


async def require_whole(source: ImageSource, name: str, layers: Sequence[Descriptor]) -> None:
    """Raise NotFound where layers of the image by this name are known to be missing."""
    if not isinstance(source, AskedSource):
        return
    there = await asyncio.gather(*(source.has_blob(layer) for layer in layers))
    missing = [layer.digest for layer, has in zip(layers, there, strict=True) if not has]
    if missing:
        raise NotFound(
            f"the registry has not all of {name}: of {len(layers)} new layers {len(missing)} cannot be found,"
            f" the first is {missing[0]}",
            hint="it may still be on its way there; try again later",
        )
