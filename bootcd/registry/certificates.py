"""Whom a registry has to be, and who we are to it: TLS contexts with the files of containers-certs.d(5).

A directory named as the registry is in image names holds `*.crt`, authorities trusted for it beside
those of the system, and pairs `NAME.cert` and `NAME.key`, with which we say who we are. As with podman
the first directory that exists is the only one, and what it says holds for all the registry sends us
to; but we say who we are to the registry's own host alone.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig

CERTIFICATE_DIRS = ("etc/containers/certs.d", "etc/docker/certs.d")

_MAX_FILE_BYTES = 1 << 20
_MAX_FILES = 256


class Certificates:
    """The TLS contexts of one client. Every method blocks and may be called from any thread."""

    def __init__(self, ca_file: str = "", directories: Sequence[Path] = ()) -> None:
        """Trust the system's authorities, those of `ca_file`, and what `directories` say of a registry."""
        self._ca_file = ca_file
        self._directories = directories
        self._contexts: dict[tuple[str, bool, bool], ssl.SSLContext] = {}

    def context(
        self, registry: str = "", *, verified: bool = True, known: bool = False
    ) -> ssl.SSLContext | None:
        """Return the context for what `registry` sends us to, `known` for the registry's own host.

        None if the system's authorities are all there is to it: the HTTP library has a context of them made
        already, and reading them takes longer than asking a registry for news.

        Raises InvalidConfig naming the file that cannot be used.
        """
        directory = self._directory_of(registry) if registry else None
        if verified and directory is None and not self._ca_file:
            return None
        known = known and directory is not None
        key = (str(directory or ""), verified, known)
        # Two threads that make the same context at once do no harm.
        if key not in self._contexts:
            self._contexts[key] = self._make(directory, verified=verified, known=known)
        return self._contexts[key]

    def _directory_of(self, registry: str) -> Path | None:
        return next((path for base in self._directories if (path := base / registry).is_dir()), None)

    def _make(self, directory: Path | None, *, verified: bool, known: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file:
            _trust(context, Path(self._ca_file), hint="correct ca-file")
        if directory is not None:
            _use(context, directory, known=known)
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _use(context: ssl.SSLContext, directory: Path, *, known: bool) -> None:
    try:
        names = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise _unusable(directory, error) from None
    if len(names) > _MAX_FILES:
        raise _invalid(directory, f"more than {_MAX_FILES} files")
    for name in sorted(names):
        path = directory / name
        pair = path.with_suffix({".cert": ".key", ".key": ".cert"}.get(path.suffix, path.suffix))
        if pair.name not in names:
            raise _invalid(path, f"{pair.name} is not beside it")
        if path.suffix == ".crt":
            _trust(context, path, hint="see containers-certs.d(5)")
        elif path.suffix == ".cert" and known:
            _identify(context, path, pair)


def _trust(context: ssl.SSLContext, path: Path, *, hint: str) -> None:
    try:
        text = read_bounded(path, _MAX_FILE_BYTES).decode("ascii", errors="replace")
        context.load_verify_locations(cadata=text)
    except FileNotFoundError as error:
        if path.is_symlink():
            return  # to an authority that was taken away
        raise _unusable(path, error, hint) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, error, hint) from None


def _identify(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        # A key with a password: say that there is none, or the library asks for it at a terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError:
        raise _invalid(certificate, f"it and {key.name} are no pair of PEM files") from None
    except (OSError, ValueError) as error:
        raise _unusable(certificate, error) from None


def _unusable(
    path: Path, error: OSError | ValueError, hint: str = "see containers-certs.d(5)"
) -> InvalidConfig:
    reason = "it holds no PEM certificate"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        reason = os.strerror(error.errno)
    return InvalidConfig(f"certificates of {path} cannot be used: {reason}", hint=hint, path=str(path))


def _invalid(path: Path, reason: str) -> InvalidConfig:
    hint = "a certificate of ours ends in .cert and its key in .key; see containers-certs.d(5)"
    return InvalidConfig(f"certificates of {path} cannot be used: {reason}", hint=hint, path=str(path))
