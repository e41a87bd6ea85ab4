"""Names of the refs bootc keeps in the host's repository.

A layer and an image each hold a ref whose last part is the layer's digest or the image's name, escaped
into what libostree accepts as a ref. bootc reads every ref under these prefixes back, and fails as a
whole on one it cannot read, so nothing else may ever be written below `BLOB_PREFIX` and `IMAGE_PREFIX`.

Format: the `refescape` module of https://github.com/bootc-dev/bootc, crate ostree-ext.
"""

from __future__ import annotations

import re

from bootcd.model.errors import InvalidImage

BLOB_PREFIX = "ostree/container/blob"
"Commits of single layers, by the digest of the compressed blob."
IMAGE_PREFIX = "ostree/container/image"
"Merge commits, by image name with transport."
BASEIMAGE_PREFIX = "ostree/container/baseimage"
"Roots of garbage collection, one directory a project; bootc deletes only those below `bootc`."
OWN_BASEIMAGE_PREFIX = f"{BASEIMAGE_PREFIX}/bootcd"
"Ours: a merge commit held here keeps its layers though no deployment uses it yet."

_MAX_CHARS = 4096
# What libostree takes as a ref, which is a file below refs/: each part is a name in a directory.
_REF = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,254}(?:/[0-9A-Za-z_][0-9A-Za-z_.-]{0,254})*")

_ALNUM = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ESCAPED = re.compile(r"[0-9A-Za-z/-]|__|_([0-9A-F]{2,6})_")


def escape(text: str) -> str:
    """Return `text` in the characters of a ref.

    Raises InvalidImage for text that is empty, not Unicode, longer than 4096 characters or holds a NUL.
    """
    if not text or len(text) > _MAX_CHARS:
        raise InvalidImage(f"a name of {len(text)} characters cannot be a ref")
    escaped: list[str] = []
    after_alnum = False
    last = len(text) - 1
    for index, char in enumerate(text):
        if char in _ALNUM:
            escaped.append(char)
            after_alnum = True
            continue
        if char == "-" or (char == "/" and after_alnum and index != last):
            escaped.append(char)
        elif char == "_":
            escaped.append("__")
        elif char == "\0" or "\ud800" <= char <= "\udfff":
            raise InvalidImage(f"the name {text!r} holds a character no name may hold")
        else:
            escaped.append(f"_{ord(char):02X}_")
        after_alnum = False
    return "".join(escaped)


def unescape(text: str) -> str:
    """Return what `escape` made `text` of; InvalidImage if it made nothing like it.

    Two spellings of one name would be two refs for one image, so only the spelling of `escape` counts.
    """
    plain: list[str] = []
    position = 0
    while match := _ESCAPED.match(text, position):
        piece = match[0]
        code = match[1]
        if code is not None:
            value = int(code, 16)
            if value > 0x10FFFF:
                break
            plain.append(chr(value))
        else:
            plain.append("_" if piece == "__" else piece)
        position = match.end()
    name = "".join(plain)
    if position != len(text) or not name or len(name) > _MAX_CHARS or escape(name) != text:
        raise InvalidImage(f"the ref part {text[:_MAX_CHARS]!r} is no escaped name")
    return name


def blob_ref(digest: str) -> str:
    """Return the ref of the layer whose compressed blob has this digest."""
    return _ref(BLOB_PREFIX, digest)


def image_ref(imgref: str) -> str:
    """Return the ref of an image named with its transport, such as `docker://quay.io/x:1`.

    Raises InvalidImage for a name bootc could not store either: a path with a part that is too long once
    escaped, or that begins with a dash.
    """
    return _ref(IMAGE_PREFIX, imgref)


def parse_blob_ref(ref: str) -> str:
    """Return the digest a layer's full ref names."""
    return _name(BLOB_PREFIX, ref)


def parse_image_ref(ref: str) -> str:
    """Return the image name, with transport, an image's full ref names."""
    return _name(IMAGE_PREFIX, ref)


def _ref(prefix: str, name: str) -> str:
    ref = f"{prefix}/{escape(name)}"
    if not _REF.fullmatch(ref):
        raise InvalidImage(f"the name {name!r} has a part that is too long for a ref or begins with a dash")
    return ref


def _name(prefix: str, ref: str) -> str:
    if not ref.startswith(prefix + "/"):
        raise InvalidImage(f"the ref {ref[:_MAX_CHARS]!r} is not below {prefix}")
    return unescape(ref[len(prefix) + 1 :])
