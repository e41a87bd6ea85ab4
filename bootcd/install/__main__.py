"""The `bootcd-install` command: arguments to options, signals to an orderly end, errors to exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bootcctl.exitcodes import exit_code
from bootcd.config import CONFIG_DIRS, load_config
from bootcd.host.clock import SystemClock
from bootcd.host.files import read_bounded
from bootcd.install.cli import build_parser, refuse
from bootcd.install.layout import Filesystem, parse_root_size
from bootcd.install.mounts import own_mounts
from bootcd.install.prepare import Options, image_settings
from bootcd.install.report import Reporter
from bootcd.install.settings import DIRECTORIES, MAX_FILE_BYTES, BlockSetup, Bootloader, merge_files
from bootcd.install.to_disk import DiskOptions, install_to_disk
from bootcd.install.to_filesystem import FilesystemOptions, Replace, install_to_filesystem
from bootcd.model.errors import (
    AccessDenied,
    BootcdError,
    Cancelled,
    InternalError,
    InvalidArguments,
    InvalidConfig,
)
from bootcd.model.job import WorkerSettings
from bootcd.oci.reference import parse_reference
from bootcd.oci.resolve import ResolvedImage
from bootcd.ostreefmt.kargs import rust_architecture
from bootcd.ostreefmt.origin import REGISTRY, TRANSPORTS, SignaturePolicy, TrackedImage, parse_tracked_image

_KEYS_LIMIT = 64 << 10
_STATEROOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("bootcd.install")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    reporter = Reporter(json_lines="--json" in words, quiet="--quiet" in words or "-q" in words)
    try:
        refuse(words)
        arguments = build_parser().parse_args(words)
        if arguments.verb == "print-configuration":
            return _print_configuration(arguments)
        return _install(arguments, reporter)
    except BootcdError as error:
        reporter.error(error)
        return exit_code(error.name)
    except Exception:
        log.exception("internal error")
        reporter.error(InternalError("internal error", hint="please report it with the lines above"))
        return exit_code(InternalError.name)


def _install(arguments: argparse.Namespace, reporter: Reporter) -> int:
    options = _options(arguments)
    if os.geteuid() != 0:
        raise AccessDenied("only root can install a system", hint="use sudo or run0")
    own_mounts()
    resolved = asyncio.run(_run(arguments, options, reporter))
    reporter.done(options.source.image_ref_name, resolved.digest)
    return 0


async def _run(arguments: argparse.Namespace, options: Options, reporter: Reporter) -> ResolvedImage:
    if arguments.verb == "to-disk":
        install = install_to_disk(options, _disk_options(arguments), reporter)
    else:
        install = install_to_filesystem(options, _filesystem_options(arguments), reporter)
    work = asyncio.ensure_future(install)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        raise Cancelled(
            "the installation was stopped", hint="what is on the target now cannot be used"
        ) from None


def _disk_options(arguments: argparse.Namespace) -> DiskOptions:
    return DiskOptions(
        device=arguments.device,
        wipe=arguments.wipe,
        via_loopback=arguments.via_loopback,
        filesystem=Filesystem(arguments.filesystem) if arguments.filesystem else None,
        root_bytes=parse_root_size(arguments.root_size) if arguments.root_size else None,
        block_setup=BlockSetup(arguments.block_setup) if arguments.block_setup else None,
    )


def _filesystem_options(arguments: argparse.Namespace) -> FilesystemOptions:
    return FilesystemOptions(
        path=arguments.path,
        root_mount_spec=arguments.root_mount_spec,
        boot_mount_spec=arguments.boot_mount_spec,
        replace=Replace(arguments.replace) if arguments.replace else None,
        acknowledge_destructive=arguments.acknowledge_destructive,
        skip_finalize=arguments.skip_finalize,
    )


def _options(arguments: argparse.Namespace) -> Options:
    source = parse_source(arguments.source_imgref)
    target = source
    if arguments.target_imgref:
        target = _tracked(arguments.target_transport, arguments.target_imgref)
    if arguments.enforce_container_sigpolicy:
        target = TrackedImage(target.transport, target.name, SignaturePolicy.CONTAINER_POLICY)
    stateroot = arguments.stateroot
    if stateroot is not None and not _STATEROOT.fullmatch(stateroot):
        raise InvalidArguments(f"{stateroot[:64]!r} is no name of a state root")
    return Options(
        source=source,
        target=target,
        settings=_worker_settings(arguments.config_dir),
        now=SystemClock().now(),
        host_files=_settings_files(Path("/"), DIRECTORIES[2:]),
        kargs=tuple(arguments.karg),
        karg_deletes=tuple(arguments.karg_delete),
        root_keys=_keys(arguments.root_ssh_authorized_keys),
        generic=arguments.generic_image,
        stateroot=stateroot,
        bootloader=Bootloader(arguments.bootloader) if arguments.bootloader else None,
        skip_boot_uuid=arguments.bootupd_skip_boot_uuid,
        disable_selinux=arguments.disable_selinux,
        run_fetch_check=arguments.run_fetch_check,
        spool=arguments.spool_dir,
    )


def parse_source(text: str) -> TrackedImage:
    """Return the image an option names: with a transport, or of a registry. Raises InvalidImage."""
    if text.startswith(("docker://", "registry:")):
        return _tracked(REGISTRY, text.removeprefix("docker://").removeprefix("registry:"))
    transport, colon, name = text.partition(":")
    # `oci:5000/x` is a host and its port.
    if colon and transport in TRANSPORTS and not re.match(r"[0-9]+/", name):
        return _tracked(transport, name)
    return _tracked(REGISTRY, text)


def _tracked(transport: str, name: str) -> TrackedImage:
    if transport == REGISTRY:
        return TrackedImage.registry(str(parse_reference(name)))
    return parse_tracked_image(f"ostree-unverified-image:{transport}:{name}")


def _worker_settings(directories: Sequence[Path] | None) -> WorkerSettings:
    return load_config(tuple(directories) if directories else CONFIG_DIRS).config.worker_settings


def _settings_files(root: Path, directories: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
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


def _keys(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return read_bounded(path, _KEYS_LIMIT)
    except OSError as error:
        raise InvalidArguments(f"{path} cannot be read: {error.strerror}") from error


def _print_configuration(arguments: argparse.Namespace) -> int:
    if arguments.source_imgref:
        worker = _worker_settings(arguments.config_dir)
        settings = asyncio.run(image_settings(parse_source(arguments.source_imgref), worker))
    else:
        files = _settings_files(Path("/"), DIRECTORIES)
        settings = merge_files(files, rust_architecture(os.uname().machine))
    sys.stdout.write(settings.to_json(everything=arguments.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
