"""Command line of bootcctl: what was asked for, without the code behind it.

Parsing comes before anything expensive is loaded: `--help` and `status` must feel instant.
Options common to all verbs are accepted before and after the verb.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from bootcctl import __version__
from bootcctl.exitcodes import MEANINGS, Failure
from bootcctl.options import FILES, FILES_WITH_TAG, VERBS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure("InvalidArguments", message.rstrip("."), f"see: {self.prog} --help")


def _common_options(formatter: Callable[..., argparse.HelpFormatter]) -> _Parser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=formatter)
    common.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    common.add_argument(
        "-q", "--quiet", action="store_true", help="print no progress and no result, errors only"
    )
    common.add_argument("--no-color", action="store_true", help="no colours, also on a terminal")
    common.add_argument("--bus", metavar="ADDRESS", help=argparse.SUPPRESS)
    return common


def _epilog() -> str:
    return "exit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS)


def build_parser(verb: str = "") -> argparse.ArgumentParser:
    """Build the parser; its namespace has `verb` and the options of that verb.

    Args:
        verb: the only verb it is to know; empty for all of them, which takes as long as a whole `status`.
    """
    width = _columns() - 2
    formatter = partial(argparse.HelpFormatter, width=width)
    common = _common_options(formatter)
    parser = _Parser(
        prog="bootcctl",
        description="See and change which image this host boots, through the bootcd service.",
        epilog=_epilog(),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=width),
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bootcctl {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", parser_class=_Parser)
    for name in [verb] if verb else VERBS:
        text, describe = VERBS[name]
        one = verbs.add_parser(
            name,
            help=text,
            description=text,
            parents=[common],
            formatter_class=formatter,
            allow_abbrev=False,
        )
        one.set_defaults(verb=name)
        if describe:
            describe(one)
    return parser


def _columns() -> int:
    # As shutil.get_terminal_size does, which comes with three libraries to unpack archives.
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given[:9]):
        return int(given[:9])
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _choose_image(options: argparse.Namespace) -> None:
    """Make a switch to another tag the upgrade it is: all but the tag stays as the host has it."""
    if not options.tag:
        if not options.image:
            raise Failure("InvalidArguments", "there is no image to switch to", "see: bootcctl switch --help")
        return
    others = {
        "an image": options.image,
        "--transport": options.transport != "registry",
        "--enforce-container-sigpolicy": options.enforce_container_sigpolicy,
        "--retain": options.retain,
    }
    if given := [name for name, value in others.items() if value]:
        raise Failure("InvalidArguments", f"--tag changes the tag alone, so {given[0]} does not go with it")
    options.verb = "upgrade"


def changes_kargs(options: argparse.Namespace) -> bool:
    """Whether the verb kargs is to change anything, and not only to show."""
    return bool(options.delete or options.replace or options.append)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        Failure: it is wrong, of the kind `InvalidArguments`.
        SystemExit: `--help` and `--version` have printed what they print.
    """
    # Defaults of options common to all verbs must not come from the parsers: the verb's would undo what
    # stood before it.
    defaults = argparse.Namespace(
        json=False,
        quiet=False,
        no_color=False,
        bus="",
        verb="status",
        format="",
        booted=False,
        verbose=False,
    )
    # Where the verb comes first, none of the others can be meant.
    first = argv[0] if argv else defaults.verb
    options = build_parser(first if first in VERBS else "").parse_args(argv, defaults)
    if options.verb == "upgrade" and options.check:
        others = (
            *("download_only", "from_downloaded", "tag", "allow_downgrade", "expect_digest"),
            *("soft_reboot", "apply"),
        )
        if given := [f"--{name.replace('_', '-')}" for name in others if getattr(options, name)]:
            raise Failure("InvalidArguments", f"--check changes nothing, so {given[0]} does not go with it")
        options.verb = "check"
    if options.verb == "inhibit":
        options.command = options.command[options.command[:1] == ["--"] :]
        if bool(options.command) == options.list:
            raise Failure(
                "InvalidArguments",
                "--list runs no command" if options.list else "there is no command to run",
                "see: bootcctl inhibit --help",
            )
    if options.verb == "switch":
        _choose_image(options)
    if options.verb == "switch" and options.transport in FILES:
        # The service's own directory is none that the user knows.
        with_tag = options.transport in FILES_WITH_TAG
        path, colon, tag = options.image.partition(":") if with_tag else (options.image, "", "")
        options.image = os.path.abspath(path) + colon + tag  # noqa: PTH100 - links stay as they are named
    if vars(options).get("progress_fd") and options.no_wait:
        raise Failure(
            "InvalidArguments", "--progress-fd needs a job to follow, so --no-wait does not go with it"
        )
    if options.verb == "kargs" and not changes_kargs(options) and (options.apply or options.no_wait):
        raise Failure(
            "InvalidArguments", "no kernel argument is to be changed", "use --append, --delete or --replace"
        )
    if options.format:
        options.json = options.format == "json"
    return options
