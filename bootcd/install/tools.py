"""Programs of the host that do one step: looked for before the first of them runs, their failures typed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from bootcd.host import process
from bootcd.model.errors import BackendFailed, Unsupported
from bootcd.model.text import last_line

_OUTPUT_LIMIT = 64 << 10
_DEADLINE_SECS = 1800
"Making and flushing a file system takes its time on a slow, large disk."

_PACKAGES = {
    "sfdisk": "fdisk or util-linux",
    "wipefs": "util-linux",
    "mount": "mount or util-linux",
    "umount": "mount or util-linux",
    "fsfreeze": "util-linux",
    "fstrim": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
    "grub-mkimage": "grub-common or grub2-tools",
}


def require_tools(names: Iterable[str]) -> None:
    """Refuse to begin what could not be ended.

    Raises Unsupported for a program that is not installed.
    """
    for name in names:
        if shutil.which(name) is None:
            package = _PACKAGES.get(name, name)
            raise Unsupported(f"the program {name} is not installed", hint=f"install the package {package}")


async def run_tool(argv: Sequence[str], doing: str, *, stdin: bytes | None = None) -> bytes:
    """Run a program to its end and return what it printed.

    Args:
        doing: what it is for, to follow "cannot".
    Raises:
        BackendFailed: it failed; the message has the last line it wrote.
    """
    try:
        done = await process.run(argv, deadline_secs=_DEADLINE_SECS, limit=_OUTPUT_LIMIT, text=stdin)
    except TimeoutError as error:
        raise BackendFailed(
            f"cannot {doing}: {argv[0]} did not end in {_DEADLINE_SECS // 60} minutes"
        ) from error
    except OSError as error:
        raise BackendFailed(f"cannot {doing}: {argv[0]} cannot be started: {error.strerror}") from error
    if done.status != 0:
        words = last_line(done.stderr or done.stdout) or f"exit code {done.status}"
        raise BackendFailed(f"cannot {doing}: {words}")
    return done.stdout
