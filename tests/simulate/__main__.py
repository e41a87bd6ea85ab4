"""`make simulate`: machines live for a million minutes with the real service, and a judge looks on.

    make simulate
    make simulate SIMULATE='--minutes 5000000 --seed 7'

Facts, the settings of the clock, suspends, restarts and what people do are random, and the same for the same
seed. Ends with 1 if a machine did what it must never do, or left undone what it must not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bootcd.update.facts import Rules
from tests.simulate.figures import Figures
from tests.simulate.world import World

_MEMORY = Path("/dev/shm")
"Files are written all the time, and synced as on a disk."
LIFE = 7 * 24 * 60
"Minutes a machine lives: there are many settings, and DST begins in half of these weeks."


def simulate(minutes: int, seed: int, *, until_first: bool = False, rules: Rules | None = None) -> Figures:
    """Have machines live; all by the same rules if there are any, and `until_first` violation."""
    figures = Figures()
    watch = _Errors(figures)
    directory = _MEMORY if _MEMORY.is_dir() else None
    logging.getLogger("bootcd").addHandler(watch)
    try:
        while figures.minutes < minutes and not (until_first and figures.violations):
            figures.machines += 1
            with TemporaryDirectory(prefix="bootcd-simulate-", dir=directory) as files:
                world = World(Random(f"{seed} {figures.machines}"), figures, Path(files), rules)
                world.live(min(LIFE, minutes - figures.minutes))
    finally:
        logging.getLogger("bootcd").removeHandler(watch)
    return figures


class _Errors(logging.Handler):
    """Takes what the service calls an error for a defect."""

    def __init__(self, figures: Figures) -> None:
        super().__init__(logging.ERROR)
        self._figures = figures

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += f": {record.exc_info[1]!r}"
        self._figures.violations.append(f"an error in the log: {text}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=1_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default: %(default)s)")
    arguments = parser.parse_args()
    begun = time.monotonic()
    figures = simulate(arguments.minutes, arguments.seed)
    print(figures.text())
    print(f"in {time.monotonic() - begun:.0f} s")
    for violation in figures.violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
