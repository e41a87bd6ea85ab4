"""What an image says about its own installation: drop-ins in `bootc/install`, merged to one value.

Files `*.toml` of the directories below, those of the image with those of the administrator on top: of
several with one name the one of the directory that counts most is read, then all are applied in the
order of their names. A later value replaces an earlier one; kernel arguments add up. A file for other
architectures is left out. Pure: who reads the files hands their bytes in.

Format: `bootc-install-config(5)`, https://bootc-dev.github.io/bootc/man/bootc-install-config.5.html.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bootcd.install.layout import Filesystem
from bootcd.model.errors import InvalidConfig

DIRECTORIES = (
    "usr/lib/bootc/install",
    "usr/local/lib/bootc/install",
    "etc/bootc/install",
    "run/bootc/install",
)
"Below a root; what counts most comes last."
MAX_FILE_BYTES = 64 << 10

_ADDED_UP = ("kargs", "karg-deletes")


class BlockSetup(StrEnum):
    """How a file system lies on its disk."""

    DIRECT = "direct"
    TPM2_LUKS = "tpm2-luks"


class Bootloader(StrEnum):
    GRUB = "grub"
    GRUB_CC = "grub-cc"
    SYSTEMD = "systemd"
    NONE = "none"


class BoundImages(StrEnum):
    """What becomes of the images that are bound to a host image."""

    PULL = "pull"
    SKIP = "skip"


class Replace(StrEnum):
    """What may be lost of a file system that is not empty."""

    WIPE = "wipe"
    "Everything."
    ALONGSIDE = "alongside"
    "What boots it; the rest stays beside the new system."


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-")
    )


class RootFilesystem(_Table):
    type: Filesystem | None = None


class Filesystems(_Table):
    root: RootFilesystem | None = None


class OstreeOptions(_Table):
    bls_append_except_default: str | None = None


class BootupdOptions(_Table):
    skip_boot_uuid: bool | None = None


class InstallSettings(_Table):
    """The table `[install]`."""

    root_fs_type: Filesystem | None = None
    block: tuple[BlockSetup, ...] | None = None
    filesystem: Filesystems | None = None
    kargs: tuple[str, ...] | None = None
    karg_deletes: tuple[str, ...] | None = None
    match_architectures: tuple[str, ...] | None = None
    ostree: OstreeOptions | None = None
    stateroot: str | None = None
    root_mount_spec: str | None = None
    boot_mount_spec: str | None = None
    bootupd: BootupdOptions | None = None
    bootloader: Bootloader | None = None
    discoverable_partitions: bool | None = None
    enforce_container_sigpolicy: bool | None = None

    @property
    def root_filesystem(self) -> Filesystem | None:
        """The root file system's type; the newer of its two names wins."""
        newer = self.filesystem.root.type if self.filesystem and self.filesystem.root else None
        return newer or self.root_fs_type

    def overlaid(self, other: InstallSettings) -> InstallSettings:
        """Return these with what another file sets on top."""
        old, new = (one.model_dump(exclude_none=True, by_alias=True) for one in (self, other))
        return InstallSettings.model_validate(_merge(old, new))

    def completed(self) -> Self:
        """Return these with both names of the root file system's type, and the default block set-up."""
        changes: dict[str, Any] = {}
        if self.root_filesystem is not None:
            root = RootFilesystem(type=self.root_filesystem)
            changes = {"root_fs_type": self.root_filesystem, "filesystem": Filesystems(root=root)}
        if self.block is None:
            changes["block"] = (BlockSetup.DIRECT,)
        return self.model_copy(update=changes)

    def to_json(self, *, everything: bool) -> str:
        """Return canonical JSON as bootc prints it; without `everything`, what an installer has to know."""
        document = self.model_dump(mode="json", by_alias=True)
        for name in _ADDED_UP:
            if not everything or document[name] is None:
                del document[name]
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        if isinstance(value, dict):
            merged[name] = _merge(old.get(name, {}), value)
        elif name in _ADDED_UP:
            merged[name] = (*old.get(name, ()), *value)
        else:
            merged[name] = value
    return merged


def merge_files(files: Sequence[tuple[str, bytes]], architecture: str) -> InstallSettings:
    """Return the settings of files, given as path and content, in the order of `DIRECTORIES`.

    Args:
        architecture: by the name `match-architectures` has for it, see `kargs.rust_architecture`.
    Raises:
        InvalidConfig: a file is not valid, or has an unknown key.
    """
    chosen: dict[str, tuple[str, bytes]] = {}
    for path, data in files:
        chosen[path.rpartition("/")[2]] = (path, data)
    merged: InstallSettings | None = None
    for _, (path, data) in sorted(chosen.items()):
        found = parse_settings(data, path)
        if found.match_architectures is not None and architecture not in found.match_architectures:
            continue
        merged = found if merged is None else merged.overlaid(found)
    return InstallSettings() if merged is None else merged.completed()


def parse_settings(data: bytes, path: str) -> InstallSettings:
    """Parse one file; `path` is for the error.

    Raises InvalidConfig, also for a key that is not known.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _invalid(path, f"is larger than {MAX_FILE_BYTES >> 10} KiB")
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise _invalid(path, "is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, f"is not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise _invalid(path, "is not valid TOML") from None
    unknown = sorted(document.keys() - {"install"})
    if unknown:
        raise _invalid(path, f"has the unknown key {unknown[0]!r}")
    install = document.get("install", {})
    try:
        return InstallSettings.model_validate(install)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(["install", *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            raise _invalid(path, f"has the unknown key {key!r}") from None
        raise _invalid(path, f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def _invalid(path: str, problem: str) -> InvalidConfig:
    return InvalidConfig(
        f"configuration file {path}: {problem}", hint="correct the file or remove it", path=path
    )
