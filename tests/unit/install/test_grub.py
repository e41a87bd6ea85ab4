"""Which boot loader an image can be booted by, and GRUB's files."""

import pytest

from bootcd.install.grub import (
    Choice,
    Method,
    bootupd_command,
    choose_bootloader,
    early_config,
    image_modules,
    mkimage_command,
    static_config,
)
from bootcd.install.settings import Bootloader
from bootcd.model.errors import NotBootable, Unsupported

MODULES = {"usr/lib/grub/x86_64-efi/moddep.lst"}
NEW_GRUB = MODULES | {"usr/lib/grub/x86_64-efi/blsuki.mod"}
PATCHED_GRUB = MODULES | {"usr/lib/grub/x86_64-efi/blscfg.mod"}
UPDATES = {
    "usr/bin/bootupctl",
    "usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI",
    "usr/lib/bootupd/updates/EFI/fedora/shimx64.efi",
    "usr/lib/bootupd/updates/EFI/fedora/grubx64.efi",
    "usr/lib/bootupd/updates/EFI.json",
}
VERSIONED = {
    "usr/lib/efi/shim/15.8-3/EFI/BOOT/BOOTX64.EFI",
    "usr/lib/efi/shim/15.8-3/EFI/fedora/shimx64.efi",
    "usr/lib/efi/grub2/2.12-30/EFI/fedora/grubx64.efi",
}


def choose(
    files: set[str],
    wanted: Bootloader | None = None,
    machine: str = "x86_64",
    *,
    bootupd_works: bool = True,
) -> Choice:
    return choose_bootloader(
        frozenset(files), machine, wanted, bootupd_works=bootupd_works, reference="image"
    )


@pytest.mark.parametrize(
    ("files", "bootupd_works", "method"),
    [
        pytest.param(UPDATES | NEW_GRUB, True, Method.BOOTUPD, id="bootupd first"),
        pytest.param(UPDATES | NEW_GRUB, False, Method.READY, id="its files where it cannot run"),
        pytest.param(VERSIONED | NEW_GRUB, True, Method.READY, id="ready files before modules"),
        pytest.param(NEW_GRUB, True, Method.MODULES, id="modules"),
        pytest.param(UPDATES - {"usr/bin/bootupctl"}, True, Method.READY, id="updates without program"),
    ],
)
def test_bootloader_is_chosen_by_what_the_image_has(
    files: set[str], bootupd_works: bool, method: Method
) -> None:
    assert choose(files, bootupd_works=bootupd_works).method is method
    assert choose(files, Bootloader.GRUB, bootupd_works=bootupd_works).method is method


def test_ready_files_keep_their_places_in_the_partition() -> None:
    assert dict(choose(VERSIONED).efi_files) == {
        "usr/lib/efi/shim/15.8-3/EFI/BOOT/BOOTX64.EFI": "EFI/BOOT/BOOTX64.EFI",
        "usr/lib/efi/shim/15.8-3/EFI/fedora/shimx64.efi": "EFI/fedora/shimx64.efi",
        "usr/lib/efi/grub2/2.12-30/EFI/fedora/grubx64.efi": "EFI/fedora/grubx64.efi",
    }


def test_module_that_reads_entries_is_the_one_there_is() -> None:
    assert choose(NEW_GRUB).blscfg == "blsuki"
    assert choose(PATCHED_GRUB).blscfg == "blscfg"


def test_no_bootloader_is_chosen_only_if_asked_for() -> None:
    assert choose(set(), Bootloader.NONE).method is Method.NONE
    with pytest.raises(NotBootable, match="has no boot loader"):
        choose(set())


def test_grub_that_cannot_read_entries_is_refused_with_its_reason() -> None:
    with pytest.raises(NotBootable, match="cannot read boot entries"):
        choose(MODULES)


@pytest.mark.parametrize("wanted", [Bootloader.SYSTEMD, Bootloader.GRUB_CC])
def test_bootloader_that_could_not_follow_an_update_is_refused(wanted: Bootloader) -> None:
    with pytest.raises(Unsupported, match=wanted.value):
        choose(UPDATES | NEW_GRUB, wanted)


def test_grub_of_another_machine_does_not_count() -> None:
    with pytest.raises(NotBootable):
        choose(NEW_GRUB, machine="aarch64")


def test_modules_are_those_there_are_and_that_of_the_file_system() -> None:
    needed = {"part_gpt", "search", "search_fs_uuid", "normal", "configfile", "linux", "test"}
    available = frozenset(needed | {"blsuki", "ext2", "serial"})
    assert set(image_modules(available, "ext4", "blsuki")) == needed | {"blsuki", "ext2", "serial"}
    with pytest.raises(NotBootable, match="no module xfs"):
        image_modules(available, "xfs", "blsuki")


@pytest.mark.parametrize(("boot_path", "prefix"), [("/boot", "($root)/boot/grub2"), ("", "($root)/grub2")])
def test_early_configuration_finds_boot_by_its_uuid(boot_path: str, prefix: str) -> None:
    lines = early_config("abcd-12", boot_path).splitlines()
    assert lines[0] == "search --no-floppy --fs-uuid --set=root abcd-12"
    assert lines[1] == f"set prefix={prefix}"
    assert lines[2] == "configfile $prefix/grub.cfg"


def test_static_configuration_reads_the_entries_where_they_are() -> None:
    assert "\nblscfg --path /boot/loader/entries\n" in static_config("/boot", "blsuki")
    assert "\nblscfg --path /loader/entries\n" in static_config("", "blsuki")
    assert static_config("/boot", "").endswith("\nblscfg\n")


def test_commands_have_their_arguments() -> None:
    command = mkimage_command(
        ["grub-mkimage"], platform="x86_64-efi", directory="/d", config="/c", output="/o", modules=["a", "b"]
    )
    assert command[:3] == ["grub-mkimage", "--format", "x86_64-efi"]
    assert command[-2:] == ["a", "b"]
    plain = bootupd_command("/r", "/dev/x", generic=False, static_only=False, mounts_root=False)
    start = ["chroot", "/r", "bootupctl", "backend", "install"]
    assert plain == [*start, "--write-uuid", "--update-firmware", "--auto", "--device", "/dev/x", "/"]
    generic = bootupd_command("/r", "", generic=True, static_only=True, mounts_root=True)
    assert generic == [*start, "--with-static-configs", "--filesystem", "/sysroot", "/"]
