"""The host's registry credentials, from the files bootc reads.

As with bootc the first file that exists is the only one, and nobody's podman or docker login is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig
from bootcd.oci.authfile import MAX_AUTHFILE_BYTES, AuthFile, Credential, parse_authfile


def load_credentials(auth_files: Sequence[str]) -> Callable[[str, str], Credential | None]:
    """Return a lookup by registry and repository in the first of `auth_files` that exists.

    The file is read at the first lookup, so one that is broken is no obstacle to who needs no login.
    The lookup blocks, may be called from any thread, and raises InvalidConfig.
    """
    lock = threading.Lock()
    loaded: list[AuthFile | None] = []

    def lookup(registry: str, repository: str) -> Credential | None:
        with lock:
            if not loaded:
                loaded.append(_read_first(auth_files))
        return loaded[0].lookup(registry, repository) if loaded[0] else None

    return lookup


def _read_first(auth_files: Sequence[str]) -> AuthFile | None:
    for where in auth_files:
        try:
            data = read_bounded(Path(where), MAX_AUTHFILE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidConfig(
                f"credentials in {where} cannot be read: {error.strerror}", path=where
            ) from None
        try:
            return parse_authfile(data, where)
        except InvalidConfig as error:
            error.fields.setdefault("path", where)
            raise
    return None
