"""What each verb does to a host others made, done by real worker processes and seen with ostree's eyes.

The host was deployed by `tests.support.foreign` as bootc would have; it is asked about with `ostree`,
and with the status document whose truth `test_host_kinds` shows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.model.job import JobKind
from bootcd.model.report import HostReport
from tests.support.deployed import (
    BOOTC_ROOT,
    REBOOT_REQUIRED,
    REPOSITORY,
    Host,
    deploy_first,
    finished,
    prepared_host,
)
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.foreign import (
    PYTHON,
    commit_image,
    deploy,
    held_lock,
    image_ref,
    layer_ref,
    note_update,
    refs,
    reorder,
    set_ref,
)

pytestmark = pytest.mark.machine


@pytest.fixture
async def unbooted(tmp_path: Path) -> AsyncIterator[Host]:
    async with prepared_host(tmp_path) as host:
        yield host


@pytest.fixture
async def host(unbooted: Host) -> Host:
    await deploy_first(unbooted)
    return unbooted


# hosts an update would damage


LAYERED = "\n[packages]\nrequested=vim;\n"


async def test_host_with_layered_packages_refuses_and_loses_nothing(unbooted: Host) -> None:
    host = unbooted
    await deploy(host.machine, await host.commit("1"), host.origin + LAYERED)
    await host.machine.boot()
    await host.publish("2")

    for kind, image in ((JobKind.UPGRADE, ""), (JobKind.SWITCH, host.name), (JobKind.CHECK, "")):
        error = await host.refused(kind, image=image)
        assert error.name == "LocalModifications"
        assert "rpm-ostree reset" in error.hint


async def test_staged_deployment_with_layered_packages_is_not_replaced(host: Host) -> None:
    await deploy(host.machine, await host.commit("layered"), host.origin + LAYERED, "--stage")
    await host.publish("2")

    for kind, image in ((JobKind.UPGRADE, ""), (JobKind.SWITCH, host.name)):
        assert (await host.refused(kind, image=image)).name == "LocalModifications"
    assert await host.versions() == ["staged layered", "booted 1"]


async def test_packages_layered_while_an_upgrade_resolves_are_not_lost(unbooted: Host) -> None:
    host = unbooted
    async with FaultProxy(host.registry.url) as proxy:
        host.front = proxy.host
        await deploy(host.machine, await host.commit("1"), host.origin)
        await host.machine.boot()
        await host.publish("2")
        proxy.inject(Fault(silent=True), path="/manifests/")
        job, process = await host.start(JobKind.UPGRADE)
        await proxy.wait_for_requests(1)
        await deploy(host.machine, await host.commit("layered"), host.origin + LAYERED, "--stage")
        proxy.release()
        outcome = await finished(job, process)

    assert outcome.error is not None
    assert outcome.error.name == "LocalModifications"
    assert await host.versions() == ["staged layered", "booted 1"]


async def test_host_whose_packages_are_reset_takes_updates_again(unbooted: Host) -> None:
    host = unbooted
    await deploy(host.machine, await host.commit("1"), host.origin + LAYERED)
    await host.machine.boot()
    await deploy(host.machine, await host.commit("reset"), "[origin]\nrefspec=fedora:x\n", "--stage")
    await host.publish("2")

    await host.done(JobKind.SWITCH, image=host.name)

    assert await host.versions() == ["staged 2", "booted 1"]


async def test_host_of_a_refspec_refuses_to_upgrade_and_switches(unbooted: Host) -> None:
    host = unbooted
    commit = await host.machine.commit_tree(host.tree("1"), branch="fedora/42")
    await deploy(host.machine, commit, "[origin]\nrefspec=fedora/42\n")
    await host.machine.boot()
    digest = await host.publish("2")

    error = await host.refused(JobKind.UPGRADE)
    assert (error.name, "bootcctl switch" in error.hint) == ("WrongState", True)

    outcome = await host.done(JobKind.SWITCH, image=host.name)
    assert outcome.update is not None
    assert outcome.update.digest == digest
    assert await host.reboot() == "2"
    status = await host.status()
    assert status["booted"]["image"]["imageDigest"] == digest
    assert (status["type"], status["rollback"]["image"]) == ("bootcHost", None)
    assert "fedora/42" not in await refs(host.machine)
    assert (await host.done(JobKind.UPGRADE)).changed is False


async def test_host_whose_origin_makes_no_sense_can_switch(unbooted: Host) -> None:
    host = unbooted
    await deploy(host.machine, await host.commit("1"), "[origin]\ncontainer-image-reference=what:ever\n")
    await host.machine.boot()
    await host.publish("2")

    assert (await host.refused(JobKind.UPGRADE)).name == "InvalidImage"
    await host.done(JobKind.SWITCH, image=host.name)

    assert await host.reboot() == "2"
    assert layer_ref(host.image("1").layers[0]) in await refs(host.machine), "the rollback needs it"


# upgrade


async def test_upgrade_keeps_kernel_arguments_and_merges_etc(unbooted: Host) -> None:
    host, machine = unbooted, unbooted.machine
    await deploy(machine, await host.commit("1"), host.origin)
    options = 'rw quoted="a  b" dup dup console=tty0 root=UUID=1 console=ttyS0 "all of it" last'
    (entry,) = (machine.sysroot / "boot/loader/entries").iterdir()
    link = machine.boot_entries()[0].options[-1]
    entry.write_text(re.sub(r"^options .*$", f"options {options} {link}", entry.read_text(), flags=re.M))
    await machine.boot()
    (host.tree("2") / "usr/etc/added").write_text("by the image\n")
    (host.tree("2") / "usr/etc/nsswitch.conf").write_text("new default\n")
    await host.publish("2")
    await machine.run(["sh", "-c", "echo mine >/etc/version.conf; rm /etc/passwd"])

    await host.done(JobKind.UPGRADE)
    await machine.run(["sh", "-c", "echo late >/etc/late"])

    assert await host.reboot() == "2"
    found = {name: host.read(f"/etc/{name}") for name in ("added", "nsswitch.conf", "version.conf", "late")}
    assert found == {
        "added": "by the image\n",
        "nsswitch.conf": "new default\n",
        "version.conf": "mine\n",
        "late": "late\n",
    }
    assert host.read("/etc/passwd") is None
    written = [
        re.sub(r" ?ostree=\S+", "", line).removeprefix("options ")
        for path in sorted((machine.sysroot / "boot/loader/entries").iterdir())
        for line in path.read_text().splitlines()
        if line.startswith("options ")
    ]
    # libostree keeps the values of one key together, in the order of the values and of the keys.
    assert [sorted(split(line)) for line in written] == [sorted(split(options))] * 2
    consoles = [word for word in split(written[-1]) if word.startswith("console=")]
    assert consoles == ["console=tty0", "console=ttyS0"]


def split(options: str) -> list[str]:
    return re.findall(r'(?:"[^"]*"|[^ "])+', options)


async def test_newer_version_replaces_the_staged_one_and_its_layers(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    await host.publish("3")

    await host.done(JobKind.UPGRADE)

    assert await host.versions() == ["staged 3", "booted 1"]
    assert len(list(host.machine.sysroot.glob("ostree/deploy/default/deploy/*.0"))) == 2
    assert await refs(host.machine) == {
        image_ref(host.name),
        layer_ref(host.image("1").layers[0]),
        layer_ref(host.image("3").layers[0]),
    }
    assert await host.reboot() == "3"
    await host.machine.ostree("fsck", f"--repo={host.machine.repo}")


async def test_layers_of_booted_staged_and_rollback_are_kept(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    await host.reboot()
    await host.publish("3")
    await host.done(JobKind.UPGRADE)

    assert await host.versions() == ["staged 3", "booted 2", "rollback 1"]
    kept = {layer_ref(host.image(version).layers[0]) for version in ("1", "2", "3")}
    assert await refs(host.machine) == {image_ref(host.name)} | kept

    assert await host.reboot() == "3"
    await host.publish("4")
    await host.done(JobKind.UPGRADE)
    assert layer_ref(host.image("1").layers[0]) not in await refs(host.machine)


async def test_upgrade_to_what_is_staged_changes_the_lock_alone(host: Host) -> None:
    await host.publish("2")
    first = await host.done(JobKind.UPGRADE, download_only=True)
    assert (first.changed, host.announced()) == (True, True)
    staged = (await host.status())["staged"]
    assert staged["downloadOnly"] is True
    assert host.machine.path("/run/ostree/staged-deployment-locked").exists()

    for download_only, changed in ((True, False), (False, True), (False, False), (True, True)):
        before = await refs(host.machine)
        outcome = await host.done(JobKind.UPGRADE, download_only=download_only)

        assert (outcome.changed, outcome.bytes_fetched) == (changed, 0)
        assert outcome.update is not None
        assert outcome.update.digest == host.image("2").digest
        assert (await host.status())["staged"] == staged | {"downloadOnly": download_only}
        assert not host.announced()
        assert await refs(host.machine) == before


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "unlocked"])
async def test_lock_of_a_staged_deployment_does_not_pass_to_its_successor(host: Host, locked: bool) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=locked)
    await host.publish("3")
    await host.done(JobKind.UPGRADE, download_only=not locked)

    assert (await host.status())["staged"]["downloadOnly"] is not locked
    assert await host.reboot() == ("3" if locked else "1")


async def test_locked_staged_deployment_is_discarded_by_a_reboot(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=True)

    assert await host.reboot() == "1"

    status = await host.status()
    assert (status["staged"], status["rollback"]) == (None, None)
    assert layer_ref(host.image("2").layers[0]) in await refs(host.machine), "what was fetched is not lost"
    outcome = await host.done(JobKind.UPGRADE)
    assert (outcome.changed, outcome.bytes_fetched) == (True, 0)
    assert await host.reboot() == "2"


STAGE = """
import ctypes, sys
from pathlib import Path
from bootcd.model.errors import BackendFailed
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.origin import TrackedImage
assert ctypes.CDLL(None).unshare(0x20000) == 0
sysroot = Sysroot(Path("/"), own_mounts=True)
with sysroot.locked():
    try:
        sysroot.stage(sys.argv[1], TrackedImage.registry("q.example/x"), locked=sys.argv[2] == "locked")
    except BackendFailed as error:
        print(error.message)
"""


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "unlocked"])
async def test_stage_that_fails_leaves_the_staged_deployment_locked_as_it_was(
    host: Host, locked: bool
) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=locked)
    staged = (await host.status())["staged"]

    bare = host.machine.directory / "no-kernel"
    bare.mkdir()
    commit = await host.machine.commit_tree(bare, branch="no-kernel")
    wanted = "unlocked" if locked else "locked"
    done = await host.machine.run([PYTHON, "-c", STAGE, commit, wanted])

    assert done.stdout.startswith("cannot stage the deployment: ")
    assert (await host.status())["staged"] == staged


async def test_apply_unlocks_what_is_staged_and_reboots_into_it(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=True)

    outcome = await host.done(JobKind.APPLY)

    assert (outcome.changed, outcome.reboot) == (True, True)
    await host.machine.reboot_requested()
    assert await host.reboot() == "2"


@pytest.mark.parametrize(
    ("kind", "locked"), [(JobKind.UPGRADE, False), (JobKind.SWITCH, True)], ids=["upgrade", "locked switch"]
)
async def test_update_to_apply_that_is_staged_already_reboots(
    host: Host, kind: JobKind, locked: bool
) -> None:
    image = host.name if kind is JobKind.SWITCH else ""
    assert (await host.done(kind, image=image, apply=True)).reboot is False, "there is nothing to apply"
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=locked)

    outcome = await host.done(kind, image=image, apply=True)

    assert (outcome.changed, outcome.reboot) == (locked, True)
    assert await host.reboot() == "2"


async def test_update_that_is_only_downloaded_cannot_be_applied_at_once(host: Host) -> None:
    error = await host.refused(JobKind.UPGRADE, apply=True, download_only=True)

    assert error.name == "InvalidArguments"


async def test_switch_tracks_another_image_and_keeps_the_old_one_for_rollback(host: Host) -> None:
    digest = await host.publish("other", tag="other")
    name = f"{host.front}/{REPOSITORY}:other"

    await host.done(JobKind.SWITCH, image=name)

    document = await host.status()
    assert document["staged"]["image"]["image"] == {"image": name, "transport": "registry"}
    assert document["staged"]["image"]["imageDigest"] == digest
    assert {image_ref(host.name), image_ref(name)} <= await refs(host.machine)
    assert await host.reboot() == "other"
    (origin,) = host.machine.sysroot.glob(
        f"ostree/deploy/default/deploy/{host.machine.booted_entry().deployment.name}.origin"
    )
    assert origin.read_text().split("\n[")[0].strip() == (
        f"[origin]\ncontainer-image-reference=ostree-unverified-registry:{name}"
    )
    assert (await host.done(JobKind.UPGRADE)).changed is False


async def test_staged_deployment_of_another_state_root_is_not_what_is_tracked(host: Host) -> None:
    machine = host.machine
    await machine.ostree("admin", f"--sysroot={machine.sysroot}", "os-init", "other")
    foreign = host.origin.replace(":stable", ":foreign")
    await deploy(machine, await host.commit("x"), foreign, "--stage", stateroot="other")
    digest = await host.publish("2")

    await host.done(JobKind.UPGRADE)

    staged = (await host.status())["staged"]
    assert (staged["image"]["imageDigest"], staged["ostree"]["stateroot"]) == (digest, "default")
    assert await host.reboot() == "2"


# rollback


@pytest.fixture
async def upgraded(host: Host) -> Host:
    """A host that runs version 2 and can roll back to version 1; nothing says it was changed."""
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "2"
    host.announced()
    return host


async def test_rollback_boots_the_other_deployment_and_a_second_one_takes_it_back(upgraded: Host) -> None:
    host = upgraded

    outcome = await host.done(JobKind.ROLLBACK)

    assert (outcome.changed, outcome.dropped) == (True, "")
    assert (await host.status())["rollbackQueued"] is True
    assert host.announced()
    digest = host.image("1").digest
    assert host.read(REBOOT_REQUIRED) == f"bootc: Reboot required for image: {digest}\n"

    assert (await host.done(JobKind.ROLLBACK)).changed is True
    assert (await host.status())["rollbackQueued"] is False
    assert host.announced()
    assert host.read(REBOOT_REQUIRED) is None

    await host.done(JobKind.ROLLBACK)
    assert await host.reboot() == "1"
    assert (await host.status())["rollbackQueued"] is False
    assert (await host.status())["rollback"]["image"]["version"] == "2"


async def test_rollback_tells_the_digest_of_the_staged_deployment_it_drops(upgraded: Host) -> None:
    host = upgraded
    digest = await host.publish("3")
    await host.done(JobKind.UPGRADE, download_only=True)

    outcome = await host.done(JobKind.ROLLBACK)

    assert outcome.dropped == digest
    assert (await host.status())["staged"] is None
    assert not host.machine.path("/run/ostree/staged-deployment-locked").exists()
    assert await host.reboot() == "1"


async def test_rollback_that_is_queued_gives_way_to_an_upgrade(upgraded: Host) -> None:
    host = upgraded
    await reorder(host.machine)
    await host.publish("3")

    await host.done(JobKind.UPGRADE)

    status = await host.status()
    assert (status["rollbackQueued"], status["staged"]["image"]["version"]) == (True, "3")
    assert layer_ref(host.image("1").layers[0]) in await refs(host.machine)
    assert await host.reboot() == "3"
    assert (await host.status())["rollback"]["image"]["version"] == "2"


async def test_rollback_with_nothing_to_go_back_to_is_refused(host: Host) -> None:
    assert (await host.refused(JobKind.ROLLBACK)).name == "WrongState"


# what others keep on the host


async def test_pinned_deployment_survives_upgrades_and_clean_up(upgraded: Host) -> None:
    host = upgraded
    await host.machine.run(["ostree", "admin", "pin", "1"])
    for version in ("3", "4"):
        await host.publish(version)
        await host.done(JobKind.UPGRADE)
        assert await host.reboot() == version

    assert await host.versions() == ["booted 4", "rollback 3", "other 1"]
    assert (await host.status())["otherDeployments"][0]["pinned"] is True
    kept = {layer_ref(host.image(version).layers[0]) for version in ("1", "3", "4")}
    found = await refs(host.machine)
    assert kept <= found
    await host.machine.ostree("fsck", f"--repo={host.machine.repo}")


async def test_clean_up_touches_no_ref_of_others_and_honours_their_roots(host: Host) -> None:
    machine = host.machine
    kept = {
        "fedora/42/x86_64/silverblue": "plain",
        "ostree/container/baseimage/other-project/1": "held",
        "ostree/container/baseimage/bootc/0": "derived",
        "rpmostree/base/0": "base",
        # Nobody could have written these names; who did may know why.
        "ostree/container/image/un_escaped": "strange",
        "ostree/container/blob/_zz_": "strange",
    }
    for ref, version in kept.items():
        await set_ref(machine, ref, await host.commit(version))
    unused = f"{host.front}/{REPOSITORY}:unused"
    await set_ref(machine, image_ref(unused), await host.commit("unused"))
    await set_ref(machine, image_ref(host.name), await host.commit("1"))
    await host.publish("2")

    await host.done(JobKind.UPGRADE)

    layers = {layer_ref(host.image(v).layers[0]) for v in ("1", "2", "held", "derived", "base")}
    assert await refs(machine) == {image_ref(host.name), *kept, *layers}
    for ref in kept:
        await machine.ostree("ls", f"--repo={machine.repo}", ref)


async def test_commit_that_cannot_be_read_keeps_the_layers_of_all(host: Host) -> None:
    machine = host.machine
    broken = {"ostree.manifest-digest": host.image("x").digest, "ostree.manifest": "{"}
    commit = await commit_image(machine, host.tree("x"), host.image("x"), host.name, broken)
    await set_ref(machine, "ostree/container/baseimage/other/0", commit)
    await set_ref(machine, image_ref(host.name), await host.commit("1"))
    unused = layer_ref(host.image("unused").layers[0])
    await set_ref(machine, unused, commit)
    await host.publish("2")

    await host.done(JobKind.UPGRADE)

    assert {unused, layer_ref(host.image("x").layers[0])} <= await refs(machine)
    assert await host.reboot() == "2"


# what others are told


async def test_stage_tells_who_watches_and_who_reboots(host: Host) -> None:
    digest = await host.publish("2")

    await host.done(JobKind.UPGRADE)

    assert host.announced()
    assert host.read(REBOOT_REQUIRED) == f"bootc: Reboot required for image: {digest}\n"
    assert host.machine.path(REBOOT_REQUIRED).stat().st_mode & 0o777 == 0o644
    await host.reboot()
    assert host.read(REBOOT_REQUIRED) is None


async def test_host_without_bootc_gets_no_directory_of_it(host: Host) -> None:
    (host.machine.sysroot / BOOTC_ROOT).rmdir()
    await host.publish("2")

    await host.done(JobKind.UPGRADE)

    assert not (host.machine.sysroot / BOOTC_ROOT).exists()


async def test_notice_of_a_package_manager_is_not_taken_back(upgraded: Host) -> None:
    host = upgraded
    await host.done(JobKind.ROLLBACK)
    notice = "*** System restart required ***\n"
    host.machine.path(REBOOT_REQUIRED).write_text(notice)

    await host.done(JobKind.ROLLBACK)

    assert host.read(REBOOT_REQUIRED) == notice


async def test_check_leaves_its_finding_where_bootc_reads_it_and_changes_nothing_else(host: Host) -> None:
    machine = host.machine
    commit = (await host.status())["booted"]["ostree"]["checksum"]
    await note_update(machine, commit, {"of.another": "program"})
    unused = f"{host.front}/{REPOSITORY}:unused"
    await set_ref(machine, image_ref(unused), commit)
    before = await host.everything()

    assert (await host.done(JobKind.CHECK)).update is None
    assert not host.announced()
    digest = await host.publish("2")
    outcome = await host.done(JobKind.CHECK)

    assert outcome.changed is False
    assert outcome.update is not None
    assert (outcome.update.digest, outcome.update.version) == (digest, "2")
    assert outcome.update.rollout_secs == 36 * 3600
    assert outcome.update.download_bytes == sum(len(layer.blob) for layer in host.image("2").layers)
    assert host.announced()
    assert host.read(REBOOT_REQUIRED) is None
    assert await host.everything() == before
    notes = {
        "of.another": "program",
        "ostree-ext.cached.manifest-digest": digest,
        "ostree-ext.cached.manifest": host.image("2").manifest.decode(),
        "ostree-ext.cached.config": host.image("2").config.decode(),
    }
    for key, value in notes.items():
        show = ("show", f"--repo={machine.repo}", f"--print-detached-metadata-key={key}", commit)
        assert ast.literal_eval(await machine.ostree(*show)) == value
    booted = (await host.status())["booted"]
    assert booted["image"]["version"] == "1"
    assert (booted["cachedUpdate"]["version"], booted["cachedUpdate"]["imageDigest"]) == ("2", digest)


async def test_check_writes_nothing_about_what_it_found_before(host: Host) -> None:
    digest = await host.publish("2")
    commit = (await host.status())["booted"]["ostree"]["checksum"]
    await host.done(JobKind.CHECK)
    note = host.machine.repo / "objects" / commit[:2] / f"{commit[2:]}.commitmeta"
    before = note.stat()
    host.announced()

    outcome = await host.done(JobKind.CHECK)

    assert outcome.update is not None
    assert outcome.update.digest == digest
    assert (note.stat().st_ino, note.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not host.announced()


async def test_check_while_another_program_holds_the_lock_tells_what_it_found(host: Host) -> None:
    digest = await host.publish("2")
    async with held_lock(host.machine):
        outcome = await host.done(JobKind.CHECK)

    assert outcome.update is not None
    assert outcome.update.digest == digest
    assert (await host.status())["booted"]["cachedUpdate"] is None


async def test_clean_up_that_fails_does_not_undo_what_is_staged(host: Host) -> None:
    machine = host.machine
    digest = await host.publish("2")
    commit = await host.commit("x")
    await set_ref(machine, "of/another", commit)
    listed = await machine.ostree("ls", f"--repo={machine.repo}", "-d", "-C", commit, "/usr")
    tree = next(word for word in listed.split() if re.fullmatch("[0-9a-f]{64}", word))
    (machine.repo / "objects" / tree[:2] / f"{tree[2:]}.dirtree").unlink()

    outcome = await host.done(JobKind.UPGRADE)

    assert outcome.changed
    assert outcome.update is not None
    assert outcome.update.digest == digest
    assert await host.versions() == ["staged 2", "booted 1"]


async def test_host_that_was_upgraded_is_described_byte_for_byte(host: Host) -> None:
    digests = [host.image("1").digest, await host.publish("2")]
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "2"
    listed = (await host.machine.run(["ostree", "admin", "status"])).stdout
    new, old = re.findall(r"^[ *] \w+ ([0-9a-f]{64})\.0", listed, re.MULTILINE)

    def entry(version: str, digest: str, commit: str) -> str:
        return (
            '{"cachedUpdate":null,"composefs":null,"downloadOnly":false,'
            f'"image":{{"architecture":"amd64","image":{{"image":"{host.name}","transport":"registry"}},'
            f'"imageDigest":"{digest}","timestamp":"2024-01-01T00:00:00Z","version":"{version}"}},'
            f'"incompatible":false,"ostree":{{"checksum":"{commit}","deploySerial":0,'
            '"stateroot":"default"},"pinned":false,"softRebootCapable":false,"store":"ostreeContainer"}'
        )

    done = await host.machine.run([PYTHON, "-m", "bootcd.worker", "inspect"])
    assert HostReport.model_validate_json(done.stdout).host.to_json() == (
        '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","metadata":{"name":"host"},'
        f'"spec":{{"bootOrder":"default","image":{{"image":"{host.name}","transport":"registry"}}}},'
        f'"status":{{"booted":{entry("2", digests[1], new)},"readOnly":false,'
        f'"rollback":{entry("1", digests[0], old)},"rollbackQueued":false,"staged":null,'
        '"type":"bootcHost","usrOverlay":null}}'
    )
