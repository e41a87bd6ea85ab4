"""Programs that image and administrator put into directories, found and run with a deadline.

A file in /etc takes the place of the image's of the same name, and a link to /dev/null switches it off, as
with drop-ins of systemd.unit(5). Hidden files and backups of editors mean nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bootcd.host import process
from bootcd.model.text import last_line

log = logging.getLogger(__name__)

_OUTPUT_LIMIT = 1 << 20
"A program that prints more gets an error from its write."
_LOGGED_LINES = 40


def find_programs(root: Path, places: Sequence[str], name: str) -> list[Path]:
    """List the files of the directory `name` in all places below `root`, by their names.

    What counts most is the last place. Raises OSError. Blocks.
    """
    programs: dict[str, Path] = {}
    for place in places:
        try:
            entries = sorted((root / place / name).iterdir())
        except FileNotFoundError:
            continue
        programs |= {path.name: path for path in entries if path.name[0] != "." and path.name[-1] != "~"}
    return [path for _, path in sorted(programs.items()) if path.resolve() != Path("/dev/null")]


async def run_program(
    path: Path,
    *,
    deadline_secs: float,
    by_bash: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end, or kill it and all it started in its process group.

    `by_bash`: as a script of bash, whatever its mode. `environment` is all it gets, None for ours. Returns
    what is wrong with how it ended, with the last line it printed; empty if all is well.
    """
    if not by_bash and not os.access(path, os.X_OK):
        return "is not executable"
    command = ["bash", str(path)] if by_bash else [str(path)]
    try:
        done = await process.run(
            command, deadline_secs=deadline_secs, limit=_OUTPUT_LIMIT, environment=environment
        )
    except TimeoutError:
        return f"has not ended after {deadline_secs:g} s"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    for line in lines[-_LOGGED_LINES:]:
        log.info("%s: %s", path.name, line)
    if done.status == 0:
        return ""
    how = f"exit status {done.status}" if done.status > 0 else f"killed by signal {-done.status}"
    last = last_line(done.stdout + done.stderr)
    return f"{how}: {last}" if last else how
