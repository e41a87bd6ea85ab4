"""Images bound to a host image: pulled before it is deployed, by real workers with the real podman."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, Outcome
from tests.adapter.ostree.test_importer import KERNEL
from tests.support.deployed import deploy_first, prepared_host
from tests.support.host import PYTHON, run_worker
from tests.support.machine import Machine
from tests.support.oci_image import file, make_image, make_layer, symlink
from tests.support.registry import Registry

pytestmark = [pytest.mark.machine, pytest.mark.timeout(240)]

BOUND = "usr/lib/bootc/bound-images.d"


class Site:
    """A system root that is not booted, and its registry."""

    def __init__(self, directory: Path, machine: Machine, registry: Registry) -> None:
        self.directory = directory
        self.sysroot = machine.sysroot
        self.registry = registry

    async def deploy(self, version: str, *bound: str) -> Outcome:
        """Publish a version of the host image that is bound to these images, and deploy it."""
        entries = [*KERNEL, file("usr/lib/version", version.encode())]
        for name in bound:
            text = f"[Container]\nImage={self.registry.host}/{name}:1\n"
            entries.append(file(f"etc/containers/systemd/{name}.container", text.encode()))
            entries.append(symlink(f"{BOUND}/{name}.container", f"/etc/containers/systemd/{name}.container"))
        await self.registry.push("os", version, make_image([make_layer(entries)]))
        return await run_worker(
            self.directory,
            JobKind.SWITCH,
            image=f"{self.registry.host}/os:{version}",
            sysroot=self.sysroot,
            registry=self.registry.host,
        )

    def deployments(self) -> list[str]:
        return sorted(path.name for path in self.sysroot.glob("ostree/deploy/*/deploy/*.origin"))

    def stored(self) -> set[str]:
        return stored(self.sysroot)


def stored(sysroot: Path) -> set[str]:
    """Return the names of the images in the store, without their registry."""
    found = list((sysroot / "ostree/bootc/storage").glob("*-images/images.json"))
    entries = json.loads(found[0].read_bytes()) if found else []
    return {name.rpartition("/")[2].partition(":")[0] for entry in entries for name in entry["names"]}


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("STORAGE_DRIVER", "vfs")
    (tmp_path / "registry").mkdir()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(tmp_path / "registry"))
        machine = await Machine.create(tmp_path / "machine", binds=[PYTHON.parent.parent])
        for name in ("web", "db"):
            await registry.push(name, "1", make_image([make_layer([file("app", name.encode())])]))
        yield Site(tmp_path, await stack.enter_async_context(machine), registry)


async def test_bound_images_come_before_their_deployment_and_go_with_it(site: Site) -> None:
    assert (await site.deploy("1")).error is None
    assert not (site.sysroot / "ostree/bootc/storage").exists()

    assert (await site.deploy("2", "web")).error is None
    assert site.stored() == {"web"}

    before = site.deployments()
    failed = await site.deploy("3", "db", "missing")
    assert failed.error is not None
    assert failed.error.name == "BackendFailed"
    assert "missing:1" in failed.error.message
    assert site.deployments() == before

    assert (await site.deploy("4", "db")).error is None
    assert {"db"} <= site.stored() <= {"web", "db"}
    for version in ("5", "6"):
        assert (await site.deploy(version)).error is None
    assert site.stored() == set()


async def test_bound_image_that_cannot_be_understood_keeps_the_host_as_it_is(site: Site) -> None:
    entries = [*KERNEL, symlink(f"{BOUND}/x.image", "/etc/shadow")]
    await site.registry.push("os", "bad", make_image([make_layer(entries)]))
    outcome = await run_worker(
        site.directory,
        JobKind.SWITCH,
        image=f"{site.registry.host}/os:bad",
        sysroot=site.sysroot,
        registry=site.registry.host,
    )
    assert outcome.error is not None
    assert outcome.error.name == "NotBootable"
    assert site.deployments() == []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_bound_images_go_with_a_drop_and_with_a_change_of_kernel_arguments(tmp_path: Path) -> None:
    async with prepared_host(tmp_path) as host:
        containers = host.tree("1") / "usr/etc/containers"
        write(containers / "policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        roots = 'graphroot = "/var/lib/containers"\nrunroot = "/run/containers"\n'
        write(containers / "storage.conf", f'[storage]\ndriver = "vfs"\n{roots}')
        for number, name in (("2", "web"), ("3", "db")):
            await host.registry.push(name, "1", make_image([make_layer([file("app", name.encode())])]))
            quadlet = host.tree(number) / f"usr/share/containers/systemd/{name}.image"
            write(quadlet, f"[Image]\nImage={host.registry.host}/{name}:1\n")
            link = host.tree(number) / BOUND / quadlet.name
            link.parent.mkdir(parents=True)
            link.symlink_to(f"/usr/share/containers/systemd/{quadlet.name}")
        await deploy_first(host)

        await host.publish("2")
        await host.done(JobKind.UPGRADE)
        assert stored(host.machine.sysroot) == {"web"}
        await host.done(JobKind.DROP, deployment="staged")
        assert stored(host.machine.sysroot) == set()

        await host.publish("3")
        await host.done(JobKind.UPGRADE)
        assert stored(host.machine.sysroot) == {"db"}
        # Another program takes it off the host, and knows nothing of the store.
        await host.machine.run(["ostree", "admin", "undeploy", "0"])
        await host.done(JobKind.KERNEL_ARGUMENTS, append=("audit=0",))
        assert stored(host.machine.sysroot) == set()
