"""A check of a host that bootc drives asks the registry itself, and bootc for nothing but the status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bootcd.bootc.command import Bootc
from bootcd.engine.bootc import BootcEngine
from bootcd.model.errors import NotFound, Unsupported
from bootcd.model.job import ImageUpdate, JobKind, JobRequest, Phase, Progress, WorkerSettings
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host
from tests.support.oci_image import Image, digest_of, file, make_image, make_index, make_layer
from tests.support.registry import Registry

REQUEST = JobRequest(uuid="7f2c1c0e-0000-4000-8000-000000000000", kind=JobKind.CHECK)
VERSION = "org.opencontainers.image.version"


def image(version: str) -> Image:
    return make_image(
        [make_layer([file("usr/version", version.encode())])],
        labels={VERSION: version},
        created="2026-03-01T00:00:00Z",
        annotations={"org.bootcd.rollout.period": "2d"},
    )


class Checked:
    def __init__(self, registry: Registry, bootc: BootcStandIn) -> None:
        self.registry = registry
        self.bootc = bootc

    @property
    def reference(self) -> dict[str, str]:
        return {"image": f"{self.registry.host}/os:1", "transport": "registry"}

    def entry(self, role: str, version: str, digest: str) -> dict[str, Any]:
        entry = composefs_entry(role, version)
        entry["image"] |= {"image": self.reference, "imageDigest": digest}
        return entry

    def deploy(self, booted: str, rollback: str = "", staged: str = "") -> None:
        """Have these deployed, by digest."""
        roles = {"rollback": rollback, "staged": staged}
        others = {role: self.entry(role, "0", digest) for role, digest in roles.items() if digest}
        self.bootc.answer("host.json", composefs_host(booted=self.entry("booted", "1", booted), **others))

    async def check(self) -> ImageUpdate | None:
        settings = WorkerSettings(insecure_registries=frozenset({self.registry.host}))
        engine = BootcEngine(Bootc(str(self.bootc.program)), settings)
        seen: list[Progress] = []
        outcome = await engine.run(REQUEST, seen.append)
        assert [progress.phase for progress in seen] == [Phase.RESOLVE]
        assert self.bootc.calls == []
        return outcome.update


@pytest.fixture
async def checked(tmp_path: Path) -> AsyncIterator[Checked]:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        yield Checked(registry, BootcStandIn(tmp_path / "bin"))


async def test_newer_version_is_told_with_its_age_and_the_period_of_its_rollout(checked: Checked) -> None:
    digest = await checked.registry.push("os", "1", image("2"))
    checked.deploy("sha256:" + "1" * 64)

    assert await checked.check() == ImageUpdate(
        image=checked.reference["image"],
        digest=digest,
        version="2",
        created=datetime(2026, 3, 1, tzinfo=UTC),
        rollout_secs=2 * 86400,
    )


async def test_what_is_deployed_is_no_update_whatever_digest_bootc_knows_it_by(checked: Checked) -> None:
    newest = image("2")
    index = make_index([newest])
    await checked.registry.push("os", "1", index)

    # Releases of bootc differ in which of them they show.
    for digest in (newest.digest, index.digest, digest_of(newest.config)):
        checked.deploy(digest)
        assert await checked.check() is None
        checked.deploy("sha256:" + "1" * 64, staged=digest)
        assert await checked.check() is None


async def test_version_that_was_left_is_told_by_the_digest_it_was_left_by(checked: Checked) -> None:
    newest = image("2")
    await checked.registry.push("os", "1", newest)
    checked.deploy("sha256:" + "1" * 64, rollback=digest_of(newest.config))

    update = await checked.check()

    assert update is not None
    assert update.digest == digest_of(newest.config)


async def test_image_that_is_not_there_is_a_typed_error(checked: Checked) -> None:
    checked.deploy("sha256:" + "1" * 64)
    with pytest.raises(NotFound):
        await checked.check()


def test_image_of_a_transport_that_is_not_read_is_refused_at_once(tmp_path: Path) -> None:
    bootc = BootcStandIn(tmp_path / "bin")
    booted = composefs_entry("booted", "1")
    booted["image"]["image"] = {"image": "os", "transport": "docker-daemon"}
    bootc.answer("host.json", composefs_host(booted=booted))
    with pytest.raises(Unsupported):
        BootcEngine(Bootc(str(bootc.program))).prepare(REQUEST)
