"""From the words of a command line, and the files they name, to what an installation takes."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bootcd.config import CONFIG_DIRS, load_config
from bootcd.engine.source import named_image, parse_source
from bootcd.host.clock import SystemClock
from bootcd.host.files import read_bounded
from bootcd.install.layout import Filesystem, parse_root_size
from bootcd.install.prepare import Options, image_settings
from bootcd.install.settings import (
    DIRECTORIES,
    MAX_FILE_BYTES,
    BlockSetup,
    Bootloader,
    BoundImages,
    InstallSettings,
    Replace,
    merge_files,
)
from bootcd.install.to_disk import DiskOptions
from bootcd.install.to_filesystem import FilesystemOptions
from bootcd.model.errors import InvalidArguments, InvalidConfig
from bootcd.model.job import WorkerSettings
from bootcd.ostreefmt.kargs import DEPLOYMENT_KARG, rust_architecture, split_kargs
from bootcd.ostreefmt.origin import SignaturePolicy, TrackedImage

_KEYS_LIMIT = 64 << 10
_STATEROOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def disk_options(arguments: argparse.Namespace) -> DiskOptions:
    return DiskOptions(
        device=arguments.device,
        wipe=arguments.wipe,
        via_loopback=arguments.via_loopback,
        filesystem=Filesystem(arguments.filesystem) if arguments.filesystem else None,
        root_bytes=parse_root_size(arguments.root_size) if arguments.root_size else None,
        block_setup=BlockSetup(arguments.block_setup) if arguments.block_setup else None,
    )


def filesystem_options(arguments: argparse.Namespace) -> FilesystemOptions:
    return FilesystemOptions(
        path=arguments.path,
        root_mount_spec=arguments.root_mount_spec,
        boot_mount_spec=arguments.boot_mount_spec,
        replace=Replace(arguments.replace) if arguments.replace else None,
        acknowledge_destructive=arguments.acknowledge_destructive,
        skip_finalize=arguments.skip_finalize,
    )


def common_options(arguments: argparse.Namespace) -> Options:
    source = parse_source(arguments.source_imgref)
    target = source
    if arguments.target_imgref:
        target = named_image(arguments.target_transport, arguments.target_imgref)
    if arguments.enforce_container_sigpolicy:
        target = TrackedImage(target.transport, target.name, SignaturePolicy.CONTAINER_POLICY)
    stateroot = arguments.stateroot
    if stateroot is not None and not _STATEROOT.fullmatch(stateroot):
        raise InvalidArguments(f"{stateroot[:64]!r} is no name of a state root")
    return Options(
        source=source,
        target=target,
        settings=worker_settings(arguments.config_dir),
        clock=SystemClock(),
        host_files=settings_files(Path("/"), DIRECTORIES[2:]),
        kargs=_kargs(arguments.karg),
        karg_deletes=tuple(arguments.karg_delete),
        root_keys=_keys(arguments.root_ssh_authorized_keys),
        generic=arguments.generic_image,
        stateroot=stateroot,
        bootloader=Bootloader(arguments.bootloader) if arguments.bootloader else None,
        skip_boot_uuid=arguments.bootupd_skip_boot_uuid,
        disable_selinux=arguments.disable_selinux,
        run_fetch_check=arguments.run_fetch_check,
        spool=arguments.spool_dir,
        bound_images=BoundImages(arguments.bound_images),
    )


def worker_settings(directories: Sequence[Path] | None) -> WorkerSettings:
    return load_config(tuple(directories) if directories else CONFIG_DIRS).config.worker_settings


def settings_files(root: Path, directories: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
    found = []
    for directory in directories:
        for path in sorted((root / directory).glob("*.toml")):
            try:
                found.append((str(path), read_bounded(path, MAX_FILE_BYTES)))
            except OSError as error:
                raise InvalidConfig(
                    f"configuration file {path}: cannot be read: {error.strerror}", path=str(path)
                ) from error
    return tuple(found)


def _kargs(texts: Sequence[str]) -> tuple[str, ...]:
    found = [argument for text in texts for argument in split_kargs(text)]
    for argument in found:
        # A line break would begin another key of the boot entry; ostree= is libostree's alone.
        if not argument.isprintable() or argument.count('"') % 2 or argument.startswith(DEPLOYMENT_KARG):
            raise InvalidArguments(f"{argument[:80]!r} cannot be a kernel argument")
    return tuple(found)


def _keys(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return read_bounded(path, _KEYS_LIMIT)
    except OSError as error:
        raise InvalidArguments(f"{path} cannot be read: {error.strerror}") from error


def configuration(arguments: argparse.Namespace) -> InstallSettings:
    """Return what the image an option names, or the running system, says about its installation."""
    if arguments.source_imgref:
        worker = worker_settings(arguments.config_dir)
        return asyncio.run(image_settings(parse_source(arguments.source_imgref), worker))
    files = settings_files(Path("/"), DIRECTORIES)
    return merge_files(files, rust_architecture(os.uname().machine))
