"""Refs of one publication, written together: durable, and one flush for all instead of one for each.

libostree waits for the disk at every ref, which for an image of many layers takes longer than the flush of
its files. A ref is a file below `refs/heads` with a checksum and a newline in it; what libostree makes of
names and of directories in their place stays its own affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from bootcd.ostree.libostree import OSTree
from bootcd.ostree.store import StagingDirectory


def write_refs(repo: Any, path: Path, refs: Mapping[str, str], flush: Callable[[], None]) -> None:
    """Set refs of a repository to commits that are in it. Blocks.

    After a crash each is the old or the new one.

    Args:
        flush: returns when all that was written to the file system is on the disk.
    Raises: OSError, GLib.Error.
    """
    if not refs:
        return
    heads = path / "refs" / "heads"
    with closing(StagingDirectory(path)) as stage:
        staged = {ref: stage.path / str(number) for number, ref in enumerate(refs)}
        for ref, file in staged.items():
            OSTree.validate_rev(ref)
            file.write_text(f"{refs[ref]}\n")
            file.chmod(0o644)
        flush()
        for ref, file in staged.items():
            (heads / ref).parent.mkdir(parents=True, exist_ok=True)
            try:
                file.rename(heads / ref)
            except IsADirectoryError:  # of refs that are gone, or of some that are there
                repo.set_ref_immediate(None, ref, refs[ref], None)
        # As libostree tells others that refs have changed.
        os.utime(path)
        flush()
