"""`make bench`: measured figures side by side with peers, all in one run on one machine.

Figures are never asserted: this prints them, says which limits are met, and ends with 0. `--json FILE`
keeps every sample, `--chart FILE` draws the walls.
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
from dataclasses import replace
from pathlib import Path

from tests.bench.answers import measure_answers
from tests.bench.chart import chart
from tests.bench.filesystem import KINDS, Ground, enter_namespace
from tests.bench.images import BenchImages, bench_images
from tests.bench.large import LARGE_BYTES, large_images, measure_large
from tests.bench.pulls import Pulls
from tests.bench.report import Report
from tests.bench.service import measure_service
from tests.support.host import REPOSITORY_NAME
from tests.support.image_layout import OsImages
from tests.support.machine import REPOSITORY
from tests.support.os_image import cached_os_images
from tests.support.registry import Registry

LEAST_SIZE = 64 << 20
_CACHE = REPOSITORY / ".cache/bench-image"
_UNITS = {"M": 20, "G": 30}


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


async def bench(directory: Path, grounds: dict[str, Ground], arguments: argparse.Namespace) -> Report:
    if arguments.only == "large":
        return await _large(directory, grounds, arguments.rounds)
    images = await asyncio.to_thread(_images, arguments.size)
    report = Report("; ".join([ground.description for ground in grounds.values()]))
    (directory / "registry").mkdir()
    async with Registry(directory / "registry") as registry:
        say("the images go to a registry")
        for tag in images.tags:
            await images.images.push(tag, registry.host, REPOSITORY_NAME)
        if arguments.only != "service":
            for kind, ground in grounds.items():
                pulls = Pulls(registry, images, directory)
                for number in range(arguments.rounds):
                    say(f"pulls onto {kind}, round {number + 1} of {arguments.rounds}")
                    await pulls.round(number, ground)
                mark = f" [{kind}]" if len(grounds) > 1 else ""
                report.figures += [replace(f, name=f.name + mark) for f in pulls.figures()]
                for comparison in pulls.comparisons:
                    comparison.scenario += mark
                    report.comparisons.append(comparison)
        if arguments.only != "pulls":
            say("the service on a booted host")
            async with next(iter(grounds.values())).new("host") as disk:
                reference = f"{REPOSITORY_NAME}:base"
                report.figures += await measure_service(
                    disk, registry, images.images, reference, arguments.rounds
                )
            say("many callers at once")
            report.figures += await measure_answers(directory / "answers")
    return report


async def _large(directory: Path, grounds: dict[str, Ground], rounds: int) -> Report:
    images = await asyncio.to_thread(large_images, _CACHE, _system(), say)
    report = Report("; ".join([ground.description for ground in grounds.values()]))
    (directory / "registry").mkdir()
    async with Registry(directory / "registry") as registry:
        for kind, ground in grounds.items():
            say(f"large pulls onto {kind}")
            comparisons, figures = await measure_large(registry, images, ground, directory, rounds)
            mark = f" [{kind}]" if len(grounds) > 1 else ""
            report.figures += [replace(figure, name=figure.name + mark) for figure in figures]
            for comparison in comparisons:
                comparison.scenario += mark
            report.comparisons += comparisons
    return report


def _system() -> OsImages:
    return cached_os_images(REPOSITORY / ".cache/os-image", say=say)


def _images(size_bytes: int) -> BenchImages:
    return bench_images(_CACHE, _system(), size_bytes, say)


def _grounds(directory: Path, arguments: argparse.Namespace, reason: str) -> dict[str, Ground]:
    return {
        kind: Ground(directory, reason, kind=kind, image_bytes=arguments.size)
        for kind in dict.fromkeys(arguments.fs.split(","))
    }


async def _run(directory: Path, arguments: argparse.Namespace, reason: str) -> Report:
    grounds = _grounds(directory, arguments, reason)
    for ground in grounds.values():
        await ground.probe()
    return await bench(directory, grounds, arguments)


def _size(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not like 200M or 1G")
    size = int(number) << _UNITS[unit]
    if size < LEAST_SIZE:
        raise argparse.ArgumentTypeError(f"{text} is less than {LEAST_SIZE >> 20}M")
    return size


def _file_systems(text: str) -> str:
    if unknown := set(text.split(",")) - KINDS.keys():
        raise argparse.ArgumentTypeError(f"{min(unknown)} is none of {', '.join(KINDS)}")
    return text


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure bootcd beside its peers.")
    parser.add_argument(
        "--size", type=_size, default="1G", help="of the image's files, 1G or 200M (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured (%(default)s)")
    parser.add_argument(
        "--fs", type=_file_systems, default="ext4", help="ext4, xfs or both: ext4,xfs (%(default)s)"
    )
    parser.add_argument(
        "--only", choices=("pulls", "service", "large"), help="measure one part; large only if asked for"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the times as SVG")
    arguments = parser.parse_args()
    arguments.rounds = max(1, arguments.rounds)
    if arguments.only == "large":
        arguments.size = LARGE_BYTES
    return arguments


def main() -> int:
    arguments = _parse()
    if os.geteuid() != 0:
        print("bench: root is needed to make file systems and namespaces: sudo make bench", file=sys.stderr)
        return 1
    reason = enter_namespace()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also when started in the background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="bootcd-bench-"))
    try:
        report = asyncio.run(_run(directory, arguments, reason))
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
    if arguments.chart:
        arguments.chart.write_text(chart(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
