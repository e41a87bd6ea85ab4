"""libostree as the rest of this package sees it: the loaded library, its errors, what it can do.

libostree differs between hosts by years (2022.7 to 2026.x), so a newer call is probed with
`has`, never assumed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gi

gi.require_version("OSTree", "1.0")

from gi.repository import Gio, GLib, OSTree  # noqa: E402  (the version has to be pinned first)

from bootcd.model.errors import BackendFailed, BootcdError, OutOfSpace, ReadOnlyHost  # noqa: E402
from bootcd.model.text import one_line  # noqa: E402

# PyGObject makes a class at its first use, and a second thread may meet it half made: layers are written by
# several, so what they all build is built once here.
GLib.Variant("a{sv}", {"": GLib.Variant("as", [""])})

__all__ = ["GLib", "Gio", "OSTree", "has", "host_errors"]


def has(owner: Any, name: str) -> bool:
    """Whether this libostree has the call or type `name` on `owner`."""
    return hasattr(owner, name)


@contextmanager
def host_errors(doing: str, *, path: str = "") -> Iterator[None]:
    """Turn what libostree and the file system raise into typed errors.

    Args:
        doing: what was tried, to follow "cannot", such as "stage the deployment".
        path: the place it happened at, for `OutOfSpace` and `ReadOnlyHost`.
    """
    try:
        yield
    except BootcdError:
        raise
    except GLib.Error as error:
        if error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.NO_SPACE):
            raise OutOfSpace(f"cannot {doing}: no space left on {path or 'the disk'}", path=path) from error
        if error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.READ_ONLY):
            raise ReadOnlyHost(f"cannot {doing}: {path or 'the file system'} is read-only") from error
        raise BackendFailed(f"cannot {doing}: {one_line(error.message)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"cannot {doing}: no space left on {path or 'the disk'}", path=path) from error
        if error.errno == errno.EROFS:
            raise ReadOnlyHost(f"cannot {doing}: {path or 'the file system'} is read-only") from error
        raise BackendFailed(f"cannot {doing}: {one_line(error.strerror or 'input/output error')}") from error
