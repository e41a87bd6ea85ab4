"""Entry point of bootcctl: one verb, one exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from bootcctl import exitcodes
from bootcctl.cli import parse
from bootcctl.exitcodes import Failure
from bootcctl.terminal import Terminal


def main() -> int:
    """Run the command line of the process; return its exit code."""
    try:
        code = _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone. Point the stream elsewhere, so that the interpreter's last flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _main(argv: list[str]) -> int:
    try:
        options = parse(argv)
    except Failure as failure:
        Terminal(as_json=False, quiet=False, no_color=False).failure(failure)
        return failure.code
    except SystemExit as done:
        return int(done.code or 0)
    terminal = Terminal(as_json=options.json, quiet=options.quiet, no_color=options.no_color)
    try:
        return _run(options, terminal)
    except Failure as failure:
        terminal.document({"error": failure.document()})
        terminal.failure(failure)
        return failure.code
    except KeyboardInterrupt:
        terminal.wipe()
        return exitcodes.DETACHED
    except (BrokenPipeError, SystemExit):
        raise
    except ModuleNotFoundError as error:
        terminal.failure(
            Failure(
                "Failed", f"the Python library {error.name} is missing", "install it, or reinstall bootcd"
            )
        )
        return exitcodes.FAILED
    except Exception:
        if os.environ.get("BOOTCCTL_DEBUG"):
            raise
        terminal.failure(Failure("Failed", "internal error", "set BOOTCCTL_DEBUG=1 to see the details"))
        return exitcodes.FAILED


def _run(options: Namespace, terminal: Terminal) -> int:
    if options.verb == "status":
        from bootcctl.status import show_status

        if show_status(options, terminal):
            return exitcodes.DONE
    if options.verb == "health":
        from bootcctl.health import health

        return health(options, terminal)
    if options.verb == "edit":
        from bootcctl.edit import edit

        return edit(options, terminal)
    if options.verb == "inhibit":
        from bootcctl.inhibit import inhibit

        return inhibit(options, terminal)
    if options.verb == "mock":
        from bootcctl.mock.verb import mock

        return mock(options, terminal)
    from bootcctl.verbs import run

    return run(options, terminal)


if __name__ == "__main__":
    sys.exit(main())
