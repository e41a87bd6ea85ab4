"""The host's registry credentials, from the files bootc reads and the helper programs they name.

As with bootc the first file that exists is the only one, and nobody's podman or docker login is used;
with no file no helper is asked either. A helper is the program docker-credential-NAME of
https://github.com/docker/docker-credential-helpers, asked anew for every login, as what it gives may
be good for minutes. Nothing it prints is shown to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bootcd.host import process
from bootcd.host.files import read_bounded
from bootcd.model.errors import BootcdError, InvalidConfig, RegistryAuthRequired
from bootcd.oci.authfile import (
    MAX_AUTHFILE_BYTES,
    MAX_HELPER_BYTES,
    AuthFile,
    Credential,
    parse_authfile,
    parse_helper_answer,
    says_not_found,
)
from bootcd.oci.registries import AUTH_FILES_HELPER

Credentials = Callable[[str, str], Awaitable[Credential | None]]
"Asked with registry and repository; None: go without one."

HELPER_DEADLINE_SECS = 30.0


def load_credentials(
    auth_files: Sequence[str],
    helpers: Sequence[str] | None = None,
    *,
    deadline_secs: float = HELPER_DEADLINE_SECS,
) -> Credentials:
    """Return a lookup in the first of `auth_files` that exists and the `helpers` of all registries.

    The file is read at the first lookup, so one that is broken is no obstacle to who needs no login.
    The lookup raises InvalidConfig, and RegistryAuthRequired where a helper fails.
    """
    lock = asyncio.Lock()
    loaded: list[AuthFile | None] = []

    async def lookup(registry: str, repository: str) -> Credential | None:
        async with lock:
            if not loaded:
                loaded.append(await asyncio.to_thread(_read_first, auth_files))
        file = loaded[0]
        if file is None:
            return None
        failed: BootcdError | None = None
        for helper in helpers or (AUTH_FILES_HELPER,):
            try:
                if helper == AUTH_FILES_HELPER:
                    found = await _from_file(file, registry, repository, deadline_secs)
                else:
                    found = await _ask(helper, registry, repository, deadline_secs)
            except (InvalidConfig, RegistryAuthRequired) as error:
                failed = failed or error
                continue
            if found is not None:
                return found
        if failed is not None:
            raise failed
        return None

    return lookup


async def _from_file(
    file: AuthFile, registry: str, repository: str, deadline_secs: float
) -> Credential | None:
    helper = file.helper_for(registry)
    if helper:
        found = await _ask(helper, registry, repository, deadline_secs)
        if found is not None or file.is_helped(registry):
            return found
    return file.lookup(registry, repository)


async def _ask(helper: str, registry: str, repository: str, deadline_secs: float) -> Credential | None:
    """Ask a helper program for the credential of a registry."""
    program = f"docker-credential-{helper}"

    def failed(reason: str) -> RegistryAuthRequired:
        return RegistryAuthRequired(
            f"credential helper {program} gives no login to registry {registry}: {reason}",
            hint="run it by hand as root to see what it says",
            registry=registry,
            repository=repository,
            reference=f"{registry}/{repository}",
        )

    try:
        done = await process.run(
            [program, "get"], deadline_secs=deadline_secs, limit=MAX_HELPER_BYTES, text=registry.encode()
        )
    except TimeoutError:
        raise failed(f"it took longer than {deadline_secs:g} seconds") from None
    except FileNotFoundError:
        raise failed("there is no such program") from None
    except OSError as error:
        raise failed(f"it cannot be run: {error.strerror}") from None
    if done.status != 0:
        if says_not_found(done.stdout):
            return None
        raise failed(f"it ended with status {done.status}")
    credential = parse_helper_answer(done.stdout)
    if credential is None:
        raise failed("it printed no credential")
    return credential


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
