"""The pace of a job: how long the fetch still takes. No I/O.

The rate is an exponentially weighted mean over time, so that a burst or a short stall hardly moves the
estimate and a lasting change moves it within seconds.
"""

from __future__ import annotations

import math

from bootcd.model.job import Progress

_MEMORY_SECS = 5.0
"After this long without news the old rate counts for a third."
_SHORTEST_SECS = 0.05
"Samples closer together are taken as one, as their quotient says nothing."


class Pace:
    def __init__(self) -> None:
        self._sampled_at: float | None = None
        self._sampled_bytes = 0
        self._bytes_per_sec: float | None = None

    def note(self, progress: Progress, now: float) -> None:
        """Take in a progress report; `now` in seconds of any clock that does not go back."""
        if self._sampled_at is None or progress.bytes_done < self._sampled_bytes:
            self._sampled_at, self._sampled_bytes, self._bytes_per_sec = now, progress.bytes_done, None
            return
        elapsed = now - self._sampled_at
        if elapsed < _SHORTEST_SECS:
            return
        rate = (progress.bytes_done - self._sampled_bytes) / elapsed
        if self._bytes_per_sec is None:
            self._bytes_per_sec = rate
        else:
            weight = -math.expm1(-elapsed / _MEMORY_SECS)
            self._bytes_per_sec += weight * (rate - self._bytes_per_sec)
        self._sampled_at, self._sampled_bytes = now, progress.bytes_done

    def remaining_secs(self, progress: Progress) -> float:
        """Return the time left until all bytes are here; 0 while unknown and when there are none left."""
        left = progress.bytes_total - progress.bytes_done
        if left <= 0 or not self._bytes_per_sec:
            return 0.0
        return left / self._bytes_per_sec
