"""Health checks of image and administrator: programs in directories, each run with a deadline.

    /etc/bootcd/health.d/required.d     of the administrator: a boot where one fails is bad
    /etc/bootcd/health.d/wanted.d       likewise; what fails is told
    /usr/lib/bootcd/health.d/...        of the image

A file in /etc takes the place of the image's of the same name, and a link to /dev/null switches it off, as
with drop-ins of systemd. Checks run in the order of their names, required ones first. One that is good ends
with 0; anything it prints goes to the journal.

Where greenboot is not installed, its directories are read as well (https://github.com/fedora-iot/greenboot):
`/etc/greenboot/check/{required,wanted}.d/*.sh` and the same below /usr/lib, run with bash.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootcd.host import process
from bootcd.policy.health import Result

log = logging.getLogger(__name__)

OWN = ("usr/lib/bootcd/health.d", "etc/bootcd/health.d")
GREENBOOT = ("usr/lib/greenboot/check", "etc/greenboot/check")
"What counts most comes last."

_OUTPUT_LIMIT = 1 << 20
"A check that prints more gets an error from its write."
_LOGGED_LINES = 40
_SHOWN_CHARACTERS = 200


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
        found += [Check(path, required) for path in _programs(root, OWN, name)]
        if greenboot:
            scripts = _programs(root, GREENBOOT, name)
            found += [Check(path, required, by_bash=True) for path in scripts if path.suffix == ".sh"]
    return found


def _programs(root: Path, places: Sequence[str], name: str) -> list[Path]:
    programs: dict[str, Path] = {}
    for place in places:
        try:
            entries = sorted((root / place / name).iterdir())
        except FileNotFoundError:
            continue
        programs |= {path.name: path for path in entries if path.name[0] != "." and path.name[-1] != "~"}
    return [path for _, path in sorted(programs.items()) if path.resolve() != Path("/dev/null")]


async def run_check(check: Check, *, deadline_secs: float) -> Result:
    """Run a check to its end, or kill it and all it started in its process group."""
    return Result(str(check.path), await _problem(check, deadline_secs), check.required)


async def _problem(check: Check, deadline_secs: float) -> str:
    if not check.by_bash and not os.access(check.path, os.X_OK):
        return "is not executable"
    command = ["bash", str(check.path)] if check.by_bash else [str(check.path)]
    try:
        done = await process.run(command, deadline_secs=deadline_secs, limit=_OUTPUT_LIMIT)
    except TimeoutError:
        return f"has not ended after {deadline_secs:g} s"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    for line in lines[-_LOGGED_LINES:]:
        log.info("%s: %s", check.path.name, line)
    if done.status == 0:
        return ""
    how = f"exit status {done.status}" if done.status > 0 else f"killed by signal {-done.status}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{how}: {last[:_SHOWN_CHARACTERS]}" if last else how
