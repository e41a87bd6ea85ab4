from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bootcd.registry.bandwidth import Bandwidth


class Time:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(
    rate=st.integers(16 << 10, 1 << 30),
    counts=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=30),
    idle=st.floats(0, 100),
)
async def test_bandwidth_never_gives_more_than_its_rate_and_a_moment(
    rate: int, counts: list[int], idle: float
) -> None:
    time = Time()
    bandwidth = Bandwidth(rate, sleep=time.sleep, monotonic=lambda: time.now)
    await bandwidth.spend(counts[0])
    time.now += idle
    start = time.now
    for count in counts:
        await bandwidth.spend(count)
    assert sum(counts) <= rate * (time.now - start + 0.25) * 1.001 + 1


async def test_bandwidth_is_used_to_the_full() -> None:
    time = Time()
    bandwidth = Bandwidth(1000, sleep=time.sleep, monotonic=lambda: time.now)
    for _ in range(100):
        await bandwidth.spend(100)
    assert time.now <= 1010.0


async def test_bandwidth_without_a_bound_never_waits() -> None:
    async def sleep(_: float) -> None:
        raise AssertionError

    await Bandwidth(sleep=sleep).spend(1 << 40)
