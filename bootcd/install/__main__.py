"""The `bootcd-install` command: signals to an orderly end, errors to exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from bootcctl.exitcodes import exit_code
from bootcd.install.cli import build_parser, refuse
from bootcd.install.report import Reporter
from bootcd.model.errors import AccessDenied, BootcdError, Cancelled, InternalError

if TYPE_CHECKING:
    from bootcd.oci.resolve import ResolvedImage

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
    except KeyboardInterrupt:
        # Before anything was begun.
        reporter.error(_stopped())
        return exit_code(Cancelled.name)
    except BootcdError as error:
        reporter.error(error)
        return exit_code(error.name)
    except Exception:
        log.exception("internal error")
        reporter.error(InternalError("internal error", hint="please report it with the lines above"))
        return exit_code(InternalError.name)


def _install(arguments: argparse.Namespace, reporter: Reporter) -> int:
    # Half a second of imports that --help and a typing error need not wait for.
    from bootcd.install.arguments import common_options, disk_options, filesystem_options
    from bootcd.install.mounts import own_mounts
    from bootcd.install.to_disk import install_to_disk
    from bootcd.install.to_filesystem import install_to_filesystem

    options = common_options(arguments)
    if os.geteuid() != 0:
        raise AccessDenied("only root can install a system", hint="use sudo or run0")
    own_mounts()
    if arguments.verb == "to-disk":
        install = install_to_disk(options, disk_options(arguments), reporter)
    else:
        install = install_to_filesystem(options, filesystem_options(arguments), reporter)
    resolved = asyncio.run(_until_signal(install))
    reporter.done(options.source.image_ref_name, resolved.digest)
    return 0


async def _until_signal(install: Coroutine[None, None, ResolvedImage]) -> ResolvedImage:
    work = asyncio.ensure_future(install)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        raise _stopped() from None


def _stopped() -> Cancelled:
    return Cancelled("the installation was stopped")


def _print_configuration(arguments: argparse.Namespace) -> int:
    from bootcd.install.arguments import configuration

    sys.stdout.write(configuration(arguments).to_json(everything=arguments.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
