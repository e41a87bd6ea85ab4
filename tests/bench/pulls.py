"""Pulls and upgrades, round by round: every contender in its turn, all steps on one new file system each.

    base -> 1 % of the files changed -> another 5 % -> another 30 %

Then, with ours alone, the same in layers of zstd:chunked, with partial pulls by both proofs and without; the
upgrade by 5 % once more over a line that is slower than the loopback; and that of images half as large, which
changes the very same files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.contenders import (
    BOOTC,
    DEPLOY,
    IMPORT,
    PODMAN,
    SKOPEO,
    Bootcd,
    BootcdTable,
    BootcdWhole,
    Contender,
    contenders,
)
from tests.bench.filesystem import Ground
from tests.bench.floor import plan
from tests.bench.images import CHUNKED, LAYERS, PERCENTS, BenchImages
from tests.bench.measure import Sample, measure
from tests.bench.report import MIB, Comparison, Figure
from tests.support.host import PYTHON
from tests.support.registry import Registry

FLOOR = "floor: hash, unpack, write"
PARTIAL = "bootcd: partial pull, proof of the archive"
TABLE = "bootcd: partial pull, proof of the table"
WHOLE = "bootcd: whole layers"

_LINE_BYTES = 20_000_000
"A second, of the slower line: 160 Mbit/s."
_OURS: dict[str, type[Bootcd]] = {PARTIAL: Bootcd, TABLE: BootcdTable, WHOLE: BootcdWhole}
_HALVES = {
    "half": "in as many layers of half the size",
    "few": "in half as many layers of the same size",
}

_FLOOR_CORES = 2
"As many as the limits are stated for."
_STEPS = ("base", *(f"u{percent}" for percent in PERCENTS))


class Pulls:
    """The scenarios. `work` holds what must not be on the file systems measured."""

    def __init__(self, registry: Registry, images: BenchImages, work: Path) -> None:
        self._registry = registry
        self._images = images
        self._work = work
        self._contenders = contenders()
        layers = plan(images.images.layout, images.images.digest("base"))
        self._bytes = {
            "compressed": sum(layer["bytes"] for layer in layers),
            "files": sum(size for layer in layers for _, size in layer["files"]),
        }
        self._plan = work / "plan.json"
        self._plan.write_text(json.dumps(layers))
        self._spent: dict[str, list[float]] = {}
        self._growth: dict[tuple[str, str, str], list[float]] = {}
        "Walls of upgrades of images of half the size, by which half, form of the layers and who."
        baseline = SKOPEO if len(self._contenders) > 1 else IMPORT
        self._plain = {step: Comparison(self._title(step, "gzip"), baseline) for step in _STEPS}
        self._chunked = {step: Comparison(self._title(step, "zstd:chunked"), WHOLE) for step in _STEPS[1:]}
        line = f"zstd:chunked, a line of {_LINE_BYTES // 10**6} MB/s"
        self._slow = Comparison(self._title("u5", line), WHOLE)

    @property
    def comparisons(self) -> list[Comparison]:
        return [*self._plain.values(), *self._chunked.values(), self._slow]

    def _title(self, step: str, form: str) -> str:
        facts = self._images.facts[step]
        if step == "base":
            size = f"{self._bytes['compressed'] / MIB:.0f} MiB of {facts.bytes / MIB:.0f} MiB"
            return f"cold pull: {size} in {LAYERS} layers of {form}, {facts.files} files"
        return f"upgrade: {step[1:]} % of the files changed, {facts.changed_files} of {facts.files}; {form}"

    async def round(self, number: int, ground: Ground) -> None:
        """Run every contender once, each time another one first."""
        turn = number % len(self._contenders)
        for kind in self._contenders[turn:] + self._contenders[:turn]:
            for step, samples in zip(_STEPS, await self._run(kind, _STEPS, ground), strict=True):
                for name, sample in samples.items():
                    self._plain[step].add(name, sample)
        await self._floor(ground)
        chunked = [step + CHUNKED for step in _STEPS]
        for name, ours in _OURS.items():
            for step, samples in zip(_STEPS, await self._run(ours, chunked, ground), strict=True):
                if step in self._chunked:
                    self._chunked[step].add(name, samples[IMPORT])
            self._slow.add(name, await self._over_the_line(ours, chunked[:3], ground))
        for half in _HALVES:
            for form, name, ours in (
                ("", IMPORT, Bootcd),
                (CHUNKED, PARTIAL, Bootcd),
                (CHUNKED, TABLE, BootcdTable),
            ):
                *_, upgrade = await self._run(ours, [f"{half}-base{form}", f"{half}-u5{form}"], ground)
                self._growth.setdefault((half, form, name), []).append(upgrade[IMPORT].wall_secs)

    async def _over_the_line(self, kind: type[Bootcd], tags: Sequence[str], ground: Ground) -> Sample:
        """Return what the last of some pulls took, over the slower line."""
        async with ground.new("disk") as disk, kind(self._registry, disk, self._work) as contender:
            for tag in tags[:-1]:
                await contender.pull(tag)
            contender.max_bandwidth_bytes = _LINE_BYTES
            return (await contender.pull(tags[-1]))[IMPORT]

    async def _run(
        self, kind: type[Contender], tags: Sequence[str], ground: Ground
    ) -> list[dict[str, Sample]]:
        async with ground.new("disk") as disk, kind(self._registry, disk, self._work) as contender:
            return [await contender.pull(tag) for tag in tags]

    async def _floor(self, ground: Ground) -> None:
        async with ground.new("disk") as disk:
            log = self._work / "floor"
            command: list[str | Path] = [PYTHON, "-m", "tests.bench.floor", self._plan, disk]
            self._plain["base"].add(FLOOR, await measure(command, log))
            for part, secs in json.loads(log.read_text()).items():
                self._spent.setdefault(part, []).append(secs)

    def figures(self) -> list[Figure]:
        return [*self._cold(), *self._limits(), *self._upgrades(), *self._over_size()]

    def _cold(self) -> list[Figure]:
        found = self._plain["base"]
        floor = found.median(FLOOR, "cpu_secs")
        spent = ", ".join(f"{part} {median(secs):.2f}" for part, secs in self._spent.items())
        found.notes = [
            f"floor: {floor:.2f} CPU s = {spent}, start of the interpreter; /{_FLOOR_CORES} cores",
            "only bootcd and the bootc way flush to the disk what they wrote; peak is of the largest process",
            "skopeo unpacks nothing; only bootcd deploys; the bootc way is its commands, not bootc itself",
        ]
        wall, job = (found.median(name, "wall_secs") for name in (IMPORT, DEPLOY))
        figures = []
        if PODMAN in found.samples:
            figures.append(
                Figure(
                    "cold pull: whole job / podman pull, wall",
                    job / found.median(PODMAN, "wall_secs"),
                    "x",
                    0.5,
                )
            )
        if BOOTC in found.samples:
            figures.append(
                Figure(
                    "cold pull: import / the bootc way, wall",
                    wall / found.median(BOOTC, "wall_secs"),
                    "x",
                    0.33,
                )
            )
        peaks = [
            s.peak_bytes
            for c in self.comparisons
            for n, ss in c.samples.items()
            if "bootcd:" in n
            for s in ss
        ]
        return [
            *figures,
            Figure("cold pull: import / (CPU floor / 2), wall", wall / (floor / _FLOOR_CORES), "x", 1.7),
            Figure("cold pull: import / CPU floor, CPU", found.median(IMPORT, "cpu_secs") / floor, "x"),
            Figure("worker, peak memory of all pulls", max(peaks) / MIB, "MiB", 200),
        ]

    def _limits(self) -> list[Figure]:
        """Return what this machine can do, one core each."""
        hashed = self._bytes["compressed"] + 2 * self._bytes["files"]
        work = {"hash": hashed, "decompress": self._bytes["files"], "write": self._bytes["files"]}
        note = {
            "hash": "SHA-256",
            "decompress": "gzip, bytes that come out",
            "write": "files of the image, no flush",
        }
        return [
            Figure(f"limit: {part}", count / median(self._spent[part]) / 1e6, "MB/s", note=note[part])
            for part, count in work.items()
        ]

    def _upgrades(self) -> list[Figure]:
        figures = []
        for step, found in self._chunked.items():
            facts = self._images.facts[step]
            wire = found.median(PARTIAL, "wire_bytes")
            least = facts.changed_bytes + facts.tables_bytes
            changed, tables = facts.changed_bytes / 1e6, facts.tables_bytes / 1e6
            note = f"{wire / 1e6:.1f} MB; {changed:.1f} of changed files, {tables:.1f} of tables"
            name = f"upgrade {step[1:]} %, partial"
            limits = (1.2, 0.35) if step == "u5" else (None, None)
            figures += [
                Figure(f"{name}: bytes / (changed files + tables)", wire / least, "x", limits[0], note),
                *_against_whole(f"{name} / whole layers", found, limits[1]),
                Figure(f"{name} / whole layers, bytes", found.ratio(PARTIAL, "wire_bytes"), "x"),
            ]
        return [*figures, *_against_whole("upgrade 5 %, slow line, partial / whole layers", self._slow, None)]

    def _over_size(self) -> list[Figure]:
        """Return how the time of an upgrade grows with the image."""
        figures = []
        for (half, form, name), walls in self._growth.items():
            comparison = self._chunked["u5"] if form else self._plain["u5"]
            kind = f"{'zstd:chunked' if form else 'gzip'}{_proof(name)}"
            figures.append(
                Figure(
                    f"upgrade 5 %, {kind}: image / half of it, wall",
                    comparison.median(name, "wall_secs") / median(walls),
                    "x",
                    1.3,
                    f"the same files changed; half of it {_HALVES[half]}",
                )
            )
        return figures


def _proof(name: str) -> str:
    """Return the proof that a contender's name tells of."""
    return f", {name.rpartition(', ')[2]}" if "proof" in name else ""


def _against_whole(name: str, found: Comparison, limit: float | None) -> list[Figure]:
    return [
        Figure(f"{name}, wall{_proof(partial)}", found.ratio(partial, "wall_secs"), "x", limit)
        for partial in (PARTIAL, TABLE)
    ]
