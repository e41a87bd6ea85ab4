"""Every kind of host, made with `ostree` alone, as a real worker process describes it.

What is expected was derived by hand from what bootc documents and prints; none of it was made by the code
under test.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bootcd.model.job import JobKind, Outcome
from bootcd.model.report import HostReport
from tests.support.foreign import (
    PYTHON,
    commit_image,
    deploy,
    held_lock,
    image_metadata,
    image_of_tree,
    note_update,
    reorder,
)
from tests.support.host import prepare_job
from tests.support.json_schema import violations
from tests.support.machine import REPOSITORY, Machine, minimal_tree
from tests.support.oci_image import Image

pytestmark = pytest.mark.machine

NAME = "registry.example/os:1"
ORIGIN = f"[origin]\ncontainer-image-reference=ostree-unverified-registry:{NAME}\n"
REFERENCE = {"image": NAME, "transport": "registry"}


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """A physical root with nothing deployed."""
    async with await Machine.create(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    return lambda version: minimal_tree(tmp_path / f"tree-{version}", version)


async def inspect(machine: Machine) -> str:
    done = await machine.run([PYTHON, "-m", "bootcd.worker", "inspect"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    host = json.loads(done.stdout)["host"]
    assert violations(host, json.loads((REPOSITORY / "docs/host-v1.schema.json").read_text())) == []
    return HostReport.model_validate_json(done.stdout).host.to_json()


async def status(machine: Machine) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(await inspect(machine))
    return document


def entry(commit: str, image: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a deployment as the document shows it, by default in its plainest state."""
    return {
        "cachedUpdate": None,
        "composefs": None,
        "downloadOnly": False,
        "image": image,
        "incompatible": False,
        "ostree": {"checksum": commit, "deploySerial": 0, "stateroot": "default"},
        "pinned": False,
        "softRebootCapable": False,
        "store": "ostreeContainer",
    } | changes


def image_status(of: Image, version: str | None = "1", **changes: Any) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "image": REFERENCE,
        "imageDigest": of.digest,
        "timestamp": "2024-01-01T00:00:00Z",
        "version": version,
    } | changes


class Tracked:
    """A host that bootc has deployed one version on, and booted."""

    def __init__(self, machine: Machine, tree: Callable[[str], Path]) -> None:
        self.machine = machine
        self._tree = tree
        self.images: dict[str, Image] = {}
        self.commits: dict[str, str] = {}

    async def add(self, version: str) -> str:
        """Pull a version as bootc does, without deploying it."""
        tree = self._tree(version)
        self.images[version] = image_of_tree(tree, version=version)
        self.commits[version] = await commit_image(self.machine, tree, self.images[version], NAME)
        return self.commits[version]

    def entry(self, version: str, **changes: Any) -> dict[str, Any]:
        return entry(self.commits[version], image_status(self.images[version], version), **changes)


@pytest.fixture
async def tracked(machine: Machine, tree: Callable[[str], Path]) -> Tracked:
    tracked = Tracked(machine, tree)
    await deploy(machine, await tracked.add("1"), ORIGIN)
    await machine.boot()
    return tracked


async def test_host_deployed_by_bootc_is_described_byte_for_byte(tracked: Tracked) -> None:
    assert await inspect(tracked.machine) == (
        '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","metadata":{"name":"host"},'
        '"spec":{"bootOrder":"default","image":{"image":"registry.example/os:1","transport":"registry"}},'
        '"status":{"booted":{"cachedUpdate":null,"composefs":null,"downloadOnly":false,'
        '"image":{"architecture":"amd64","image":{"image":"registry.example/os:1","transport":"registry"},'
        f'"imageDigest":"{tracked.images["1"].digest}","timestamp":"2024-01-01T00:00:00Z","version":"1"}},'
        f'"incompatible":false,"ostree":{{"checksum":"{tracked.commits["1"]}","deploySerial":0,'
        '"stateroot":"default"},"pinned":false,"softRebootCapable":false,"store":"ostreeContainer"},'
        '"readOnly":false,"rollback":null,"rollbackQueued":false,"staged":null,"type":"bootcHost",'
        '"usrOverlay":null}}'
    )


@pytest.mark.parametrize("locked", [False, True], ids=["unlocked", "locked"])
async def test_staged_deployment_leads_and_is_download_only_if_locked(tracked: Tracked, locked: bool) -> None:
    other = ORIGIN.replace("os:1", "other:2")
    lock = ["--lock-finalization"] if locked else []
    await deploy(tracked.machine, await tracked.add("2"), other, "--stage", *lock)

    document = await status(tracked.machine)

    reference = {"image": "registry.example/other:2", "transport": "registry"}
    image = image_status(tracked.images["2"], "2", image=reference)
    assert document["spec"] == {"bootOrder": "default", "image": reference}
    assert document["status"] == {
        "booted": tracked.entry("1"),
        "readOnly": False,
        "rollback": None,
        "rollbackQueued": False,
        "staged": entry(tracked.commits["2"], image, downloadOnly=locked),
        "type": "bootcHost",
        "usrOverlay": None,
    }


async def test_pinned_deployments_are_told_and_further_ones_listed(tracked: Tracked) -> None:
    machine = tracked.machine
    for version in ("2", "3"):
        await machine.run(["ostree", "admin", "pin", "0"])
        await deploy(machine, await tracked.add(version), ORIGIN, "--stage")
        await machine.reboot()

    found = (await status(machine))["status"]

    assert found["booted"] == tracked.entry("3")
    assert found["rollback"] == tracked.entry("2", pinned=True)
    assert found["otherDeployments"] == [tracked.entry("1", pinned=True)]


async def test_queued_rollback_turns_the_boot_order(tracked: Tracked) -> None:
    machine = tracked.machine
    await deploy(machine, await tracked.add("2"), ORIGIN, "--stage")
    await machine.reboot()
    await reorder(machine)

    document = await status(machine)

    assert document["spec"] == {"bootOrder": "rollback", "image": REFERENCE}
    assert document["status"]["rollbackQueued"] is True
    assert document["status"]["booted"] == tracked.entry("2")
    assert document["status"]["rollback"] == tracked.entry("1")
    await reorder(machine)
    assert (await status(machine))["spec"]["bootOrder"] == "default"


async def test_foreign_state_root_is_neither_rollback_nor_staged(tracked: Tracked) -> None:
    machine = tracked.machine
    await machine.ostree("admin", f"--sysroot={machine.sysroot}", "os-init", "other")
    await deploy(machine, await tracked.add("2"), ORIGIN, "--stage", stateroot="other")

    found = (await status(machine))["status"]

    ostree = {"checksum": tracked.commits["2"], "deploySerial": 0, "stateroot": "other"}
    assert (found["staged"], found["rollback"]) == (None, None)
    assert found["otherDeployments"] == [tracked.entry("2", ostree=ostree)]

    await machine.reboot()

    found = (await status(machine))["status"]
    assert found["booted"] == tracked.entry("2", ostree=ostree)
    assert found["rollback"] is None
    assert found["otherDeployments"] == [tracked.entry("1")]


@pytest.mark.parametrize(
    ("mode", "overlay"),
    [
        ([], {"accessMode": "readWrite", "persistence": "transient"}),
        (["--transient"], {"accessMode": "readOnly", "persistence": "transient"}),
        (["--hotfix"], {"accessMode": "readWrite", "persistence": "persistent"}),
    ],
    ids=["development", "transient", "hotfix"],
)
async def test_usr_overlay_is_told_by_how_it_was_unlocked(
    tracked: Tracked, mode: list[str], overlay: dict[str, str]
) -> None:
    await tracked.machine.run(["ostree", "admin", "unlock", *mode])

    assert (await status(tracked.machine))["status"]["usrOverlay"] == overlay


async def test_cached_update_is_read_from_detached_metadata(tracked: Tracked) -> None:
    newer = image_of_tree(minimal_tree(tracked.machine.directory / "newer", "2"), version="2")
    cached = {
        "ostree-ext.cached.manifest-digest": newer.digest,
        "ostree-ext.cached.manifest": newer.manifest.decode(),
        "ostree-ext.cached.config": newer.config.decode(),
    }
    await note_update(tracked.machine, tracked.commits["1"], cached)

    booted = (await status(tracked.machine))["status"]["booted"]

    assert booted == tracked.entry("1", cachedUpdate=image_status(newer, "2"))


async def test_incomplete_cached_update_hides_itself_alone(tracked: Tracked) -> None:
    digest = {"ostree-ext.cached.manifest-digest": tracked.images["1"].digest}
    await note_update(tracked.machine, tracked.commits["1"], digest)

    assert (await status(tracked.machine))["status"]["booted"] == tracked.entry("1")


REMOTE = {"ostreeRemote": "fedora"}
DIGEST = "sha256:" + "1f" * 32

ORIGINS: dict[str, dict[str, Any]] = {
    "ostree-unverified-image:docker://q.example/a": {"image": "q.example/a", "transport": "registry"},
    "ostree-unverified-image:registry:q.example/a": {"image": "q.example/a", "transport": "registry"},
    "ostree-unverified-image:oci:/var/x:tag": {"image": "/var/x:tag", "transport": "oci"},
    "ostree-unverified-image:containers-storage:localhost/my_img": {
        "image": "localhost/my_img",
        "transport": "containers-storage",
    },
    f"ostree-image-signed:docker://q.example/a@{DIGEST}": {
        "image": f"q.example/a@{DIGEST}",
        "signature": "containerPolicy",
        "transport": "registry",
    },
    "ostree-remote-image:fedora:docker://q.example/a:1": {
        "image": "q.example/a:1",
        "signature": REMOTE,
        "transport": "registry",
    },
    "ostree-remote-registry:fedora:q.example/a:1": {
        "image": "q.example/a:1",
        "signature": REMOTE,
        "transport": "registry",
    },
}


async def test_origin_of_each_form_is_shown_with_transport_and_signature(tracked: Tracked) -> None:
    found, expected = {}, {}
    for origin, reference in ORIGINS.items():
        origin_file(tracked.machine).write_text(f"[origin]\ncontainer-image-reference={origin}\n")
        document = await status(tracked.machine)
        image = image_status(tracked.images["1"], image=reference)
        found[origin] = (document["spec"]["image"], document["status"]["booted"])
        expected[origin] = (reference, entry(tracked.commits["1"], image))

    assert found == expected


def origin_file(machine: Machine) -> Path:
    """Return the origin file of the only deployment."""
    (path,) = machine.sysroot.glob("ostree/deploy/default/deploy/*.origin")
    return path


async def test_host_with_local_changes_is_incompatible_and_shows_no_image(
    machine: Machine, tree: Callable[[str], Path]
) -> None:
    # rpm-ostree commits what it layered on the image; the commit has no image metadata of its own.
    image = image_of_tree(tree("1"))
    commit = await commit_image(machine, tree("1-same"), image, NAME, {"rpmostree.clientlayer": "true"})
    await deploy(machine, commit, ORIGIN)
    await machine.boot()
    groups = {
        "packages": "requested=vim;",
        "overrides": "remove=firefox;",
        "rpmostree": "regenerate-initramfs=true",
        "modules": "enable=nodejs:18;",
    }
    for group, content in groups.items():
        for origin in (ORIGIN, "[origin]\nrefspec=fedora:fedora/42\n"):
            origin_file(machine).write_text(f"{origin}\n[{group}]\n{content}\n")

            document = await status(machine)

            assert document["spec"] == {"bootOrder": "default", "image": None}, group
            assert document["status"]["booted"] == entry(commit, incompatible=True), group
            assert document["status"]["type"] is None, group


async def test_host_rebased_to_an_image_with_rpm_ostree_is_one_of_bootc(tracked: Tracked) -> None:
    # What rpm-ostree notes beside the reference; none of it changes the deployment.
    own = f"container-image-reference-digest={DIGEST}\ncustom-url=x\ncustom-description=y\n"
    origin_file(tracked.machine).write_text(f"{ORIGIN}{own}\n[libostree-transient]\npinned=false\n")

    document = await status(tracked.machine)

    assert document["spec"] == {"bootOrder": "default", "image": REFERENCE}
    assert document["status"]["booted"] == tracked.entry("1")


async def test_live_medium_is_told_by_its_disk_and_refuses_to_be_changed(tracked: Tracked) -> None:
    machine = tracked.machine
    disk = machine.directory / "disk"
    build = ["mke2fs", "-q", "-t", "ext4", "-d", machine.repo, disk, "64M"]
    await asyncio.to_thread(subprocess.run, build, check=True)
    # The loop device is as read-only as the medium; the mount alone says nothing.
    await asyncio.to_thread(shutil.copy, disk, machine.path("/run/disk"))
    await machine.run(["mount", "-o", "ro,noload,loop", "/run/disk", "/sysroot/ostree/repo"])

    assert (await status(machine))["status"]["readOnly"] is True

    job, _ = prepare_job(machine.path("/run"), JobKind.UPGRADE)
    inner = f"/run/jobs/{job.name}"
    await machine.run([PYTHON, "-m", "bootcd.worker", "run", inner, f"--socket={inner}/socket"])
    outcome = Outcome.model_validate_json((job / "outcome.json").read_bytes())
    assert outcome.error is not None
    assert outcome.error.name == "ReadOnlyHost"


@pytest.mark.parametrize("mark", ["", "?"], ids=["enforced", "verity optional"])
async def test_composefs_native_host_is_told_apart_with_a_typed_answer(tracked: Tracked, mark: str) -> None:
    machine = tracked.machine
    machine.path("/run/ostree-booted").unlink()
    machine.path("/run/cmdline").write_text(f"root=UUID=1 composefs={mark}{'0a' * 64} rw\n")
    await machine.run(["mount", "--bind", "/run/cmdline", "/proc/cmdline"])

    done = await machine.run([PYTHON, "-m", "bootcd.worker", "inspect"], check=False)

    assert done.returncode == 1
    error = json.loads(done.stdout)
    hint = "install bootc, or set backend in the section [host] of the configuration"
    assert (error["name"], error["hint"]) == ("Unsupported", hint)
    # Another system root is what it is, whatever this host has booted.
    other = [PYTHON, "-m", "bootcd.worker", "inspect", "--sysroot", "/sysroot"]
    assert (await machine.run(other)).returncode == 0


async def test_host_that_follows_no_image_shows_none(machine: Machine, tree: Callable[[str], Path]) -> None:
    commit = await machine.commit_tree(tree("1"))
    await deploy(machine, commit)
    await machine.boot()
    for origin in (
        "refspec=fedora:fedora/42/x86_64/silverblue",
        "baserefspec=fedora/42",
        "",
        "container-image-reference=unheard-of:registry.example/os",
        "container-image-reference=ostree-unverified-registry:",
        "container-image-reference=",
    ):
        origin_file(machine).write_text(f"[origin]\n{origin}\n")

        document = await status(machine)

        assert document["spec"] == {"bootOrder": "default", "image": None}, origin
        assert document["status"]["booted"] == entry(commit), origin
        assert document["status"]["type"] is None, origin


async def test_deployment_without_origin_file_is_shown_without_image(tracked: Tracked) -> None:
    origin_file(tracked.machine).unlink()

    assert (await status(tracked.machine))["status"]["booted"] == entry(tracked.commits["1"])


DAMAGES: dict[str, dict[str, str | None]] = {
    "digest that is none": {"ostree.manifest-digest": "no digest"},
    "manifest missing": {"ostree.manifest": None},
    "digest missing": {"ostree.manifest-digest": None},
    "config that is no JSON": {"ostree.container.image-config": "{"},
    "config without content": {"ostree.container.image-config": "{}"},
}


async def test_deployment_with_broken_metadata_hides_its_image_alone(
    tracked: Tracked, tree: Callable[[str], Path]
) -> None:
    image, same = image_of_tree(tree("2")), tree("2-same")
    for what, damage in DAMAGES.items():
        metadata = {
            key: value for key, value in (image_metadata(image) | damage).items() if value is not None
        }
        broken = await commit_image(tracked.machine, same, image, NAME, metadata)
        await deploy(tracked.machine, broken, ORIGIN, "--stage")

        document = await status(tracked.machine)

        assert document["spec"] == {"bootOrder": "default", "image": None}, what
        assert document["status"]["staged"] == entry(broken), what
        assert document["status"]["booted"] == tracked.entry("1"), what
        assert document["status"]["type"] == "bootcHost", what


@pytest.mark.parametrize("config", [None, "null"], ids=["absent", "null"])
async def test_image_without_config_is_shown_by_its_digest(
    tracked: Tracked, tree: Callable[[str], Path], config: str | None
) -> None:
    image = image_of_tree(tree("2"))
    metadata = image_metadata(image)
    del metadata["ostree.container.image-config"]
    if config is not None:
        metadata["ostree.container.image-config"] = config
    commit = await commit_image(tracked.machine, tree("2-same"), image, NAME, metadata)
    await deploy(tracked.machine, commit, ORIGIN, "--stage")

    staged = (await status(tracked.machine))["status"]["staged"]

    assert staged == entry(commit, image_status(image, None, timestamp=None))


async def test_version_and_time_come_from_labels_first(machine: Machine, tree: Callable[[str], Path]) -> None:
    labels = {
        "containers.bootc": "1",
        "version": "ignored",
        "org.opencontainers.image.version": "42.2026 „übung“",
        "org.opencontainers.image.created": "2026-03-01T01:30:00.250+02:00",
    }
    image = image_of_tree(tree("1"), config_changes={"config": {"Labels": labels}})
    commit = await commit_image(machine, tree("1-same"), image, NAME)
    await deploy(machine, commit, ORIGIN)
    await machine.boot()

    text = await inspect(machine)

    assert '"timestamp":"2026-02-28T23:30:00.250Z","version":"42.2026 „übung“"' in text


async def test_report_tells_the_kernel_arguments_of_every_deployment(tracked: Tracked) -> None:
    second = await tracked.add("2")
    await deploy(tracked.machine, second, ORIGIN, "--stage", "--karg-append=audit=0")

    done = await tracked.machine.run([PYTHON, "-m", "bootcd.worker", "inspect"])

    details = HostReport.model_validate_json(done.stdout).deployments
    first = details[f"{tracked.commits['1']}.0"].kernel_arguments
    assert "root=LABEL=root" in first
    assert details[f"{second}.0"].kernel_arguments == (*first, "audit=0")
    assert not any(argument.startswith("ostree=") for argument in first)


async def test_host_that_is_not_of_ostree_says_so(tracked: Tracked) -> None:
    inspecting = [PYTHON, "-m", "bootcd.worker", "inspect", "--sysroot", "/var"]

    done = await tracked.machine.run(inspecting, check=False)

    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "name": "NotBootcSystem",
        "message": "/var is not an ostree system root",
        "hint": "only image-based hosts can be updated this way",
        "fields": {},
    }


async def test_system_root_that_is_not_booted_is_an_empty_host(tracked: Tracked) -> None:
    await tracked.machine.power_cut()
    other = await Machine.create(tracked.machine.directory.parent / "other", binds=[tracked.machine.sysroot])
    async with other:
        await deploy(other, await Tracked(other, tracked._tree).add("9"), ORIGIN)
        await other.boot()
        inspecting = [PYTHON, "-m", "bootcd.worker", "inspect", "--sysroot", str(tracked.machine.sysroot)]

        done = await other.run(inspecting)

    assert json.loads(done.stdout)["host"]["status"]["booted"] is None


async def test_inspection_by_an_ordinary_user_changes_nothing_and_sees_the_same(tracked: Tracked) -> None:
    machine = tracked.machine
    before = await inspect(machine)
    stamps = [path.stat().st_mtime_ns for path in (machine.repo, machine.sysroot / "ostree/deploy")]

    done = await machine.run([PYTHON, "-m", "bootcd.worker", "inspect"], user=1000)

    assert HostReport.model_validate_json(done.stdout).host.to_json() == before
    assert stamps == [path.stat().st_mtime_ns for path in (machine.repo, machine.sysroot / "ostree/deploy")]


async def test_inspection_while_another_program_holds_the_lock_does_not_wait(tracked: Tracked) -> None:
    machine = tracked.machine
    async with held_lock(machine):
        assert json.loads(await inspect(machine))["status"]["booted"] == tracked.entry("1")
