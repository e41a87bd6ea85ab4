"""What differs between deployments and in /etc, against what ostree and the images themselves say."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign import PYTHON, deploy
from tests.support.host import PERSON, Host
from tests.support.machine import Machine, minimal_tree
from tests.support.tree import Tree, deployed

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

DPKG = "Package: {}\nStatus: install ok installed\nVersion: {}\n\n"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with await Machine.create(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two versions of a system, and a large directory that both have."""
    found = []
    for version in ("1", "2"):
        tree = minimal_tree(tmp_path / version, version)
        (tree / "usr/share/many").mkdir(parents=True)
        for number in range(200):
            (tree / f"usr/share/many/{number}").write_text(str(number))
        found.append(tree)
    return found[0], found[1]


async def booted_and_staged(machine: Machine, trees: tuple[Path, Path], *options: str) -> tuple[str, str]:
    """Return the ids of a booted and a staged deployment of these trees."""
    first, second = [await machine.commit_tree(tree, f"branch-{tree.name}") for tree in trees]
    await deploy(machine, first)
    await machine.boot()
    await deploy(machine, second, "", "--stage", *options)
    return f"{first}.0", f"{second}.0"


async def diff(machine: Machine, *ids: str, status: int = 0) -> dict[str, Any]:
    done = await machine.run([PYTHON, "-m", "bootcd.worker", "diff", *ids], check=False, user=1000)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def test_diff_tells_packages_files_sizes_and_kernel_arguments(
    machine: Machine, trees: tuple[Path, Path]
) -> None:
    one, two = trees
    for tree, packages in ((one, {"bash": "1", "vim": "9"}), (two, {"bash": "2", "nano": "7"})):
        database = tree / "usr/lib/sysimage/dpkg/status"
        database.parent.mkdir(parents=True)
        database.write_text("".join(DPKG.format(*item) for item in packages.items()))
    (one / "usr/bin/tool").write_text("gone")
    (two / "usr/bin/link").symlink_to("target")
    before, after = await booted_and_staged(machine, trees, "--karg-append=audit=0")

    found = await diff(machine, before, after)

    assert (found["before"]["id"], found["after"]["id"]) == (before, after)
    assert found["kernel-arguments"] == {"added": ["audit=0"], "removed": []}
    assert found["packages"] == {
        "database": "dpkg",
        "added": [{"name": "nano", "before": "", "after": "7"}],
        "removed": [{"name": "vim", "before": "9", "after": ""}],
        "changed": [{"name": "bash", "before": "1", "after": "2"}],
    }
    listed = {
        kind: [entry["path"] for entry in found["files"][kind]] for kind in ("added", "removed", "changed")
    }
    assert listed == {
        "added": [
            "/usr/bin/link",
            "/usr/lib/modules/6.1.2-test/initramfs.img",
            "/usr/lib/modules/6.1.2-test/vmlinuz",
        ],
        "removed": [
            "/usr/bin/tool",
            "/usr/lib/modules/6.1.1-test/initramfs.img",
            "/usr/lib/modules/6.1.1-test/vmlinuz",
        ],
        "changed": [
            "/usr/etc/version.conf",
            "/usr/lib/os-release",
            "/usr/lib/sysimage/dpkg/status",
            "/usr/lib/version",
        ],
    }
    assert found["files"]["added"][0] == {"path": "/usr/bin/link", "size-before": 0, "size-after": 6}
    assert found["files"]["removed"][0] == {"path": "/usr/bin/tool", "size-before": 4, "size-after": 0}
    totals = found["totals"]
    assert [totals[f"files-{kind}"] for kind in ("added", "removed", "changed")] == [3, 3, 4]
    sizes = [entry for kind in listed for entry in found["files"][kind]]
    assert totals["bytes-added"] == sum(entry["size-after"] for entry in sizes)
    assert totals["bytes-removed"] == sum(entry["size-before"] for entry in sizes)

    same = await diff(machine, before, before)
    assert same["totals"] == dict.fromkeys(totals, 0)

    gone = await diff(machine, before, "0" * 64 + ".0", status=1)
    assert gone["name"] == "WrongState"


def rpm_database(directory: Path, work: Path, *packages: tuple[str, str]) -> None:
    """Make a database of packages that hold no files."""
    work.mkdir()
    for name, version in packages:
        spec = work / f"{name}.spec"
        spec.write_text(
            f"Name: {name}\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n"
            "%description\n%files\n"
        )
        command = ["rpmbuild", "--quiet", "-bb", f"--define=_topdir {work}", str(spec)]
        subprocess.run(command, check=True, capture_output=True)
    directory.mkdir(parents=True)
    files = [str(path) for path in (work / "RPMS/noarch").iterdir()]
    install = ["rpm", "--dbpath", str(directory), "-i", "--justdb", "--nodeps", "--noscripts"]
    subprocess.run([*install, *files], check=True, capture_output=True)


async def test_diff_reads_the_database_of_rpm(
    machine: Machine, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = trees
    await asyncio.to_thread(rpm_database, one / "usr/share/rpm", tmp_path / "w1", ("bash", "1"), ("vim", "9"))
    await asyncio.to_thread(rpm_database, two / "usr/share/rpm", tmp_path / "w2", ("bash", "2"))
    before, after = await booted_and_staged(machine, trees)

    packages = (await diff(machine, before, after))["packages"]

    assert packages == {
        "database": "rpm",
        "added": [],
        "removed": [{"name": "vim.noarch", "before": "9-1", "after": ""}],
        "changed": [{"name": "bash.noarch", "before": "1-1", "after": "2-1"}],
    }


async def test_diff_of_systems_without_packages_says_so(machine: Machine, trees: tuple[Path, Path]) -> None:
    before, after = await booted_and_staged(machine, trees)
    assert (await diff(machine, before, after))["packages"]["database"] == ""


async def test_config_diff_is_what_ostree_says(machine: Machine, trees: tuple[Path, Path]) -> None:
    await booted_and_staged(machine, trees)
    etc = machine.path("/etc")
    (etc / "version.conf").write_text("mine\n")
    (etc / "nsswitch.conf").unlink()
    (etc / "added/below").mkdir(parents=True)
    (etc / "added/below/file").write_text("x")
    (etc / "passwd").chmod(0o600)

    done = await machine.run([PYTHON, "-m", "bootcd.worker", "config-diff"])

    found = json.loads(done.stdout)
    theirs = (await machine.run(["ostree", "admin", "config-diff"])).stdout.split("\n")
    listed = {kind: sorted(f"/etc/{line[5:]}" for line in theirs if line[:1] == kind) for kind in "AMD"}
    assert (found["added"], found["modified"], found["removed"]) == tuple(listed.values())
    assert "/etc/version.conf" in found["modified"]


async def test_differences_over_the_bus_are_for_whom_they_should(
    host: Host, os_tree: Callable[[str], Tree]
) -> None:
    await host.publish("v2")
    await host.ctl("upgrade")

    found = json.loads((await host.ctl("diff", "--json", user=PERSON)).stdout)

    v1, v2 = (files(deployed(os_tree(tag), factory_var=True)) for tag in ("v1", "v2"))
    assert {entry["path"] for entry in found["files"]["added"]} == v2.keys() - v1.keys()
    assert {entry["path"] for entry in found["files"]["removed"]} == v1.keys() - v2.keys()
    assert {entry["path"] for entry in found["files"]["changed"]} == {
        path for path in v1.keys() & v2.keys() if v1[path] != v2[path]
    }
    # This system keeps no database: a host has none in /var of an image.
    assert found["packages"]["database"] == ""
    assert (found["before"]["digest"], found["after"]["digest"]) == (
        host.images.digest("v1"),
        host.images.digest("v2"),
    )
    assert "quiet" in found["kernel-arguments"]["added"]
    text = (await host.ctl("diff", "staged", "booted", user=PERSON)).stdout
    assert "  - quiet\n" in text

    refused = await host.ctl("config-diff", user=PERSON, check=False)
    assert refused.returncode == 4
    host.machine.path("/etc/hosts").write_text("mine\n")
    assert "/etc/hosts\n" in (await host.ctl("config-diff")).stdout


def files(tree: Tree) -> dict[str, tuple[object, ...]]:
    """Return what makes a file another one, by absolute path; directories are not listed by a diff."""
    return {
        f"/{path}": (entry.type, entry.mode, entry.uid, entry.gid, entry.xattrs, entry.sha256, entry.target)
        for path, entry in tree.items()
        if entry.type in ("file", "symlink")
    }
