"""Where a path is mounted."""

from __future__ import annotations

from pathlib import Path

from bootcd.host.mounts import mount_point


def test_mount_point_is_the_nearest_one_above() -> None:
    assert mount_point(Path("/proc/self/nothing")) == Path("/proc")
    assert mount_point(Path("/proc")) == Path("/proc")
    assert mount_point(Path("/")) == Path("/")
