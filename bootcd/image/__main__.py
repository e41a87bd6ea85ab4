"""Command line of bootcd-image: what is done to host images where they are made, not where they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bootcd import __version__
from bootcd.model.errors import BootcdError, InvalidArguments


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
    return parser


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
