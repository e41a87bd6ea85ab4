"""Boots counted by GRUB, for versions that never come far enough to be judged.

The protocol is Fedora's and greenboot's. What is staged gets a number of attempts, `boot_counter`. At every
boot GRUB's configuration sets `boot_success` to 0; where it was 0 already, the boot before did not end
well, and the counter goes down. At 0 it becomes -1, and the second boot entry is started instead of the
first. A boot that is judged good sets `boot_success` to 1 and takes the counter away.

That needs a configuration that does its part, which is looked for rather than assumed: one without it would
ignore the counter.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bootcd.host import process
from bootcd.host.files import read_bounded, write_atomic
from bootcd.host.mounts import mount_point, unshare_mounts
from bootcd.ostreefmt.grubenv import SIZE, change_block, empty_block, read_variable

log = logging.getLogger(__name__)

ATTEMPTS = 3
GAVE_UP = -1
"The counter where GRUB started the second entry instead of the first."

_DIRECTORIES = ("boot/grub2", "boot/grub")
_CONFIG_LIMIT = 1 << 20
_MOUNT_SECS = 30.0
_COUNTS = ("boot_counter", "boot_success", "save_env")


class Counter(Protocol):
    """A boot loader that counts boots, and in the end boots the version before."""

    @property
    def supported(self) -> bool: ...

    def gave_up_on(self, deployment: str) -> bool:
        """Tell whether this boot is of the version before because that one has no attempts left."""
        ...

    def begin_anew(self) -> bool:
        """Have a boot order that is about to change survive a power cut; false if that is not possible."""
        ...

    def arm(self, deployment: str) -> bool:
        """Give what is staged its attempts."""
        ...

    def disarm(self, deployment: str, *, good: bool) -> None:
        """Stop counting boots of what was judged; `good`: this boot counts as a success."""
        ...


class BootCounter:
    """The counter of a host. Every method blocks, and does nothing where GRUB does not count.

    Call what changes it while the process has one thread, as it may move to a mount namespace of its own.
    """

    def __init__(self, root: Path) -> None:
        self._directory = next((d for d in (root / name for name in _DIRECTORIES) if _counts(d)), None)

    @property
    def supported(self) -> bool:
        return self._directory is not None

    def attempts(self) -> int | None:
        """Return the counter; None if there is none."""
        if self._directory is None:
            return None
        try:
            value = read_variable(read_bounded(self._directory / "grubenv", SIZE), "boot_counter")
            return None if value is None else int(value)
        except (OSError, ValueError):
            return None

    def gave_up_on(self, deployment: str) -> bool:
        return self.attempts() == GAVE_UP

    def begin_anew(self) -> bool:
        """Count from the start again, as the first entry may be either of the two after a power cut."""
        return self.arm()

    def arm(self, deployment: str = "") -> bool:
        """Give what boots next its attempts."""
        return self._change({"boot_counter": str(ATTEMPTS)})

    def disarm(self, deployment: str = "", *, good: bool) -> None:
        """Stop counting; `good`: this boot counts as a success."""
        if good:
            self._change({"boot_counter": None, "boot_success": "1"})
        elif self.attempts() is not None:
            self._change({"boot_counter": None})

    def _change(self, changes: dict[str, str | None]) -> bool:
        if self._directory is None:
            return False
        # Where /boot/grub2 belongs to the distribution, the block itself may be in the EFI system partition.
        path = (self._directory / "grubenv").resolve()
        try:
            try:
                before = read_bounded(path, SIZE)
            except FileNotFoundError:
                before = empty_block()
            after = change_block(before, changes)
            if after != before:
                writable(path, lambda: write_atomic(path, after, mode=0o644))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("boots cannot be counted, %s cannot be changed: %s", path, reason)
            return False
        return True


def _counts(directory: Path) -> bool:
    """Tell whether GRUB's configuration, or a part of it beside it, counts boots."""
    text = b""
    for path in sorted(directory.glob("*.cfg")):
        try:
            text += read_bounded(path, _CONFIG_LIMIT)
        except OSError:
            continue
    return all(word.encode() in text for word in _COUNTS)


def writable(path: Path, change: Callable[[], object]) -> None:
    """Make a change to the file system of a path, which may be mounted read-only. Raises OSError."""
    try:
        change()
    except OSError as error:
        if error.errno != errno.EROFS or not unshare_mounts():
            raise
        command = ["mount", "-o", "remount,rw", str(mount_point(path))]
        asyncio.run(process.run(command, deadline_secs=_MOUNT_SECS, limit=4096))
        change()
