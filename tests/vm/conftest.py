"""A virtual machine per test, each gone on with from a snapshot: booting is what takes long."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.faultproxy import FaultProxy
from tests.support.fleet_lock import FleetLockServer
from tests.support.registry import Registry
from tests.vm.disk import install
from tests.vm.guest import Guest, until
from tests.vm.image import FLEET_LOCK, REGISTRY, REPOSITORY, Images, cached_images
from tests.vm.qemu import FIRMWARE_VARIABLES, Machine, Snapshot, missing

OS, OTHER = "example/os", "example/other"
_TEST_SECS = 1800
_CACHE = REPOSITORY / ".cache"
_KEPT = _CACHE / "vm-failed"
_FAILED = pytest.StashKey[bool]()
_SETTLE_SECS = 300


class Host:
    """A virtual machine that runs the test system, and the registry it tracks."""

    def __init__(
        self,
        machine: Machine,
        guest: Guest,
        registry: Registry,
        images: Images,
        proxy: FaultProxy,
        fleet: FleetLockServer,
    ) -> None:
        self.machine = machine
        self.guest = guest
        self.registry = registry
        self.images = images
        self.proxy = proxy
        "What stands between the host and its registry."
        self.fleet = fleet
        "The server of the lock, which a host asks that is told of it."

    async def publish(self, tag: str, name: str = OS) -> str:
        """Make a version what the host finds in the registry; returns its digest."""
        return await self.images.push(tag, self.registry.host, name, "stable")

    def layers(self, tag: str) -> list[str]:
        manifest = self.images.layout / "blobs" / self.images.digest(tag).replace(":", "/")
        return [layer["digest"] for layer in json.loads(manifest.read_text())["layers"]]

    def new_layers(self, tag: str, before: str = "v1") -> list[str]:
        """Return the layers of a version that the other has not."""
        return [layer for layer in self.layers(tag) if layer not in self.layers(before)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have virtual machines only where they are asked for: `make vm-test`, or -m with their marker."""
    reason = missing() if "vm" in config.option.markexpr else "boots virtual machines: make vm-test"
    for item in items:
        if item.get_closest_marker("vm") or item.get_closest_marker("vm_long"):
            item.add_marker(pytest.mark.timeout(_TEST_SECS))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def images() -> Images:
    return cached_images(_CACHE / "vm-image", say=print)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory on disk: what virtual machines write is too much for memory."""
    (parent := _CACHE / "vm-run").mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent))
    yield directory
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def registry(scratch: Path) -> AsyncIterator[Registry]:
    (scratch / "registry").mkdir()
    async with Registry(scratch / "registry") as registry:
        yield registry


@asynccontextmanager
async def _host(
    directory: Path, disk: Path, variables: Path, registry: Registry, images: Images
) -> AsyncIterator[Host]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(registry.url))
        fleet = await stack.enter_async_context(FleetLockServer())
        ports = {port_of(REGISTRY): port_of(proxy.host), port_of(FLEET_LOCK): fleet.port}
        machine = await stack.enter_async_context(Machine(directory, disk, variables, ports))
        guest = Guest(machine, images.key)
        stack.push_async_callback(guest.disconnect)
        host = Host(machine, guest, registry, images, proxy, fleet)
        await host.publish("v1")
        try:
            yield host
        except BaseException:
            await _keep(host, directory.name)
            raise


def port_of(place: str) -> int:
    return int(place.rpartition(":")[2])


async def _keep(host: Host, name: str) -> None:
    """Save what tells why a test failed, and say where."""
    kept = _KEPT / name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in host.machine.directory.glob("*.log"):
        shutil.copy(path, kept)
    if host.machine.running:
        try:
            (kept / "journal.txt").write_text(await host.guest.journal())
        except (TimeoutError, AssertionError, OSError) as error:
            (kept / "journal.txt").write_text(f"could not be read: {error}\n")
    print(f"the console and the journal of the virtual machine are in {kept}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installed(scratch: Path, registry: Registry, images: Images) -> Path:
    """A disk with version 1, never booted."""
    return await install(scratch / "installed.raw", images, f"{REGISTRY}/{OS}:stable")


async def _settled(guest: Guest) -> None:
    """Wait until all that starts by itself has, and the service has looked at the host."""
    await guest.run("systemctl is-system-running --wait", check=False, secs=_SETTLE_SECS)

    async def looked() -> bool | None:
        return (await guest.run("bootcctl status", check=False)).status == 0 or None

    await until(looked, _SETTLE_SECS)
    await guest.run("sync")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def first_boot(scratch: Path, installed: Path, registry: Registry, images: Images) -> Snapshot:
    """The system after its first boot, once everything that starts by itself has."""
    directory = scratch / "first-boot"
    async with _host(directory, installed, FIRMWARE_VARIABLES, registry, images) as host:
        await host.machine.start()
        assert await host.machine.booted() == "test-os-1"
        await _settled(host.guest)
        await host.guest.disconnect()
        return await host.machine.save(scratch / "first-boot.state")


@pytest_asyncio.fixture(loop_scope="session")
async def host(
    request: pytest.FixtureRequest, scratch: Path, first_boot: Snapshot, registry: Registry, images: Images
) -> AsyncIterator[Host]:
    """A machine that has booted version 1 and tracks `stable`."""
    async with _resumed(request, scratch, first_boot, registry, images) as host:
        yield host


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def after_upgrade(scratch: Path, first_boot: Snapshot, registry: Registry, images: Images) -> Snapshot:
    """The system upgraded from version 1 to version 2, and booted."""
    directory = scratch / "after-upgrade"
    async with _host(directory, first_boot.disk, first_boot.variables, registry, images) as host:
        await host.machine.start(first_boot)
        await host.publish("v2")
        assert await host.guest.reboot("bootcctl upgrade --apply") == "test-os-2"
        await _settled(host.guest)
        await host.guest.disconnect()
        return await host.machine.save(scratch / "after-upgrade.state")


@pytest_asyncio.fixture(loop_scope="session")
async def upgraded(
    request: pytest.FixtureRequest, scratch: Path, after_upgrade: Snapshot, registry: Registry, images: Images
) -> AsyncIterator[Host]:
    """A machine that has booted version 2, with version 1 to roll back to."""
    async with _resumed(request, scratch, after_upgrade, registry, images) as host:
        yield host


@asynccontextmanager
async def _resumed(
    request: pytest.FixtureRequest, scratch: Path, snapshot: Snapshot, registry: Registry, images: Images
) -> AsyncIterator[Host]:
    directory = scratch / request.node.name
    async with _host(directory, snapshot.disk, snapshot.variables, registry, images) as host:
        await host.machine.start(snapshot)
        yield host
        if request.node.stash.get(_FAILED, False):
            await _keep(host, request.node.name)
    await asyncio.to_thread(shutil.rmtree, directory)
