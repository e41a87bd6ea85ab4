"""Where an entry of a layer's archive goes in the tree of an ostree host.

An image is a plain file system; a deployment is not: /etc is made from /usr/etc at deploy time, API file
systems stay empty, and what is outside /usr is kept only where the host's root allows it. The rules are
those of bootc, so that both programs make the same tree of the same layer.

Formats: https://github.com/opencontainers/image-spec/blob/main/layer.md for whiteouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from bootcd.model.errors import InvalidLayer

API_DIRECTORIES = frozenset({"run", "tmp", "proc", "sys", "dev"})
"Kept as mount points, without what is in them."

REPO_PREFIX = "sysroot/ostree/repo/"
"Where an image made from an ostree commit carries the objects of it."

_WHITEOUT = ".wh."
_WHITEOUT_METADATA = ".wh..wh."
_OPAQUE_NAME = ".wh..wh..opq"

# Limits of Linux, in bytes: a longer path could be stored in ostree but never checked out.
_PATH_MAX = 4095
_NAME_MAX = 255


class Kind(Enum):
    KEEP = "keep"
    DROP = "drop"
    CHUNK_OBJECT = "chunk-object"
    "An object of the repository inside the image; part of no tree."


class Mapped(NamedTuple):
    """Where an entry goes.

    `path` has no slash at either end and no empty, `.` or `..` part; it is "" for the root. For a dropped
    entry it is instead the name it is counted under: the one in the root, or that of the aufs data.
    """

    kind: Kind
    path: str


class Marker(Enum):
    """A whiteout that names no sibling."""

    OPAQUE = "opaque"
    "Hides what lower layers have in its directory."
    IGNORED = "ignored"
    "Book-keeping of aufs, part of no tree."


@dataclass(frozen=True, slots=True)
class Delete:
    """Hides what lower layers have by this name in its directory."""

    name: str


_ROOT = Mapped(Kind.KEEP, "")


def map_path(name: str, *, allow_nonusr: bool, directory: bool) -> Mapped:
    """Map the name of an archive entry.

    `directory` tells the entry's type: the root, /usr, /etc and /var must be directories, since bootc
    and libostree put things into them; a link or a file there would make a tree that cannot be deployed,
    or send files to where the link points. `allow_nonusr` keeps what is outside /usr, /etc and /var.
    A whiteout in the root follows the rule of what it hides.

    Raises InvalidLayer for a name that leaves the root, is empty, too long or not UTF-8.
    """
    # Nearly every entry of an operating system is below usr and spelled plainly. A name that begins with
    # a dot is not worth telling apart from . and .. here.
    path = name[2:] if name.startswith("./") else name
    if path.startswith("usr/") and "/." not in path and "//" not in path and "\0" not in path:
        if path.endswith("/"):
            path = path[:-1]
        if len(path) > _NAME_MAX or not path.isascii():
            _check_size(path, name)
        if directory or path not in ("usr", "usr/etc"):
            return Mapped(Kind.KEEP, path)
    return _map_slowly(name, allow_nonusr, directory)


def map_hardlink_target(name: str, *, allow_nonusr: bool) -> Mapped:
    """Map the target of a hard link, which names an earlier entry; DROP if that one was dropped."""
    return map_path(name, allow_nonusr=allow_nonusr, directory=False)


def whiteout_target(name: str) -> Delete | Marker | None:
    """Tell what an entry hides by the last part of its path; None for an ordinary file.

    A whiteout is about lower layers alone, wherever it stands in its own. Directories are none.
    Raises InvalidLayer for one that would hide its own directory or the one above.
    """
    if not name.startswith(_WHITEOUT):
        return None
    if name == _OPAQUE_NAME:
        return Marker.OPAQUE
    if name.startswith(_WHITEOUT_METADATA):
        return Marker.IGNORED
    hidden = name[len(_WHITEOUT) :]
    if hidden in ("", ".", ".."):
        raise InvalidLayer(f"the layer has a whiteout {name} that names nothing", entry=name)
    return Delete(hidden)


def _map_slowly(name: str, allow_nonusr: bool, directory: bool) -> Mapped:
    if not name or "\0" in name:
        raise InvalidLayer("the layer has an entry without a valid name", entry=_shown(name))
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidLayer(f"the layer has an entry {_shown(name)} outside its root", entry=_shown(name))
    path = "/".join(parts)
    _check_size(path, name)
    if not parts:
        return _as_directory(_ROOT, directory)

    top = parts[0]
    for part in parts[:-1] if parts[-1] == _OPAQUE_NAME else parts:
        if part.startswith(_WHITEOUT_METADATA):
            return Mapped(Kind.DROP, part)
    if top in ("usr", "var"):
        return _as_directory(Mapped(Kind.KEEP, path), directory)
    if top == "etc":
        return _as_directory(Mapped(Kind.KEEP, f"usr/{path}"), directory)
    if top in API_DIRECTORIES:
        return Mapped(Kind.KEEP, path) if len(parts) == 1 else Mapped(Kind.DROP, top)
    if path.startswith(REPO_PREFIX):
        return Mapped(Kind.CHUNK_OBJECT, path)
    if len(parts) == 1 and (hidden := whiteout_target(top)):
        return _map_root_whiteout(top, hidden, allow_nonusr)
    return Mapped(Kind.KEEP, path) if allow_nonusr else Mapped(Kind.DROP, top)


def _map_root_whiteout(name: str, hidden: Delete | Marker, allow_nonusr: bool) -> Mapped:
    # An opaque root empties usr, etc and var too, so it counts whether or not the rest is allowed.
    if isinstance(hidden, Marker) or (allow_nonusr and hidden.name != "etc"):
        return Mapped(Kind.KEEP, name)
    if hidden.name == "etc":
        return Mapped(Kind.KEEP, f"usr/{name}")
    if hidden.name in ("usr", "var") or hidden.name in API_DIRECTORIES:
        return Mapped(Kind.KEEP, name)
    return Mapped(Kind.DROP, hidden.name)


def _as_directory(mapped: Mapped, directory: bool) -> Mapped:
    if not directory and mapped.path in ("", "usr", "usr/etc", "var"):
        raise InvalidLayer(
            f"the layer has something else where /{mapped.path} must be a directory", entry=mapped.path
        )
    return mapped


def _check_size(path: str, name: str) -> None:
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise InvalidLayer(
            f"the layer has a name {_shown(name)} that is not UTF-8", entry=_shown(name)
        ) from None
    if len(raw) > _PATH_MAX or any(len(part) > _NAME_MAX for part in raw.split(b"/")):
        raise InvalidLayer(f"the layer has a name {_shown(name)} that is too long", entry=_shown(name))


def _shown(name: str) -> str:
    """Return a name as it may be printed to a terminal: short, and without control characters."""
    return repr(name[:_NAME_MAX])[1:-1]
