"""Options of every verb of bootcctl. Pure: what a command line means is `cli`'s part.

Each verb is described by a function of its own, so that a command line costs the description of its own verb
and not of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

FILES_WITH_TAG = ("oci", "oci-archive", "docker-archive")
FILES = (*FILES_WITH_TAG, "dir")
TRANSPORTS = ("registry", *FILES, "containers-storage")

HISTORY_LIMIT = 1000
"The most entries the service gives at once."


class _Given(argparse.Action):
    """A text that says something: an empty one, as of an unset variable, is not the option left out."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if not values:
            raise argparse.ArgumentError(self, "its value is empty")
        setattr(namespace, self.dest, values)


def _status(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--format",
        choices=("human", "humanreadable", "yaml", "json"),
        help="human, yaml or json (default: human on a terminal, yaml elsewhere)",
    )
    verb.add_argument(
        "--format-version",
        choices=("0", "1"),
        default="1",
        metavar="N",
        help="of yaml and json; 0 and 1 both mean version 1",
    )
    verb.add_argument("--booted", action="store_true", help="show the booted deployment only")
    verb.add_argument("-v", "--verbose", action="store_true", help="show everything that is known")


def _check(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--max-age",
        action=_Given,
        default="",
        metavar="SPAN",
        help="do not ask again what the registry answered no longer ago than this, such as 1h",
    )
    _ignoring(verb)
    _waiting(verb)


def _upgrade(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--check", action="store_true", help="only look, as the verb check does")
    verb.add_argument(
        "--from-downloaded",
        action="store_true",
        help="take what is staged and locked, and ask no registry",
    )
    verb.add_argument(
        "--tag",
        action=_Given,
        default="",
        metavar="TAG",
        help="take this tag of the image, and track it from now on",
    )
    verb.add_argument(
        "--allow-downgrade",
        action="store_true",
        help="take the newest version also if it is older than what is here",
    )
    verb.add_argument(
        "--expect-digest",
        action=_Given,
        default="",
        metavar="D",
        help="fail if the newest version has another digest by now",
    )
    _soft_reboot(verb)
    _ignoring(verb)
    _staging(verb)


def _switch(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="registry",
        metavar="T",
        help=f"where IMAGE is: {', '.join(TRANSPORTS)} (default: registry)",
    )
    verb.add_argument(
        "--enforce-container-sigpolicy",
        action="store_true",
        help="from now on, refuse images the signature policy accepts unsigned",
    )
    verb.add_argument(
        "image",
        metavar="IMAGE",
        nargs="?",
        default="",
        help="image reference, such as quay.io/example/os:1, or a path, as in --transport oci /mnt/os:1",
    )
    verb.add_argument(
        "--tag",
        action=_Given,
        default="",
        metavar="TAG",
        help="instead of IMAGE: another tag of the tracked image, such as prod",
    )
    verb.add_argument(
        "--retain", action="store_true", help="keep the plain ostree ref that was followed before"
    )
    _soft_reboot(verb)
    _ignoring(verb)
    _staging(verb)


def _rollback(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--apply", action="store_true", help="reboot into it now")
    _soft_reboot(verb)
    _ignoring(verb)
    _waiting(verb)


def _apply(verb: argparse.ArgumentParser) -> None:
    later = verb.add_mutually_exclusive_group()
    later.add_argument(
        "--at", action=_Given, default="", metavar="TIME", help="such as 22:00, tomorrow 03:00 or Sat 02:00"
    )
    later.add_argument(
        "--defer", action=_Given, default="", metavar="SPAN", help="after so long, such as 2h or 1d"
    )
    later.add_argument("--cancel", action="store_true", help="call off what --at or --defer has asked for")
    _soft_reboot(verb)
    _ignoring(verb)
    _waiting(verb)


def _kargs(verb: argparse.ArgumentParser) -> None:
    for option, metavar, text in (
        ("--delete", "KEY[=VALUE]", "take an argument out"),
        ("--replace", "KEY[=OLD]=NEW", "give an argument another value"),
        ("--append", "KEY[=VALUE]", "add an argument, if it is not there"),
    ):
        verb.add_argument(
            option, action="append", default=[], metavar=metavar, help=f"{text}; may be repeated"
        )
    verb.add_argument("--apply", action="store_true", help="reboot into it now, if anything changed")
    _ignoring(verb)
    _waiting(verb)


def _pin(verb: argparse.ArgumentParser) -> None:
    _deployment(verb, " (default: booted)", nargs="?", default="booted")


def _drop(verb: argparse.ArgumentParser) -> None:
    _deployment(verb, "")


def _deployment(verb: argparse.ArgumentParser, remark: str, **kind: Any) -> None:
    verb.add_argument(
        "deployment",
        metavar="DEPLOYMENT",
        help="booted, staged, rollback, a number as in 'ostree admin status', or an id" + remark,
        **kind,
    )
    _waiting(verb)


def _usr_overlay(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--read-only", action="store_true", help="for nobody but those who mount it anew for themselves"
    )
    _waiting(verb)


def _edit(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-f", "--filename", metavar="FILE", default="", help="take it from this file, - for standard input"
    )
    _ignoring(verb)
    _waiting(verb)


def _pause(verb: argparse.ArgumentParser) -> None:
    how_long = verb.add_mutually_exclusive_group()
    how_long.add_argument(
        "span",
        metavar="SPAN",
        nargs="?",
        default="1d",
        help="how long, such as 3d or 1h 30min, or indefinitely (default: 1d)",
    )
    how_long.add_argument(
        "--until",
        action=_Given,
        default="",
        metavar="TIME",
        help="such as 18:30, tomorrow, Mon 02:00 or 2026-12-24 18:00",
    )


def _cancel(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "job", metavar="JOB", nargs="?", default="", help="number or uuid (default: the active job)"
    )
    verb.add_argument("--no-wait", action="store_true", help="do not wait for its end")


def _log(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "job", metavar="JOB", nargs="?", default="", help="number or uuid (default: the newest job)"
    )


def _history(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-n", "--limit", type=_limit, default=20, metavar="N", help="at most N entries (default 20)"
    )


def _health(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "action",
        metavar="clear",
        nargs="?",
        choices=("", "clear"),
        default="",
        help="let versions that booted badly be taken again",
    )
    verb.add_argument("digest", metavar="DIGEST", nargs="?", default="", help="with clear: only this one")
    verb.add_argument(
        "-v", "--verbose", action="store_true", help="show the journal of each bad boot, to root"
    )


def _diff(verb: argparse.ArgumentParser) -> None:
    deployment = "staged, booted, rollback, or the beginning of a commit"
    verb.add_argument("before", metavar="FROM", nargs="?", default="", help=f"{deployment} (default: booted)")
    verb.add_argument(
        "after",
        metavar="TO",
        nargs="?",
        default="",
        help="likewise (default: staged or rollback, else booted)",
    )
    verb.add_argument("-v", "--verbose", action="store_true", help="list every file")


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


def _why(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--at", action=_Given, default="", metavar="TIME", help="what it would do then, such as Sat 02:00"
    )
    for option, text in (
        ("--metered", "suppose the network connection is metered, or is not"),
        ("--on-battery", "suppose the host is on battery, or is not"),
        ("--power-saver", "suppose the power profile is power-saver, or is not"),
    ):
        verb.add_argument(option, choices=("yes", "no"), default="", metavar="yes|no", help=text)
    verb.add_argument(
        "--battery-percent", type=_percent, metavar="N", help="suppose that much is in the battery"
    )


def _percent(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text[:4]) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return int(text)


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


VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None] | None]] = {
    "status": ("show what is booted, staged and available (the default)", _status),
    "check": ("ask the registry for a newer version; exit 0 if there is one, 77 if not", _check),
    "upgrade": ("stage the newest version of the tracked image", _upgrade),
    "switch": ("track another image and stage it", _switch),
    "rollback": ("boot the previous deployment next time; again: undo that", _rollback),
    "apply": ("reboot into what is staged or queued: now, or at a time to come", _apply),
    "kargs": ("show the kernel arguments, or change them in a new deployment", _kargs),
    "pin": ("keep a deployment whatever comes after it", _pin),
    "unpin": ("let a pinned deployment go like any other", _pin),
    "drop": ("take a deployment off the host", _drop),
    "usr-overlay": ("make /usr writable until the next reboot", _usr_overlay),
    "edit": ("change what this host is wanted to be in an editor: its image, or the boot order", _edit),
    "inhibit": ("hold up updates while a command runs, or list who does", _inhibit),
    "pause": ("have nothing done unasked for a while; what is asked for is done all the same", _pause),
    "resume": ("end a pause", None),
    "cancel": ("stop a job and wait for its end", _cancel),
    "jobs": ("list the active job and those that ended lately", None),
    "log": ("show what the worker of a job has printed", _log),
    "monitor": ("follow the service and its jobs until Ctrl-C; with --json one document per line", None),
    "notify": ("show on the desktop what comes of updates, until the session ends", None),
    "history": ("list ended jobs, newest first", _history),
    "health": ("show whether this boot is good, and which versions booted badly; 78 if it is not", _health),
    "why": ("show what the service will do by itself next, and what holds it up", _why),
    "notes": ("show the release notes of the update that is available or staged", None),
    "diff": ("show what differs between two deployments: packages, files, kernel arguments", _diff),
    "config-diff": ("list what was added, modified or removed in /etc since the image made it", None),
    "reload": ("have the service read its configuration and look at the host again", None),
    "mock": ("play the service on the session bus by a script, for who writes clients", _mock),
}
"What a verb is for, and what describes its options, in the order of `--help`."
