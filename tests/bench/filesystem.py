"""File systems to measure on: a new ext4 or xfs for every run, so that all start alike.

What lies below the checkout or /tmp of a machine is whatever it is: without a journal, full, remote. A
loop-mounted file is the same everywhere. Mounts stay in a mount namespace of the bench's own and end
with it, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

LEAST_BYTES = 8 << 30
"Of the sparse file; what a run writes is a tenth of it."

# Nothing is left for the kernel to initialise in the background while a run is measured.
KINDS = {
    "ext4": (
        *("mkfs.ext4", "-q", "-F", "-O", "has_journal"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0"),
    ),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}

_INSIDE = "BOOTCD_BENCH_NAMESPACE"


def enter_namespace() -> str:
    """Go on in a mount namespace of our own by starting this program anew.

    Returns an empty text there, or in this process the reason why it cannot be.
    """
    if os.environ.get(_INSIDE):
        return ""
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"no mount namespace: {probe.stderr.strip()}"
    again = [sys.executable, "-m", "tests.bench", *sys.argv[1:]]
    command = ["unshare", "--mount", "--propagation=private", *again]
    os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})
    raise AssertionError("execvpe does not return")


class Ground:
    """Makes file systems below a directory; plain directories where none can be mounted, for `reason`."""

    def __init__(self, directory: Path, reason: str, *, kind: str = "ext4", image_bytes: int = 0) -> None:
        """`image_bytes` is the size of the images that will be pulled."""
        self._directory = directory
        self._kind = kind
        self._size = max(LEAST_BYTES, 10 * image_bytes)
        self.reason = reason

    @property
    def description(self) -> str:
        if not self.reason:
            return f"a new loop-mounted {self._kind} for each contender"
        found = ["findmnt", "--noheadings", "--output=FSTYPE", f"--target={self._directory}"]
        kind = subprocess.run(found, capture_output=True, text=True, check=False).stdout.strip()
        return f"{kind or 'the file system'} of {self._directory}, because there is {self.reason}"

    async def probe(self) -> None:
        """Find out whether file systems can be mounted here."""
        if self.reason:
            return
        try:
            async with self.new("probe"):
                pass
        except RuntimeError as error:
            self.reason = f"no loop mount: {error}"

    @asynccontextmanager
    async def new(self, name: str) -> AsyncGenerator[Path, None]:
        """Yield an empty directory, on a file system of its own; it is gone afterwards."""
        point, image = self._directory / name, self._directory / f"{name}.img"
        point.mkdir()
        if self.reason:
            try:
                yield point
            finally:
                await _run("rm", "-rf", "--one-file-system", point)
            return
        mounted = False
        try:
            with image.open("wb") as file:
                file.truncate(self._size)
            await _run(*KINDS[self._kind], image)
            await self._mount(image, point)
            mounted = True
            yield point
        finally:
            if mounted:
                await asyncio.shield(_run("umount", point))
            image.unlink(missing_ok=True)
            point.rmdir()

    async def _mount(self, image: Path, point: Path) -> None:
        try:
            # Without a second copy of everything in the page cache, which would cost the runs CPU time.
            device = await _run("losetup", "--find", "--show", "--direct-io=on", image)
        except RuntimeError:
            device = await _run("losetup", "--find", "--show", image)
        try:
            await _run("mount", "-t", self._kind, device, point)
        finally:
            await _run("losetup", "--detach", device)  # takes effect when it is unmounted


async def _run(*command: str | Path) -> str:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*map(str, command), stdout=pipe, stderr=pipe)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is missing") from None
    output, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {errors.decode().strip()}")
    return output.decode().strip()
