"""`bootcd-worker`: one process for one job, or for one question about the host.

It is started often, so each of its verbs loads what it needs itself, and only that.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from bootcd.host.composefs import AUTO, BOOTC, OSTREE
from bootcd.model.plugins import leave_out_plugins


def main() -> int:
    arguments = _parser().parse_args()
    leave_out_plugins()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    if arguments.verb == "run":
        from bootcd.worker.job import run

        return run(arguments.directory, arguments.socket)
    from bootcd.worker import questions

    match arguments.verb:
        case "inspect":
            return questions.inspect(arguments.sysroot, arguments.backend)
        case "diff":
            return questions.diff(arguments.sysroot, arguments.before, arguments.after)
        case _:
            return questions.config_diff(arguments.sysroot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bootcd-worker", description="Run one job of the bootcd service.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="do the job a directory describes")
    run.add_argument("directory", type=Path)
    run.add_argument("--socket", type=Path, required=True, help="datagram socket that takes progress")
    inspect = verbs.add_parser("inspect", help="print what is on the host")
    diff = verbs.add_parser("diff", help="print what differs between two deployments")
    diff.add_argument("before", metavar="ID")
    diff.add_argument("after", metavar="ID")
    config = verbs.add_parser("config-diff", help="print what differs between /etc and the image's")
    for verb in (inspect, diff, config):
        verb.add_argument("--sysroot", type=Path, default=Path("/"))
    inspect.add_argument("--backend", choices=(AUTO, OSTREE, BOOTC), default=AUTO)
    return parser


if __name__ == "__main__":
    sys.exit(main())
