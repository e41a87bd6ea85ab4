"""Command line of bootcctl: every verb and option, without the code behind them.

Parsing comes before anything expensive is loaded: `--help` and `status` must feel instant.
Options common to all verbs are accepted before and after the verb.
"""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from bootcctl import __version__
from bootcctl.exitcodes import MEANINGS, Failure

_FILES_WITH_TAG = ("oci", "oci-archive", "docker-archive")
_FILES = (*_FILES_WITH_TAG, "dir")
TRANSPORTS = ("registry", *_FILES, "containers-storage")

HISTORY_LIMIT = 1000
"The most entries the service gives at once."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure("InvalidArguments", message.rstrip("."), f"see: {self.prog} --help")


def _common_options() -> _Parser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    common.add_argument(
        "-q", "--quiet", action="store_true", help="print no progress and no result, errors only"
    )
    common.add_argument("--no-color", action="store_true", help="no colours, also on a terminal")
    common.add_argument("--bus", metavar="ADDRESS", help=argparse.SUPPRESS)
    return common


def _epilog() -> str:
    return "exit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; its namespace has `verb` and the options of that verb."""
    common = _common_options()
    parser = _Parser(
        prog="bootcctl",
        description="See and change which image this host boots, through the bootcd service.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bootcctl {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", parser_class=_Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        verb.set_defaults(verb=name)
        return verb

    status = add("status", "show what is booted, staged and available (the default)")
    status.add_argument(
        "--format",
        choices=("human", "humanreadable", "yaml", "json"),
        help="human, yaml or json (default: human on a terminal, yaml elsewhere)",
    )
    status.add_argument(
        "--format-version",
        choices=("0", "1"),
        default="1",
        metavar="N",
        help="of yaml and json; 0 and 1 both mean version 1",
    )
    status.add_argument("--booted", action="store_true", help="show the booted deployment only")
    status.add_argument("-v", "--verbose", action="store_true", help="show everything that is known")

    check = add("check", "ask the registry for a newer version; exit 0 if there is one, 77 if not")
    _ignoring(check)
    _waiting(check)

    upgrade = add("upgrade", "stage the newest version of the tracked image")
    upgrade.add_argument("--check", action="store_true", help="only look, as the verb check does")
    upgrade.add_argument(
        "--from-downloaded",
        action="store_true",
        help="take what is staged and locked, and ask no registry",
    )
    upgrade.add_argument(
        "--tag", default="", metavar="TAG", help="take this tag of the image, and track it from now on"
    )
    upgrade.add_argument(
        "--allow-downgrade",
        action="store_true",
        help="take the newest version also if it is older than what is here",
    )
    upgrade.add_argument(
        "--expect-digest",
        default="",
        metavar="D",
        help="fail if the newest version has another digest by now",
    )
    _soft_reboot(upgrade)
    _ignoring(upgrade)
    _staging(upgrade)

    switch = add("switch", "track another image and stage it")
    switch.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="registry",
        metavar="T",
        help=f"where IMAGE is: {', '.join(TRANSPORTS)} (default: registry)",
    )
    switch.add_argument(
        "--enforce-container-sigpolicy",
        action="store_true",
        help="from now on, refuse images the signature policy accepts unsigned",
    )
    switch.add_argument(
        "image",
        metavar="IMAGE",
        nargs="?",
        default="",
        help="image reference, such as quay.io/example/os:1, or a path, as in --transport oci /mnt/os:1",
    )
    switch.add_argument(
        "--tag",
        default="",
        metavar="TAG",
        help="instead of IMAGE: another tag of the tracked image, such as prod",
    )
    switch.add_argument(
        "--retain", action="store_true", help="keep the plain ostree ref that was followed before"
    )
    _soft_reboot(switch)
    _ignoring(switch)
    _staging(switch)

    rollback = add("rollback", "boot the previous deployment next time; again: undo that")
    rollback.add_argument("--apply", action="store_true", help="reboot into it now")
    _soft_reboot(rollback)
    _ignoring(rollback)
    _waiting(rollback)

    apply = add("apply", "reboot into what is staged or queued: now, or at a time to come")
    later = apply.add_mutually_exclusive_group()
    later.add_argument("--at", default="", metavar="TIME", help="such as 22:00, tomorrow 03:00 or Sat 02:00")
    later.add_argument("--defer", default="", metavar="SPAN", help="after so long, such as 2h or 1d")
    later.add_argument("--cancel", action="store_true", help="call off what --at or --defer has asked for")
    _soft_reboot(apply)
    _ignoring(apply)
    _waiting(apply)

    kargs = add("kargs", "show the kernel arguments, or change them in a new deployment")
    for option, metavar, text in (
        ("--delete", "KEY[=VALUE]", "take an argument out"),
        ("--replace", "KEY[=OLD]=NEW", "give an argument another value"),
        ("--append", "KEY[=VALUE]", "add an argument, if it is not there"),
    ):
        kargs.add_argument(
            option, action="append", default=[], metavar=metavar, help=f"{text}; may be repeated"
        )
    kargs.add_argument("--apply", action="store_true", help="reboot into it now, if anything changed")
    _ignoring(kargs)
    _waiting(kargs)

    for name, text, default in (
        ("pin", "keep a deployment whatever comes after it", "booted"),
        ("unpin", "let a pinned deployment go like any other", "booted"),
        ("drop", "take a deployment off the host", None),
    ):
        verb = add(name, text)
        verb.add_argument(
            "deployment",
            metavar="DEPLOYMENT",
            nargs="?" if default else None,
            default=default,
            help="booted, staged, rollback, a number as in 'ostree admin status', or an id"
            + (f" (default: {default})" if default else ""),
        )
        _waiting(verb)

    overlay = add("usr-overlay", "make /usr writable until the next reboot")
    overlay.add_argument(
        "--read-only", action="store_true", help="for nobody but those who mount it anew for themselves"
    )
    _waiting(overlay)

    edit = add("edit", "change what this host is wanted to be in an editor: its image, or the boot order")
    edit.add_argument(
        "-f", "--filename", metavar="FILE", default="", help="take it from this file, - for standard input"
    )
    _ignoring(edit)
    _waiting(edit)

    _inhibit(add("inhibit", "hold up updates while a command runs, or list who does"))

    pause = add("pause", "have nothing done unasked for a while; what is asked for is done all the same")
    how_long = pause.add_mutually_exclusive_group()
    how_long.add_argument(
        "span",
        metavar="SPAN",
        nargs="?",
        default="1d",
        help="how long, such as 3d or 1h 30min, or indefinitely (default: 1d)",
    )
    how_long.add_argument(
        "--until", default="", metavar="TIME", help="such as 18:30, tomorrow, Mon 02:00 or 2026-12-24 18:00"
    )
    add("resume", "end a pause")

    cancel = add("cancel", "stop a job and wait for its end")
    cancel.add_argument(
        "job", metavar="JOB", nargs="?", default="", help="number or uuid (default: the active job)"
    )
    cancel.add_argument("--no-wait", action="store_true", help="do not wait for its end")

    add("jobs", "list the active job and those that ended lately")
    log = add("log", "show what the worker of a job has printed")
    log.add_argument(
        "job", metavar="JOB", nargs="?", default="", help="number or uuid (default: the newest job)"
    )
    add("monitor", "follow the service and its jobs until Ctrl-C; with --json one document per line")

    add("notify", "show on the desktop what comes of updates, until the session ends")

    history = add("history", "list ended jobs, newest first")
    history.add_argument(
        "-n", "--limit", type=_limit, default=20, metavar="N", help="at most N entries (default 20)"
    )

    health = add("health", "show whether this boot is good, and which versions booted badly; 78 if it is not")
    health.add_argument(
        "action",
        metavar="clear",
        nargs="?",
        choices=("", "clear"),
        default="",
        help="let versions that booted badly be taken again",
    )
    health.add_argument("digest", metavar="DIGEST", nargs="?", default="", help="with clear: only this one")
    health.add_argument(
        "-v", "--verbose", action="store_true", help="show the journal of each bad boot, to root"
    )

    add("why", "show what the service will do by itself next, and what holds it up")
    add("notes", "show the release notes of the update that is available or staged")
    diff = add("diff", "show what differs between two deployments: packages, files, kernel arguments")
    deployment = "staged, booted, rollback, or the beginning of a commit"
    diff.add_argument("before", metavar="FROM", nargs="?", default="", help=f"{deployment} (default: booted)")
    diff.add_argument(
        "after",
        metavar="TO",
        nargs="?",
        default="",
        help="likewise (default: staged or rollback, else booted)",
    )
    diff.add_argument("-v", "--verbose", action="store_true", help="list every file")

    add("config-diff", "list what was added, modified or removed in /etc since the image made it")

    add("reload", "have the service read its configuration and look at the host again")
    _mock(add("mock", "play the service on the session bus by a script, for who writes clients"))
    return parser


def _inhibit(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--list", action="store_true", help="list who holds up what, and why")
    verb.add_argument(
        "--what",
        default="download:stage:reboot",
        metavar="WHAT",
        help="any of check, download, stage and reboot, with colons between (default: download:stage:reboot)",
    )
    verb.add_argument("--who", default="", metavar="WHO", help="who asks (default: the name of COMMAND)")
    verb.add_argument("--why", default="", metavar="WHY", help="the reason, for people to read")
    verb.add_argument(
        "--mode",
        choices=("block", "delay"),
        default="block",
        metavar="MODE",
        help="block, or delay what is done unasked, for an hour at most (default: block)",
    )
    verb.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, with its arguments"
    )


def _mock(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--scenario", default="available", metavar="NAME", help="what to play (default: available)"
    )
    verb.add_argument(
        "--script", default="", metavar="FILE", help="play what this TOML or JSON file says instead"
    )
    verb.add_argument("--list", action="store_true", help="list the scenarios there are")
    verb.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N", help="as many times faster than real (default: 1)"
    )
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--system", action="store_true", help="on the system bus, whose policy has to allow it"
    )
    where.add_argument("--address", default="", metavar="ADDRESS", help="on the bus at this address")
    verb.add_argument(
        "--interfaces", default="", metavar="DIR", help="where the interface files org.bootcd1.*.xml are"
    )


def _speed(text: str) -> float:
    try:
        if 0.01 <= (speed := float(text)) <= 1000:
            return speed
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.01 to 1000")


def _ignoring(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--ignore-inhibitors", action="store_true", help="do it even if somebody inhibits it")


def _waiting(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--no-wait", action="store_true", help="start the job and return at once")


def _soft_reboot(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--soft-reboot",
        choices=("required", "auto"),
        default="",
        metavar="HOW",
        help="reboot user space alone: required, or auto for where it can be",
    )


def _staging(verb: argparse.ArgumentParser) -> None:
    how = verb.add_mutually_exclusive_group()
    how.add_argument(
        "--download-only", action="store_true", help="stage it locked: a reboot does not apply it yet"
    )
    how.add_argument("--apply", action="store_true", help="reboot into it now, if anything was staged")
    _waiting(verb)
    verb.add_argument(
        "--progress-fd",
        type=_descriptor,
        metavar="N",
        help="write progress as JSON lines to this open file descriptor, as bootc does",
    )


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= HISTORY_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {HISTORY_LIMIT}")
    return int(text)


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 3 <= int(text[:9]) <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a descriptor, 3 or above")
    return int(text)


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
    options = build_parser().parse_args(argv, defaults)
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
    if options.verb == "switch" and options.transport in _FILES:
        # The service's own directory is none that the user knows.
        with_tag = options.transport in _FILES_WITH_TAG
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
