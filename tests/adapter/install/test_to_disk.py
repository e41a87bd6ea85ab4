"""Installation to a raw disk file: what is on the disk afterwards, as other programs see it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.install import (
    KERNEL,
    MIB,
    ROOT_START,
    attached,
    await_detached,
    deployment_of,
    entry_of,
    esp_files,
    esp_read,
    install,
    partition,
    raw_disk,
    small_image,
    write_layout,
)
from tests.support.oci_image import directory, file
from tests.support.os_image import OsImages
from tests.support.selinux import RULES, label_on_disk, policy_entries, policy_files
from tests.support.tree import Tree, deployed, differences, scan_tree


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def uuid_of(disk: Path) -> str:
    command = ["blkid", "--probe", "--offset", str(ROOT_START), "-s", "UUID", "-o", "value", str(disk)]
    return output_of(*command).strip()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs"])
def test_disk_is_laid_out_sound_and_has_one_bootable_deployment(
    filesystem: str, source: str, disk: Path, tmp_path: Path
) -> None:
    install("to-disk", "--via-loopback", "--filesystem", filesystem, "--source-imgref", source, disk)
    await_detached(disk)
    table = json.loads(output_of("sfdisk", "--json", disk))["partitiontable"]
    assert [p["name"] for p in table["partitions"]] == ["BIOS-BOOT", "EFI-SYSTEM", "root"]
    assert "No errors" in output_of("sfdisk", "--verify", disk)
    assert esp_files(disk) == {"EFI/BOOT/BOOTX64.EFI"}
    uuid = uuid_of(disk)
    image = esp_read(disk, "EFI/BOOT/BOOTX64.EFI")
    assert image.startswith(b"MZ")
    assert f"search --no-floppy --fs-uuid --set=root {uuid}".encode() in image
    with partition(disk, tmp_path / "root") as root:
        kind, label = output_of("findmnt", "-no", "FSTYPE,LABEL", root).split()
        assert (kind, label) == (filesystem, "root")
        entry = entry_of(root)
        options = entry["options"].split()
        assert options[:4] == [f"root=UUID={uuid}", "rw", "console=ttyS0", "quiet"]
        [deployment_karg] = [option for option in options if option.startswith("ostree=")]
        assert (root / deployment_karg.removeprefix("ostree=/")).resolve() == deployment_of(root)
        # With /boot in it, paths of the file system begin with /boot.
        assert (root / entry["linux"].lstrip("/")).read_bytes() == b"kernel"
        assert (root / entry["initrd"].lstrip("/")).read_bytes() == b"initramfs"
        assert entry["linux"].startswith("/boot/ostree/default-")
        assert KERNEL in entry["linux"]
        config = (root / "boot/grub2/grub.cfg").read_text()
        assert "blscfg --path /boot/loader/entries" in config
        checks = output_of("ostree", "fsck", f"--repo={root}/ostree/repo")
        assert "no errors found" in checks
        status = output_of("ostree", "admin", "status", f"--sysroot={root}")
        assert status.strip().startswith("default ")


def test_settings_of_repository_and_origin_are_bootc_s(source: str, disk: Path, tmp_path: Path) -> None:
    install(
        *("to-disk", "--via-loopback", "--filesystem=ext4", "--source-imgref", source),
        *(
            "--target-imgref",
            "registry.example/os:1",
            "--stateroot",
            "fleet",
            "--enforce-container-sigpolicy",
        ),
        disk,
    )
    with partition(disk, tmp_path / "root") as root:
        repo = root / "ostree/repo"
        for name, value in (("bootloader", "none"), ("bootprefix", "true"), ("readonly", "true")):
            assert output_of("ostree", f"--repo={repo}", "config", "get", f"sysroot.{name}").strip() == value
        deployment = deployment_of(root, "fleet")
        origin = deployment.with_name(deployment.name + ".origin").read_text()
        assert origin == (
            "[origin]\ncontainer-image-reference=ostree-image-signed:docker://registry.example/os:1\n"
        )
        refs = output_of("ostree", f"--repo={repo}", "refs", "--list", "ostree/container/image").split()
        assert refs == ["ostree/container/image/docker_3A__2F__2F_registry_2E_example/os_3A_1"]
        document = json.loads((root / ".bootc-aleph.json").read_text())
        assert document["target-image"] == "registry.example/os:1"
        assert document["version"] == "1.0"
        assert document["labels"]["containers.bootc"] == "1"
        assert (root / "boot/boot").readlink() == Path() if (root / "boot").is_mount() else True


def test_options_and_settings_of_the_image_come_together(disk: Path, tmp_path: Path) -> None:
    settings = b"""\
[install]
root-fs-type = "ext4"
kargs = ["from.settings=1", "nosmt"]
karg-deletes = ["quiet"]
[install.ostree]
bls-append-except-default = "grub_users=x"
"""
    image = small_image(
        [directory("usr/lib/bootc/install"), file("usr/lib/bootc/install/10-image.toml", settings)]
    )
    keys = tmp_path / "keys"
    keys.write_text("ssh-ed25519 AAAA person@example\n")
    install(
        *("to-disk", "--via-loopback", "--source-imgref", write_layout(image, tmp_path / "layout")),
        *("--karg", "added=1", "--karg-delete", "nosmt", "--root-ssh-authorized-keys", keys),
        *("--root-size", "1G", "--disable-selinux", disk),
    )
    table = json.loads(output_of("sfdisk", "--json", disk))["partitiontable"]
    assert table["partitions"][-1]["size"] == 1024 * MIB // 512
    with partition(disk, tmp_path / "root") as root:
        options = entry_of(root)["options"].split()
        assert options[1:6] == ["rw", "from.settings=1", "console=ttyS0", "added=1", "selinux=0"]
        lines = (deployment_of(root) / "etc/tmpfiles.d/bootc-root-ssh.conf").read_text().split()
        assert lines[1] == "/var/roothome/.ssh/authorized_keys"
        assert base64.b64decode(lines[-1]) == keys.read_bytes()
        config = (root / "ostree/repo/config").read_text()
        assert "bls-append-except-default=grub_users=x" in config


def test_configuration_is_printed_as_the_image_has_it(tmp_path: Path) -> None:
    image = small_image(
        [file("usr/lib/bootc/install/10.toml", b'[install]\nroot-fs-type = "xfs"\nkargs = ["a"]\n')]
    )
    reference = write_layout(image, tmp_path / "layout")
    short = install("print-configuration", "--source-imgref", reference).stdout
    full = install("print-configuration", "--all", "--source-imgref", reference).stdout
    assert json.loads(short)["filesystem"]["root"]["type"] == "xfs"
    assert "kargs" not in json.loads(short)
    assert json.loads(full)["kargs"] == ["a"]


@pytest.mark.timeout(120)
def test_image_with_a_policy_is_labelled_as_a_whole(disk: Path, tmp_path: Path) -> None:
    rules = RULES + "/boot(/.*)?  system_u:object_r:boot_t:s0\n/etc(/.*)?  system_u:object_r:etc_t:s0\n"
    source = write_layout(small_image(policy_entries(policy_files(rules))), tmp_path / "layout")
    keys = tmp_path / "keys"
    keys.write_text("ssh-ed25519 AAAA person@example\n")
    install(
        *("to-disk", "--via-loopback", "--filesystem=ext4", "--source-imgref", source),
        *("--root-ssh-authorized-keys", keys, disk),
    )
    with partition(disk, tmp_path / "root") as root:
        deployment = deployment_of(root).relative_to(root)
        expected = {
            "": "root_t",
            "boot": "boot_t",
            "boot/grub2/grub.cfg": "boot_t",
            "ostree/deploy": "default_t",
            "ostree/repo/config": "default_t",
            ".bootc-aleph.json": "default_t",
            f"{deployment}/usr/lib/os-release": "lib_t",
            f"{deployment}/etc/hosts": "etc_t",
            f"{deployment}/etc/tmpfiles.d/bootc-root-ssh.conf": "etc_t",
        }
        # libostree, which labels /etc, writes no NUL at the end.
        found = {path: (label_on_disk(root / path) or b"").rstrip(b"\0") for path in expected}
        assert found == {path: f"system_u:object_r:{kind}:s0".encode() for path, kind in expected.items()}
        assert "no errors found" in output_of("ostree", "fsck", f"--repo={root}/ostree/repo")
        assert json.loads((root / ".bootc-aleph.json").read_text())["selinux"] == "host-disabled"


@pytest.mark.timeout(120)
def test_block_device_is_installed_like_a_file(source: str, disk: Path, tmp_path: Path) -> None:
    with attached(disk) as device:
        install("to-disk", "--filesystem=ext4", "--source-imgref", source, device)
        # Nobody holds it any more.
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    assert esp_files(disk) == {"EFI/BOOT/BOOTX64.EFI"}
    with partition(disk, tmp_path / "root") as root:
        assert entry_of(root)["options"].startswith(f"root=UUID={uuid_of(disk)} ")


@pytest.mark.timeout(240)
def test_whole_operating_system_is_deployed_as_the_image_has_it(
    os_images: OsImages, os_tree: Callable[[str], Tree], tmp_path: Path
) -> None:
    disk = raw_disk(tmp_path / "disk.img", 3072 * MIB)
    install(
        *("to-disk", "--via-loopback", "--filesystem=ext4", "--bootloader=none"),
        *("--source-imgref", f"oci:{os_images.layout}:v1", disk),
    )
    await_detached(disk)
    command = ["e2fsck", "-f", "-n", f"{disk}?offset={ROOT_START}"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    with partition(disk, tmp_path / "root") as root:
        deployment = deployment_of(root)
        found = scan_tree(deployment, without={"etc", "var", ".ostree.cfs"})
        expected = {
            path: entry
            for path, entry in deployed(os_tree("v1"), factory_var=True).items()
            if path != "var" and not path.startswith("var/")
        }
        assert differences(expected, found)[:10] == []
        assert os_images.kernel in entry_of(root)["linux"]
