"""The `bootcd` command: its arguments, and errors as one line for the service manager's log."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import cast

from bootcd import __version__
from bootcd.model.plugins import leave_out_plugins


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; returns the exit code."""
    arguments = _parser().parse_args(argv)
    leave_out()
    from bootcd.app import Options, run

    return run(
        Options(
            config_dirs=tuple(arguments.config_dir),
            state=arguments.state_dir,
            runtime=arguments.runtime_dir,
            bus=None if arguments.bus == "system" else arguments.bus,
        )
    )


def leave_out() -> None:
    """Keep out of this process what it has no use for, an eighth of its memory."""
    # The daemon has no network and needs no OpenSSL: the hashes Python has of its own do.
    # A module that is None cannot be imported, by whomever.
    for module in ("ssl", "_hashlib"):
        sys.modules.setdefault(module, cast(ModuleType, None))
    leave_out_plugins()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bootcd", description="Update service for image-based Linux hosts.")
    parser.add_argument("--version", action="version", version=f"bootcd {__version__}")
    parser.add_argument(
        "--config-dir",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="read configuration from here instead of the standard directories; may be repeated, "
        "and what is named last counts most",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=_from_manager("STATE_DIRECTORY", "/var/lib/bootcd"),
        metavar="DIR",
        help="where jobs and history are kept (%(default)s)",
    )
    parser.add_argument(
        "--runtime-dir",
        type=Path,
        default=_from_manager("RUNTIME_DIRECTORY", "/run/bootcd"),
        metavar="DIR",
        help="where the worker socket and the published status are (%(default)s)",
    )
    parser.add_argument(
        "--bus", default="system", metavar="ADDRESS", help="D-Bus address to serve on (the system bus)"
    )
    return parser


def _from_manager(variable: str, default: str) -> Path:
    """Return the first directory the service manager made for us (systemd.exec(5))."""
    return Path(os.environ.get(variable, "").split(":")[0] or default)


if __name__ == "__main__":
    sys.exit(main())
