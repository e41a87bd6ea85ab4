"""Health checks of image and administrator: programs in directories, each run with a deadline.

    /etc/bootcd/health.d/required.d     of the administrator: a boot where one fails is bad
    /etc/bootcd/health.d/wanted.d       likewise; what fails is told
    /usr/lib/bootcd/health.d/...        of the image

For what takes the place of what see `bootcd.host.programs`. Checks run in the order of their names, required
ones first. One that is good ends with 0; anything it prints goes to the journal.

Where greenboot is not installed, its directories are read as well (https://github.com/fedora-iot/greenboot):
`{required,wanted}.d` of /usr/lib/greenboot/check and /etc/greenboot/check, where `*.sh` is run with bash
whatever its mode, and anything else if it is executable. Both places count, also for a name they share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bootcd.host.programs import find_programs, run_program
from bootcd.policy.health import Result

OWN = ("usr/lib/bootcd/health.d", "etc/bootcd/health.d")
"What counts most comes last."
GREENBOOT = ("usr/lib/greenboot/check", "etc/greenboot/check")
"In the order they are run in."


@dataclass(frozen=True, slots=True)
class Check:
    path: Path
    required: bool
    by_bash: bool = False
    "Whatever its mode: as greenboot does."


def find_checks(root: Path, *, greenboot: bool) -> list[Check]:
    """List the checks below `root`; `greenboot`: its own ones too. Raises OSError. Blocks."""
    found = []
    for name, required in (("required.d", True), ("wanted.d", False)):
        found += [Check(path, required) for path in find_programs(root, OWN, name)]
        if greenboot:
            paths = [path for place in GREENBOOT for path in find_programs(root, (place,), name)]
            found += [
                Check(path, required, by_bash=path.suffix == ".sh")
                for path in paths
                if path.suffix == ".sh" or (path.is_file() and os.access(path, os.X_OK))
            ]
    return found


async def run_check(check: Check, *, deadline_secs: float) -> Result:
    """Run a check to its end, or kill it and all it started in its process group."""
    problem = await run_program(check.path, deadline_secs=deadline_secs, by_bash=check.by_bash)
    return Result(str(check.path), problem, check.required)
