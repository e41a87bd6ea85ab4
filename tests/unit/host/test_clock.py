from datetime import UTC, timedelta
from pathlib import Path

from bootcd.host.clock import Clock, SystemClock


def test_system_clock_now_is_aware_and_in_utc() -> None:
    clock: Clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert abs(clock.now() - clock.now()) < timedelta(minutes=1)


def test_system_clock_boottime_is_the_kernels_time_since_boot() -> None:
    clock: Clock = SystemClock()
    before = clock.boottime()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert before - 0.02 <= uptime <= clock.boottime()
