"""Command line of bootcd-image: what is done to host images where they are made, not where they run."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from bootcd import __version__
from bootcd.model.errors import BootcdError, InvalidArguments
from bootcd.model.text import one_line

_SPOOL = "/var/tmp"  # noqa: S108 - files there have no names
_MAX_LAYERS = 512
_COMPRESSIONS = ("zstd:chunked", "zstd", "gzip")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bootcd-image",
        description="Tools for images that hosts are made of.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bootcd-image {__version__}")
    nouns = parser.add_subparsers(metavar="NOUN", required=True)

    notes = nouns.add_parser("notes", help="release notes of an image", allow_abbrev=False)
    verbs = notes.add_subparsers(metavar="VERB", required=True)
    text = "attach a Markdown file to an image in its registry; hosts show it with bootcctl notes"
    push = verbs.add_parser("push", help=text, description=text, allow_abbrev=False)
    push.add_argument("image", metavar="IMAGE", help="image reference, such as quay.io/example/os:1")
    push.add_argument("file", metavar="FILE", type=Path, help="the notes, UTF-8 text of at most 64 KiB")
    push.add_argument(
        "--authfile",
        metavar="PATH",
        default="",
        help="credentials, as podman login and docker login write them",
    )
    push.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS")
    push.add_argument("--ca-file", metavar="PATH", default="", help="certificates to accept the registry by")
    push.set_defaults(run=_push)
    _add_rechunk(nouns)
    return parser


def _add_rechunk(commands: Any) -> None:
    text = "write an image anew, with layers that follow what changes together"
    rechunk = commands.add_parser("rechunk", help=text, description=text, allow_abbrev=False)
    rechunk.add_argument("source", metavar="IMAGE", help="image reference, or with a transport: oci:PATH:TAG")
    rechunk.add_argument(
        "destination",
        metavar="DESTINATION",
        help="docker://NAME[:TAG], oci:PATH[:TAG] or oci-archive:PATH[:TAG]",
    )
    rechunk.add_argument(
        "--previous",
        metavar="IMAGE",
        action="append",
        default=[],
        help="an older version, whose layout is kept and whose changes count; may repeat, the oldest first",
    )
    rechunk.add_argument(
        "--max-layers", metavar="N", type=_between(1, _MAX_LAYERS), default=64, help="bound of layers (64)"
    )
    rechunk.add_argument(
        "--compression",
        choices=_COMPRESSIONS,
        default=_COMPRESSIONS[0],
        help=f"of layers: {', '.join(_COMPRESSIONS)} ({_COMPRESSIONS[0]})",
        metavar="FORMAT",
    )
    rechunk.add_argument(
        "--level", metavar="N", type=_between(1, 19), default=9, help="of compression, 1 to 19 (9)"
    )
    rechunk.add_argument(
        "--arch", metavar="ARCH", default="", help="platform of an index, such as arm64 (this machine's)"
    )
    rechunk.add_argument(
        "--spool-dir",
        metavar="PATH",
        type=Path,
        default=Path(_SPOOL),
        help=f"directory for the files while they are sorted ({_SPOOL})",
    )
    rechunk.add_argument("--json", action="store_true", help="print the report as JSON")
    rechunk.add_argument(
        "--authfile", metavar="PATH", default="", help="credentials, as podman login writes them"
    )
    rechunk.add_argument("--plain-http", action="store_true", help="registries speak no TLS")
    rechunk.add_argument("--ca-file", metavar="PATH", default="", help="certificates to accept registries by")
    rechunk.set_defaults(run=_rechunk)


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"not a number from {low} to {high}")
        return int(text)

    return number


def _rechunk(options: argparse.Namespace) -> str:
    import asyncio

    from bootcd.image.packing import Compression, Packing
    from bootcd.image.rechunk import Options, rechunk
    from bootcd.image.report import RechunkReport
    from bootcd.image.repository import auth_files
    from bootcd.model.job import WorkerSettings

    settings = WorkerSettings(auth_files=auth_files(options.authfile), ca_file=options.ca_file)
    progress = _progress(sys.stderr)
    wanted = Options(
        source=options.source,
        destination=options.destination,
        previous=tuple(options.previous),
        max_layers=options.max_layers,
        packing=Packing(Compression(options.compression), options.level),
        architecture=options.arch,
        spool=options.spool_dir,
        settings=settings,
        authfile=options.authfile,
        plain_http=options.plain_http,
        progress=progress,
    )

    async def work() -> RechunkReport:
        task = asyncio.current_task()
        assert task is not None
        # What was written so far is removed. Only the first thread hears of signals.
        with suppress(RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await rechunk(wanted)

    try:
        report = asyncio.run(work())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    finally:
        progress("")
    return report.model_dump_json() if options.json else str(report)


def _progress(stream: TextIO) -> Callable[[str], object]:
    """Return what writes one line over another; on a terminal only."""
    if not stream.isatty():
        return lambda _: None

    def show(text: str) -> None:
        # Cut, so that a narrow terminal does not begin a line that is never erased.
        stream.write(f"\r\x1b[K{one_line(text)[:79]}")
        stream.flush()

    return show


def _push(options: argparse.Namespace) -> str:
    # Loads an HTTP client, which --help has no need of.
    from bootcd.image.notes import push_notes

    digest = push_notes(
        options.image,
        options.file,
        authfile=options.authfile,
        plain_http=options.plain_http,
        ca_file=options.ca_file,
    )
    return f"Attached release notes {digest}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 if it failed, 2 if it was not understood."""
    options = build_parser().parse_args(argv)
    try:
        message = options.run(options)
    except BootcdError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        sys.stderr.write(f"bootcd-image: {error.message}{hint}\n")
        return 2 if isinstance(error, InvalidArguments) else 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"{message}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
