"""`make fuzz`: look for inputs that break a parser of untrusted bytes.

    make fuzz                   every target for a minute
    make fuzz FUZZ='--secs 3600 tar'

With atheris (https://github.com/google/atheris) inputs are led by the code they reach; without it they
are made at random. What breaks a target is kept in `.cache/fuzz/found/<target>/`; once the parser is
mended, it belongs into the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
WORK = Path(__file__).parents[2] / ".cache/fuzz"
_MAX_LENGTH = 64 << 10


def main() -> int:
    names = sorted(path.name for path in CORPUS.iterdir())
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--secs", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--led", metavar="TARGET", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.led:
        _led(arguments.led, arguments.secs)
    if unknown := set(arguments.targets) - set(names):
        parser.error(f"no target {', '.join(unknown)}")
    led = importlib.util.find_spec("atheris") is not None
    print("led by coverage" if led else "at random; install atheris to be led by coverage")
    broken = []
    for name in arguments.targets or names:
        (WORK / "found" / name).mkdir(parents=True, exist_ok=True)
        if led:
            command = [sys.executable, "-m", "tests.fuzz", "--led", name, "--secs", str(arguments.secs)]
            whole = subprocess.run(command, check=False).returncode == 0
        else:
            whole = _at_random(name, arguments.secs)
        print(f"{name}: {'nothing found' if whole else f'see {WORK}/found/{name}'}", flush=True)
        if not whole:
            broken.append(name)
    return 1 if broken else 0


def _at_random(name: str, secs: float) -> bool:
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import TARGETS

    corpus = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    seed = random.SystemRandom().getrandbits(64)
    print(f"{name}: seed {seed}")
    chance, end, count = random.Random(seed), time.monotonic() + secs, 0
    while time.monotonic() < end:
        data = mutated(corpus, chance)
        count += 1
        try:
            TARGETS[name](data)
        except Exception:
            traceback.print_exc()
            (WORK / "found" / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            return False
    print(f"{name}: {count} inputs")
    return True


def _led(name: str, secs: int) -> None:
    """Hand the process over to libFuzzer, which ends it."""
    import atheris  # type: ignore[import-not-found]  # not everywhere: see the Makefile

    with atheris.instrument_imports(include=["bootcd"]):
        from tests.fuzz.targets import TARGETS

    grown = WORK / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={secs}", f"-max_len={_MAX_LENGTH}", "-timeout=5", "-rss_limit_mb=1024"]
    where = [f"-artifact_prefix={WORK}/found/{name}/", os.fspath(grown), os.fspath(CORPUS / name)]
    atheris.Setup([sys.argv[0], *options, *where], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
