"""The boot order of a host that bootc drives, whatever bootc says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.bootc.command import Bootc
from bootcd.health.deployed import BootcDeployed
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host


def entry(role: str, **changes: str) -> dict[str, object]:
    made = composefs_entry(role, "1" if role == "rollback" else "2")
    made["composefs"] |= changes
    return made


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("first", ["booted", "rollback"])
def test_order_of_unified_kernel_images_is_that_of_their_entries(
    tmp_path: Path, first: str, said: bool
) -> None:
    roles = {role: entry(role, bootType="Uki") for role in ("booted", "rollback")}
    host = composefs_host(**roles)
    host["status"]["rollbackQueued"] = said
    bootc = BootcStandIn(tmp_path / "bin")
    bootc.answer("host.json", host)
    deployed = BootcDeployed(tmp_path, Bootc(str(bootc.program)))
    assert deployed.look().target_next is said  # there is nothing else to go by

    entries = tmp_path / "boot/loader/entries"
    entries.mkdir(parents=True)
    for role, found in roles.items():
        verity = found["composefs"]["verity"]  # type: ignore[index]
        text = f"efi /EFI/Linux/bootc/bootc_composefs-{verity}.efi\nsort-key bootc-os-{int(role != first)}\n"
        (entries / f"bootc_os-{role}.conf").write_text(text)
    (entries / "other.conf").write_text("title Other\nefi /EFI/other.efi\nsort-key another\n")
    assert deployed.look().target_next is (first == "rollback")


def test_order_of_kernels_is_what_bootc_says(tmp_path: Path) -> None:
    host = composefs_host(rollback=entry("rollback"))
    host["status"]["rollbackQueued"] = True
    bootc = BootcStandIn(tmp_path / "bin")
    bootc.answer("host.json", host)
    assert BootcDeployed(tmp_path, Bootc(str(bootc.program))).look().target_next
