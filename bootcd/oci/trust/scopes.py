"""The scopes of a policy an image is in, the most specific first.

A policy names images by transport and scope; what a scope looks like is each transport's own affair.
Rules: containers-policy.json(5), "Supported transports and their scopes".
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from bootcd.oci.reference import ImageReference

DOCKER = "docker"
"What the policy calls the transport of registries."
DEFAULT_STORE = ("overlay", "/var/lib/containers/storage")
"Driver and root of the host's containers-storage, unless storage.conf says otherwise."

_PATH_TRANSPORTS = frozenset({"dir", "oci", "oci-archive"})
_UNSCOPED_TRANSPORTS = frozenset({"docker-archive", "tarball"})
_OCI_NAME = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*"
)
_STORE = re.compile(r"\[(?:[A-Za-z0-9_]*@)?/[^\]]*\].*")


def registry_scopes(reference: ImageReference) -> tuple[str, ...]:
    """Return the scopes of an image of a registry: itself, its repository and so on to `*.domain`."""
    name = reference.name
    # With a digest the tag means nothing, so no scope can be about it.
    scopes = [str(reference.canonical), name]
    while "/" in name:
        name = name.rpartition("/")[0]
        scopes.append(name)
    host = reference.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        scopes.append(f"*.{host}")
    return tuple(scopes)


def path_scopes(path: str) -> tuple[str, ...]:
    """Return the scopes of an image in a file or directory, given by its absolute path without links."""
    parts = PurePosixPath(path)
    return tuple(str(part) for part in (parts, *parts.parents) if str(part) != "/")


def storage_scopes(
    reference: ImageReference | None, store: tuple[str, str] = DEFAULT_STORE, *, image_id: str = ""
) -> tuple[str, ...]:
    """Return the scopes of an image in a containers-storage, given by name, id or both."""
    driver, root = store
    base = f"[{driver}@{root}]"
    scopes = []
    if reference is not None:
        named = str(reference)
        if image_id:
            scopes.append(f"{base}{named}@{image_id}")
        scopes.append(f"{base}{named}")
        if reference.tag is not None and reference.digest is not None:
            scopes.append(f"{base}{reference.with_digest(None)}")
        name = reference.name
        scopes.append(f"{base}{name}")
        while "/" in name:
            name = name.rpartition("/")[0]
            scopes.append(f"{base}{name}")
    elif image_id:
        scopes.append(f"{base}@{image_id}")
    return (*scopes, base, f"[{root}]")


def is_scope(transport: str, scope: str) -> bool:
    """Tell whether a policy may name `scope` for a transport; what is not known here is not judged."""
    if not scope:
        return True
    if transport in _PATH_TRANSPORTS:
        path, colon, image = scope, "", ""
        if transport != "dir":
            path, colon, image = scope.partition(":")
        named = not colon or bool(_OCI_NAME.fullmatch(image))
        return named and path.startswith("/") and path != "/" and str(PurePosixPath(path)) == path
    if transport in _UNSCOPED_TRANSPORTS:
        return False
    if transport == "containers-storage":
        return bool(_STORE.fullmatch(scope))
    return True
