"""The layout of a disk, as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.install.layout import (
    ESP_TYPE,
    MIB,
    ROOT_TYPES,
    Filesystem,
    Layout,
    least_root_bytes,
    mkfs_command,
    mkfs_esp_command,
    parse_root_size,
    plan_layout,
    sfdisk_command,
)
from bootcd.model.errors import InvalidArguments, OutOfSpace, Unsupported

GIB = 1 << 30
LABEL_ID = "11111111-2222-3333-4444-555555555555"


def plan(disk: int = 10 * GIB, machine: str = "x86_64", sector: int = 512, **changes: object) -> Layout:
    arguments = {"filesystem": Filesystem.EXT4, "content_bytes": GIB, "root_bytes": None} | changes
    return plan_layout(
        disk, sector_bytes=sector, machine=machine, label_id=LABEL_ID, where="/dev/disk", **arguments
    )


def test_layout_of_x86_64_is_that_of_bootc() -> None:
    assert plan().sfdisk_script() == (
        "label: gpt\n"
        f"label-id: {LABEL_ID}\n"
        "unit: sectors\n"
        'start=2048, size=2048, bootable, type=21686148-6449-6e6f-744e-656564454649, name="BIOS-BOOT"\n'
        'start=4096, size=1048576, type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b, name="EFI-SYSTEM"\n'
        'start=1052672, size=19916800, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709, name="root"\n'
    )


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        ("x86_64", ["BIOS-BOOT", "EFI-SYSTEM", "root"]),
        ("aarch64", ["EFI-SYSTEM", "root"]),
        ("riscv64", ["EFI-SYSTEM", "root"]),
        ("ppc64le", ["PowerPC-PReP-boot", "root"]),
        ("s390x", ["root"]),
    ],
)
def test_layout_has_the_partitions_of_its_machine(machine: str, names: list[str]) -> None:
    layout = plan(machine=machine)
    assert [partition.name for partition in layout.partitions] == names
    assert [partition.number for partition in layout.partitions] == list(range(1, len(names) + 1))
    assert layout.root.type == ROOT_TYPES[machine]
    assert (layout.esp is not None) == ("EFI-SYSTEM" in names)


def test_layout_of_an_unknown_machine_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="vax"):
        plan(machine="vax")


@given(
    disk=st.integers(min_value=3 * GIB, max_value=1 << 46),
    machine=st.sampled_from(sorted(ROOT_TYPES)),
    sector=st.sampled_from([512, 4096]),
)
def test_layout_is_aligned_and_within_the_disk(disk: int, machine: str, sector: int) -> None:
    layout = plan(disk, machine, sector)
    end = MIB
    for partition in layout.partitions:
        assert partition.start == end
        assert partition.size > 0
        assert partition.start % MIB == partition.size % MIB == 0
        end = partition.start + partition.size
    # The second copy of the table: 128 entries of 128 bytes and a header.
    assert end <= disk - (128 * 128 + sector)
    assert end > disk - 3 * MIB


def test_layout_takes_the_root_size_that_is_asked_for() -> None:
    assert plan(root_bytes=4 * GIB).root.size == 4 * GIB


def test_layout_with_too_small_a_disk_says_what_is_needed() -> None:
    with pytest.raises(OutOfSpace, match="/dev/disk has 1024 MiB") as caught:
        plan(GIB)
    needed = caught.value.fields["needed_bytes"]
    assert isinstance(needed, int)
    plan(needed)
    with pytest.raises(OutOfSpace):
        plan(needed - MIB)


def test_layout_with_too_small_a_root_says_so() -> None:
    with pytest.raises(OutOfSpace, match="root partition of 1024 MiB"):
        plan(root_bytes=GIB)


def test_layout_with_too_large_a_root_says_so() -> None:
    with pytest.raises(OutOfSpace, match="/dev/disk has 10240 MiB"):
        plan(root_bytes=10 * GIB)


@pytest.mark.parametrize("filesystem", list(Filesystem))
def test_least_root_is_whole_mebibytes_and_holds_the_content(filesystem: Filesystem) -> None:
    for content in (0, 1, GIB, 10 * GIB + 1):
        size = least_root_bytes(content, filesystem)
        assert size % MIB == 0
        assert size > content


@pytest.mark.parametrize(
    ("text", "size"), [("20480", 20 * GIB), ("20480M", 20 * GIB), ("20G", 20 * GIB), ("1T", 1 << 40)]
)
def test_root_size_is_parsed(text: str, size: int) -> None:
    assert parse_root_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1K", "1.5G", "0", "9" * 20, "1 G", "²G"])
def test_root_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArguments):
        parse_root_size(text)


def test_commands_have_bootc_s_options() -> None:
    uuid = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
    ext4, xfs, btrfs = (mkfs_command(kind, "/dev/x", uuid=uuid, label="root") for kind in Filesystem)
    assert ext4 == ["mkfs.ext4", "-q", "-F", "-U", uuid, "-L", "root", "-O", "verity", "/dev/x"]
    assert xfs == ["mkfs.xfs", "-q", "-f", "-m", f"uuid={uuid}", "-L", "root", "/dev/x"]
    assert btrfs == ["mkfs.btrfs", "-q", "-f", "-U", uuid, "-L", "root", "/dev/x"]
    assert "--wipe=always" in sfdisk_command("/dev/x")


def test_efi_system_partition_has_its_label() -> None:
    esp = plan().esp
    assert esp is not None
    assert esp.type == ESP_TYPE
    command = mkfs_esp_command("/dev/x", sector_bytes=4096, volume_id="12345678")
    assert command[command.index("-n") + 1] == "EFI-SYSTEM"
    assert command[command.index("-S") + 1] == "4096"
    assert command[-1] == "/dev/x"
