"""`make bench`: measured figures side by side with peers, all in one run on one machine.

Figures are never asserted: this prints them, says which limits are met, and ends with 0. `--json FILE`
keeps every sample.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench.cold_pull import ColdPull
from tests.bench.filesystem import Ground, enter_namespace
from tests.bench.report import Report
from tests.bench.service import measure_service
from tests.support.host import REPOSITORY_NAME
from tests.support.machine import REPOSITORY
from tests.support.os_image import cached_os_images
from tests.support.registry import Registry

TAG = "v1"


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


async def bench(directory: Path, ground: Ground, rounds: int) -> Report:
    images = await asyncio.to_thread(cached_os_images, REPOSITORY / ".cache/os-image", say=say)
    await ground.probe()
    report = Report(ground.description)
    (directory / "registry").mkdir()
    async with Registry(directory / "registry") as registry:
        await images.push(TAG, registry.host, REPOSITORY_NAME)
        pull = await asyncio.to_thread(ColdPull, registry, images, TAG, directory)
        for number in range(rounds):
            say(f"cold pull, round {number + 1} of {rounds}")
            await pull.round(number, ground)
        report.comparisons.append(pull.comparison)
        report.figures += pull.figures()
        say("the service on a booted host")
        async with ground.new("host") as disk:
            report.figures += await measure_service(
                disk, registry, images, f"{REPOSITORY_NAME}:{TAG}", rounds
            )
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure bootcd beside its peers.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often everything is measured (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: root is needed to make file systems and namespaces: sudo make bench", file=sys.stderr)
        return 1
    reason = enter_namespace()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="bootcd-bench-"))
    try:
        report = asyncio.run(bench(directory, Ground(directory, reason), max(1, arguments.rounds)))
    except KeyboardInterrupt:
        print("\nbench: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\n".join(report.lines()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.document(), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
