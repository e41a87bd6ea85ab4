"""GRUB's counter of boots, beside GRUB's own tool."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from bootcd.health.bootcount import ATTEMPTS, BootCounter
from bootcd.install.grub import static_config


@pytest.fixture
def grub(tmp_path: Path) -> Path:
    """/boot/grub2 of a host that bootcd-install has given its boot loader."""
    directory = tmp_path / "boot/grub2"
    directory.mkdir(parents=True)
    (directory / "grub.cfg").write_text(static_config("/boot", ""))
    return directory


def listed(grub: Path) -> set[str]:
    done = subprocess.run(
        ["grub-editenv", grub / "grubenv", "list"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_counter_is_what_grubs_own_tool_shows(tmp_path: Path, grub: Path) -> None:
    subprocess.run(["grub-editenv", grub / "grubenv", "create"], check=True)
    subprocess.run(["grub-editenv", grub / "grubenv", "set", "saved_entry=x"], check=True)
    counter = BootCounter(tmp_path)

    assert counter.arm()
    assert listed(grub) == {"saved_entry=x", f"boot_counter={ATTEMPTS}"}
    subprocess.run(["grub-editenv", grub / "grubenv", "set", "boot_counter=-1"], check=True)
    assert counter.attempts() == -1

    counter.disarm(good=False)
    assert listed(grub) == {"saved_entry=x"}
    counter.disarm(good=True)
    assert listed(grub) == {"saved_entry=x", "boot_success=1"}
    assert counter.attempts() is None


def test_block_that_is_not_there_yet_is_made(tmp_path: Path, grub: Path) -> None:
    assert BootCounter(tmp_path).arm()

    assert (grub / "grubenv").stat().st_size == 1024
    assert BootCounter(tmp_path).attempts() == ATTEMPTS


def test_block_in_the_efi_system_partition_stays_there(tmp_path: Path, grub: Path) -> None:
    (tmp_path / "boot/efi/EFI/fedora").mkdir(parents=True)
    (grub / "grubenv").symlink_to("../efi/EFI/fedora/grubenv")

    assert BootCounter(tmp_path).arm()

    assert (grub / "grubenv").is_symlink()
    assert (tmp_path / "boot/efi/EFI/fedora/grubenv").stat().st_size == 1024


def test_grub_that_does_not_count_is_left_alone(tmp_path: Path, grub: Path) -> None:
    (grub / "grub.cfg").write_text("set default=0\nload_env\nblscfg\n")
    counter = BootCounter(tmp_path)

    assert not counter.supported
    assert not counter.arm()
    counter.disarm(good=True)
    assert not (grub / "grubenv").exists()
    assert not BootCounter(tmp_path / "absent").supported


def test_block_that_is_none_is_told_and_left_as_it_is(
    tmp_path: Path, grub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (grub / "grubenv").write_text("something else")
    with caplog.at_level(logging.WARNING):
        assert not BootCounter(tmp_path).arm()

    assert "cannot be changed: not an environment block" in caplog.text
    assert (grub / "grubenv").read_text() == "something else"
