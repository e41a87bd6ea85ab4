"""Kernel arguments of a host over its updates, done by real worker processes and read from boot entries."""

from __future__ import annotations

import asyncio
import platform
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from bootcd.model.errors import ErrorInfo
from bootcd.model.job import JobKind, JobState, Outcome
from tests.support.foreign import commit_image, deploy, image_of_tree, refs
from tests.support.host import prepare_job, run_worker, worker_command
from tests.support.machine import Machine, minimal_tree
from tests.support.registry import Registry

pytestmark = pytest.mark.machine

KARGS_D = "usr/lib/bootc/kargs.d"

Files = Mapping[str, str]


class Host:
    """A machine and the registry whose `os:1` it follows."""

    def __init__(self, machine: Machine, registry: Registry, directory: Path) -> None:
        self.machine = machine
        self._registry = registry
        self._directory = directory

    @property
    def image(self) -> str:
        return f"{self._registry.host}/os:1"

    def tree(self, version: str, kargs_d: Files | None) -> Path:
        """Write a system with these files in its kargs.d, None for no such directory."""
        tree = minimal_tree(self._directory / f"tree-{version}", version)
        if kargs_d is not None:
            (tree / KARGS_D).mkdir(parents=True)
            for name, text in kargs_d.items():
                (tree / KARGS_D / name).write_text(text)
        return tree

    async def publish(self, version: str, kargs_d: Files | None) -> None:
        await self._registry.push("os", "1", image_of_tree(self.tree(version, kargs_d), version=version))

    async def install(self) -> None:
        """Deploy what is published on the empty disk, with our own worker."""
        outcome = await run_worker(
            self._directory,
            JobKind.SWITCH,
            image=self.image,
            sysroot=self.machine.sysroot,
            registry=self._registry.host,
        )
        assert outcome.error is None

    async def upgrade(self) -> Outcome:
        run = self.machine.path("/run")
        job, _ = prepare_job(run, JobKind.UPGRADE, registry=self._registry.host)
        inside = Path("/run/jobs") / job.name
        process = await self.machine.popen(worker_command(inside), stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert (job / "outcome.json").exists(), errors.decode()
        return Outcome.model_validate_json((job / "outcome.json").read_bytes())

    async def staged(self) -> None:
        """Upgrade, which must stage something."""
        outcome = await self.upgrade()
        assert (outcome.state, outcome.changed) == (JobState.DONE, True), outcome.error

    async def refused(self) -> ErrorInfo:
        """Upgrade, which must fail and leave deployments and boot entries as they are."""
        before = await self.machine.run(["ostree", "admin", "status"]), self.machine.boot_entries()
        outcome = await self.upgrade()
        assert outcome.state is JobState.FAILED
        assert outcome.error is not None
        assert (await self.machine.run(["ostree", "admin", "status"])).stdout == before[0].stdout
        assert self.machine.boot_entries() == before[1]
        assert not self.machine.path("/run/ostree/staged-deployment").exists()
        assert not self.machine.path("/run/ostree/staged-deployment-locked").exists()
        return outcome.error

    def arguments(self) -> list[str]:
        """Return what the default boot entry has, but for what libostree sets itself."""
        words: list[str] = re.findall(r'(?:"[^"]*"|[^ "])+', self._options())
        return [word for word in words if not word.startswith("ostree=")]

    def edit_arguments(self, *changes: tuple[str, str]) -> None:
        """Edit the default boot entry as its owner may: replace one text by another, or append it to none."""
        options = self._options()
        for old, new in changes:
            assert old in options
            options = options.replace(old, new) if old else f"{options} {new}"
        path = self._entry()
        path.write_text(path.read_text().replace(self._options(), options))

    def _entry(self) -> Path:
        return self.machine.sysroot / "boot/loader/entries" / self.machine.boot_entries()[0].name

    def _options(self) -> str:
        (options,) = re.findall(r"^options (.*)$", self._entry().read_text(), re.MULTILINE)
        return str(options)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """A host with an empty disk."""
    (tmp_path / "registry").mkdir()
    async with (
        Registry(tmp_path / "registry") as registry,
        await Machine.create(tmp_path / "machine") as machine,
    ):
        yield Host(machine, registry, tmp_path)


async def test_first_deployment_gets_what_the_image_lists_for_this_machine(host: Host) -> None:
    here = {"ppc64le": "powerpc64"}.get(platform.machine(), platform.machine())
    await host.publish(
        "1",
        {
            "20-late.toml": 'kargs = ["last", "console=ttyS0"]\n',
            "10-early.toml": 'kargs = ["console=tty0", "quiet", "rw"]\n',
            "30-ours.toml": f'kargs = ["ours"]\nmatch-architectures = ["vax", "{here}"]\n',
            "40-theirs.toml": 'kargs = ["theirs"]\nmatch-architectures = ["vax"]\n',
            "README": "not for reading\n",
        },
    )
    await host.install()
    assert sorted(host.arguments()) == ["console=tty0", "console=ttyS0", "last", "ours", "quiet", "rw"]
    consoles = [argument for argument in host.arguments() if argument.startswith("console=")]
    assert consoles == ["console=tty0", "console=ttyS0"], "the last one is /dev/console"


async def test_updates_change_what_images_list_and_keep_what_is_the_hosts_own(host: Host) -> None:
    stays, goes = 'kargs = ["stays", "taken-out"]\n', 'kargs = ["goes", "level=3", \'a="1 2"\']\n'
    await host.publish("1", {"1.toml": stays, "2.toml": goes})
    await host.install()
    host.edit_arguments((" taken-out", ""), ("", 'root=LABEL=x mine="a  b" level=7 twice twice'))
    mine = ["root=LABEL=x", 'mine="a  b"', "level=7", "twice", "twice"]
    assert sorted(host.arguments()) == sorted(["rw", "stays", "goes", "level=3", 'a="1 2"', *mine])
    await host.machine.boot()

    # A file changed, another went, a third came.
    await host.publish("2", {"1.toml": stays, "3.toml": 'kargs = ["level=5", \'a="1 3"\', "twice", "new"]\n'})
    await host.staged()
    await host.machine.reboot()
    assert sorted(host.arguments()) == sorted(["rw", "stays", "level=5", 'a="1 3"', "new", *mine])

    # The directory went: so do its arguments, once each.
    await host.publish("3", None)
    await host.staged()
    await host.machine.reboot()
    mine.remove("twice")
    assert sorted(host.arguments()) == sorted(["rw", *mine])

    # And it came back: what was taken out on the host is nothing the host still knows of.
    await host.publish("4", {"1.toml": stays})
    await host.staged()
    await host.machine.reboot()
    assert sorted(host.arguments()) == sorted(["rw", "stays", "taken-out", *mine])


async def test_staged_update_that_is_replaced_counts_for_nothing(host: Host) -> None:
    await host.publish("1", {"x.toml": 'kargs = ["one"]\n'})
    await host.install()
    await host.machine.boot()
    await host.publish("2", {"x.toml": 'kargs = ["two"]\n'})
    await host.staged()
    await host.publish("3", {"x.toml": 'kargs = ["two", "three"]\n'})
    await host.staged()

    await host.machine.reboot()

    assert host.arguments() == ["rw", "two", "three"]


async def test_image_whose_file_makes_no_sense_is_refused_and_its_successor_taken(host: Host) -> None:
    await host.publish("1", {"x.toml": 'kargs = ["one"]\n'})
    await host.install()
    await host.machine.boot()
    await host.publish("2", {"w.toml": 'kargs = ["two"]\n', "x.toml": 'kargs = ["x"]\nkarg = ["y"]\n'})

    error = await host.refused()

    assert error.name == "NotBootable"
    assert error.message == "/usr/lib/bootc/kargs.d/x.toml of the image has the unknown key 'karg'"
    assert error.fields == {"path": "/usr/lib/bootc/kargs.d/x.toml", "key": "karg"}
    await host.publish("3", {"x.toml": 'kargs = ["three"]\n'})
    await host.staged()
    await host.machine.reboot()
    assert host.arguments() == ["rw", "three"]
    assert len(await refs(host.machine)) == 3, (
        "one image, and the layers of two versions: none of the refused"
    )


async def test_host_whose_deployed_file_makes_no_sense_is_updated_and_loses_no_argument(host: Host) -> None:
    tree = host.tree("1", {"x.toml": 'kargs = ["one"]\nmystery = 1\n'})
    commit = await commit_image(host.machine, tree, image_of_tree(tree), host.image)
    origin = f"[origin]\ncontainer-image-reference=ostree-unverified-registry:{host.image}\n"
    await deploy(host.machine, commit, origin, "--karg=one")
    await host.machine.boot()
    await host.publish("2", {"x.toml": 'kargs = ["two"]\n'})

    await host.staged()
    await host.machine.reboot()

    assert host.arguments() == ["one", "root=LABEL=root", "rw", "two"]
