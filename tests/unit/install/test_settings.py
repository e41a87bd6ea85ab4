"""What an image says about its own installation."""

import json

import pytest

from bootcd.install.layout import Filesystem
from bootcd.install.settings import (
    MAX_FILE_BYTES,
    BlockSetup,
    Bootloader,
    InstallSettings,
    merge_files,
    parse_settings,
)
from bootcd.model.errors import InvalidConfig


def merged(*texts: str, architecture: str = "x86_64") -> InstallSettings:
    files = [(f"/usr/lib/bootc/install/{n:02}.toml", text.encode()) for n, text in enumerate(texts)]
    return merge_files(files, architecture)


def test_every_key_is_understood() -> None:
    settings = merged(
        """
        [install]
        root-fs-type = "xfs"
        block = ["direct", "tpm2-luks"]
        kargs = ["nosmt", "console=tty0"]
        karg-deletes = ["quiet"]
        match-architectures = ["x86_64"]
        stateroot = "fedora"
        root-mount-spec = "LABEL=rootfs"
        boot-mount-spec = "UUID=abcd"
        bootloader = "grub"
        discoverable-partitions = true
        enforce-container-sigpolicy = true
        [install.filesystem.root]
        type = "ext4"
        [install.ostree]
        bls-append-except-default = "grub_users=\\"\\""
        [install.bootupd]
        skip-boot-uuid = true
        """
    )
    assert settings.root_filesystem is Filesystem.EXT4
    assert settings.root_fs_type is Filesystem.EXT4
    assert settings.block == (BlockSetup.DIRECT, BlockSetup.TPM2_LUKS)
    assert settings.kargs == ("nosmt", "console=tty0")
    assert settings.karg_deletes == ("quiet",)
    assert settings.bootloader is Bootloader.GRUB
    assert settings.ostree
    assert settings.ostree.bls_append_except_default == 'grub_users=""'


def test_later_files_win_and_kernel_arguments_add_up() -> None:
    settings = merged(
        '[install]\nroot-fs-type = "xfs"\nkargs = ["a", "b"]\nstateroot = "one"',
        '[install]\nroot-fs-type = "btrfs"\nkargs = ["c"]',
    )
    assert settings.root_filesystem is Filesystem.BTRFS
    assert settings.kargs == ("a", "b", "c")
    assert settings.stateroot == "one"


def test_file_of_a_directory_that_counts_more_replaces_its_namesake() -> None:
    files = [
        ("/usr/lib/bootc/install/10.toml", b'[install]\nkargs = ["image"]\nroot-fs-type = "xfs"'),
        ("/usr/lib/bootc/install/20.toml", b'[install]\nkargs = ["second"]'),
        ("/etc/bootc/install/10.toml", b'[install]\nkargs = ["administrator"]'),
    ]
    settings = merge_files(files, "x86_64")
    assert settings.kargs == ("administrator", "second")
    assert settings.root_filesystem is None


def test_file_for_another_architecture_is_left_out() -> None:
    settings = merged(
        '[install]\nkargs = ["everywhere"]',
        '[install]\nmatch-architectures = ["aarch64"]\nkargs = ["there"]\nroot-fs-type = "xfs"',
    )
    assert settings.kargs == ("everywhere",)
    assert settings.root_filesystem is None


def test_older_name_of_the_root_file_system_stands_for_the_newer() -> None:
    settings = merged('[install]\nroot-fs-type = "xfs"')
    assert settings.filesystem
    assert settings.filesystem.root
    assert settings.filesystem.root.type is Filesystem.XFS
    assert settings.block == (BlockSetup.DIRECT,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[install]\nrootfs = "xfs"', "unknown key 'install.rootfs'"),
        ('[install]\nroot_fs_type = "xfs"', "unknown key 'install.root_fs_type'"),
        ('[install.filesystem.boot]\ntype = "xfs"', "unknown key 'install.filesystem.boot'"),
        ("[other]\nx = 1", "unknown key 'other'"),
        ('[install]\nroot-fs-type = "zfs"', "install.root-fs-type"),
        ("[install]\nkargs = 1", "install.kargs"),
        ("install = 3", "install"),
        ("[install", "is not valid TOML"),
    ],
)
def test_file_that_is_not_valid_is_an_error_with_its_name(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings(text.encode(), "/etc/bootc/install/1.toml")
    assert words in caught.value.message
    assert "/etc/bootc/install/1.toml" in caught.value.message


@pytest.mark.parametrize("data", [b"\xff", b"#" * (MAX_FILE_BYTES + 1), b"a=" + b"[" * 5000])
def test_file_that_is_no_text_or_too_large_is_an_error(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        parse_settings(data, "x.toml")


def test_json_is_canonical_and_has_the_names_of_the_format() -> None:
    settings = merged('[install]\nroot-fs-type = "xfs"\nkargs = ["a"]')
    short, full = settings.to_json(everything=False), settings.to_json(everything=True)
    assert json.loads(full)["kargs"] == ["a"]
    assert "kargs" not in json.loads(short)
    assert json.loads(short)["filesystem"] == {"root": {"type": "xfs"}}
    assert short.startswith('{"block":["direct"],"boot-mount-spec":null,')
