"""The places of an image and the tries at them: mirrors in their order, the registry itself last.

A place that fails is left for the rest of the job, with the reason in the log, and the next one takes
over, for a blob in the middle of it. A mirror is not waited for: the registry behind it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from bootcd.model.errors import BootcdError, DigestMismatch
from bootcd.oci.reference import ImageReference
from bootcd.oci.registries import PullSource
from bootcd.registry.failures import Target
from bootcd.registry.retry import Attempts

log = logging.getLogger(__name__)

MIRROR_RETRIES = 1


class Route:
    """Where an image is asked for now."""

    def __init__(self, image: ImageReference, sources: Sequence[PullSource]) -> None:
        self._image = image
        self._sources = sources
        self._at = 0

    @property
    def source(self) -> PullSource:
        return self._sources[self._at]

    @property
    def at_last(self) -> bool:
        return self._at == len(self._sources) - 1

    def target(self, blob: str = "") -> Target:
        """Return what to name in errors: the place now asked, and the image it is asked for."""
        source = self.source
        image = "" if source.reference == self._image else str(self._image)
        return Target(source.reference, blob=blob, image=image, insecure=source.insecure)

    def leave(self, source: PullSource, error: BootcdError) -> bool:
        """Go on to the next place because this one failed; False if there is none.

        Downloads that fail together leave it together, once.
        """
        if source is not self.source:
            return True
        if self.at_last:
            return False
        self._at += 1
        log.warning("going on with %s: %s", self.source.reference.name, error.message)
        return True


class Tries:
    """The tries of one operation, at one place after the other."""

    def __init__(
        self,
        route: Route,
        *,
        blob: str = "",
        retries: int,
        chance: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._route = route
        self._blob = blob
        self._retries = retries
        self._chance = chance
        self._sleep = sleep
        self._begin()

    def _begin(self) -> None:
        self.source = self._route.source
        self.target = self._route.target(self._blob)
        self._last = self._route.at_last
        retries = self._retries if self._last else min(self._retries, MIRROR_RETRIES)
        self._attempts = Attempts(retries, self._chance, self._sleep)

    async def failed(self, error: BootcdError) -> None:
        """Wait until the operation may be tried again, at `source`, or raise `error` if that is of no use."""
        try:
            if not self._last and "retry_after_secs" in error.fields:
                raise error
            await self._attempts.failed(error)
        except BootcdError:
            left = self._route.leave(self.source, error)
            # What was handed out of a blob may be wrong already.
            if not left or (self._blob and isinstance(error, DigestMismatch)):
                raise
            self._begin()

    def distrust(self, error: BootcdError) -> None:
        """Have the next operation begin at another place: what this one gave was wrong to its end."""
        self._route.leave(self.source, error)

    def progressed(self) -> None:
        """Allow the full number of retries again."""
        self._attempts.progressed()
