"""When a soft reboot is offered, with a libostree that knows soft reboots, which this machine's may not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootcd.model.errors import Unsupported
from bootcd.ostree import softreboot
from bootcd.ostree.libostree import Gio, GLib, OSTree
from bootcd.ostree.softreboot import can_soft_reboot, prepare_soft_reboot, require_soft_reboot


class Newer:
    """An OSTree.Sysroot of the year 2025 with the deployments `booted` and `other`."""

    def __init__(self, root: Path, *, capable: bool = True, error: bool = False) -> None:
        self._root = root
        self._capable = capable
        self._error = error
        self.prepared: list[tuple[str, bool]] = []

    def deployment_can_soft_reboot(self, _: Any) -> bool:
        if self._error:
            raise GLib.Error("no such deployment")
        return self._capable

    def deployment_set_soft_reboot(self, deployment: Any, allow_kernel_skew: bool, _: Any) -> None:
        self.prepared.append((deployment.name, allow_kernel_skew))

    def get_booted_deployment(self) -> Any:
        return deployment("booted")

    def get_path(self) -> Any:
        return Gio.File.new_for_path(str(self._root))

    def get_deployment_dirpath(self, of: Any) -> str:
        return str(of.name)


def deployment(name: str = "other", options: str | None = "ostree=/x rw") -> Any:
    bootconfig = None if options is None else SimpleNamespace(get=lambda _: options)
    return SimpleNamespace(name=name, get_bootconfig=lambda: bootconfig, get_csum=lambda: name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    unit = tmp_path / "usr/lib/systemd/system/soft-reboot.target"
    unit.parent.mkdir(parents=True)
    unit.touch()
    return tmp_path


def add_policy(root: Path, name: str, content: str) -> None:
    """Give a deployment the least libostree takes for a policy."""
    etc = root / name / "usr/etc/selinux"
    (etc / "targeted/policy").mkdir(parents=True)
    (etc / "targeted/contexts/files").mkdir(parents=True)
    (etc / "config").write_text("SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    (etc / "targeted/policy/policy.33").write_text(content)
    (etc / "targeted/contexts/files/file_contexts").write_text("/.* system_u:object_r:x_t:s0\n")


@pytest.fixture
def selinux(root: Path) -> Path:
    (root / "sys/fs/selinux").mkdir(parents=True)
    (root / "sys/fs/selinux/enforce").write_text("1")
    for name in ("booted", "other"):
        (root / name).mkdir()
    return root


def test_soft_reboot_is_what_libostree_says(root: Path) -> None:
    assert can_soft_reboot(Newer(root), deployment(), root)
    assert not can_soft_reboot(Newer(root, capable=False), deployment(), root)
    assert not can_soft_reboot(Newer(root, error=True), deployment(), root)


def test_soft_reboot_needs_a_libostree_and_a_systemd_that_know_it(root: Path) -> None:
    assert not can_soft_reboot(SimpleNamespace(), deployment(), root)
    (root / "usr/lib/systemd/system/soft-reboot.target").unlink()
    assert not can_soft_reboot(Newer(root), deployment(), root)


@pytest.mark.parametrize("options", [None, "rw quiet"], ids=["no entry", "no argument"])
@pytest.mark.parametrize("fixed", [False, True], ids=["before 2025.7", "since 2025.7"])
def test_soft_reboot_asks_no_libostree_that_would_crash(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: str | None, fixed: bool
) -> None:
    monkeypatch.setattr(OSTree, "check_version", lambda *version: fixed or version != (2025, 7))
    assert can_soft_reboot(Newer(root), deployment(options=options), root) is fixed


@pytest.mark.parametrize(
    ("booted", "other", "possible"),
    [(None, None, True), ("1", None, False), (None, "1", False), ("1", "1", True), ("1", "2", False)],
)
def test_soft_reboot_under_selinux_needs_the_same_policy(
    selinux: Path, monkeypatch: pytest.MonkeyPatch, booted: str | None, other: str | None, possible: bool
) -> None:
    policies = {str(selinux / "booted"): booted, str(selinux / "other"): other}

    def load(directory: Any, _: None) -> Any:
        return SimpleNamespace(get_csum=lambda: policies[directory.get_path()])

    monkeypatch.setattr(softreboot.OSTree, "SePolicy", SimpleNamespace(new=load))
    assert can_soft_reboot(Newer(selinux), deployment(), selinux) is possible


def test_soft_reboot_reads_the_policies_of_the_deployments(selinux: Path) -> None:
    add_policy(selinux, "booted", "policy")
    add_policy(selinux, "other", "policy")
    assert can_soft_reboot(Newer(selinux), deployment(), selinux)
    (selinux / "other/usr/etc/selinux/targeted/policy/policy.33").write_text("another")
    assert not can_soft_reboot(Newer(selinux), deployment(), selinux)


def test_soft_reboot_is_prepared_where_it_can_be_and_with_the_same_kernel_alone(root: Path) -> None:
    able, unable = Newer(root), Newer(root, capable=False)
    assert prepare_soft_reboot(able, deployment(), root)
    assert not prepare_soft_reboot(unable, deployment(), root)
    assert (able.prepared, unable.prepared) == ([("other", False)], [])


def test_soft_reboot_that_is_required_is_refused_where_there_are_none(root: Path) -> None:
    require_soft_reboot(Newer(root), root)
    with pytest.raises(Unsupported, match="too old"):
        require_soft_reboot(SimpleNamespace(), root)
    (root / "usr/lib/systemd/system/soft-reboot.target").unlink()
    with pytest.raises(Unsupported, match="too old"):
        require_soft_reboot(Newer(root), root)
