"""containers-registries.d(5): where the signatures of an image are kept.

Simple signatures are files on a server or disk ("lookaside"); sigstore signatures are attached to the
image in its registry, and looked for only where a file says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bootcd.model.errors import InvalidConfig

MAX_FILE_BYTES = 1 << 20
DEFAULT_LOOKASIDE = "file:///var/lib/containers/sigstore"

_TEXTS = ("lookaside", "lookaside-staging", "sigstore", "sigstore-staging")
_ATTACHMENTS = "use-sigstore-attachments"


@dataclass(frozen=True, slots=True)
class Storage:
    """Where one namespace keeps signatures; None where it leaves that to a wider one."""

    lookaside: str | None = None
    attachments: bool | None = None


@dataclass(frozen=True, slots=True)
class SignatureStorage:
    """All files of a directory together."""

    default: Storage = Storage()
    namespaces: Mapping[str, Storage] = field(default_factory=dict)

    def lookaside(self, scopes: Sequence[str]) -> str:
        """Return the address below which simple signatures of an image in these scopes are."""
        for storage in self._of(scopes):
            if storage.lookaside:
                return storage.lookaside
        return DEFAULT_LOOKASIDE

    def attachments(self, scopes: Sequence[str]) -> bool:
        """Tell whether sigstore signatures are to be looked for in the registry."""
        for storage in self._of(scopes):
            if storage.attachments is not None:
                return storage.attachments
        return False

    def _of(self, scopes: Sequence[str]) -> list[Storage]:
        return [*(self.namespaces[scope] for scope in scopes if scope in self.namespaces), self.default]


def merge_files(files: Sequence[tuple[str, bytes]]) -> SignatureStorage:
    """Parse the files of a directory, each with its name for people; what two of them say is an error."""
    default: tuple[str, Storage] | None = None
    namespaces: dict[str, tuple[str, Storage]] = {}
    for path, data in files:
        own_default, own = _parse(data, path)
        if own_default is not None:
            if default is not None:
                raise _twice("default-docker", default[0], path)
            default = path, own_default
        for name, storage in own.items():
            if name in namespaces:
                raise _twice(f"namespace {name!r}", namespaces[name][0], path)
            namespaces[name] = path, storage
    return SignatureStorage(
        default[1] if default else Storage(), {name: storage for name, (_, storage) in namespaces.items()}
    )


def _parse(data: bytes, path: str) -> tuple[Storage | None, dict[str, Storage]]:
    if len(data) > MAX_FILE_BYTES:
        raise _malformed(path, f"it is larger than {MAX_FILE_BYTES} bytes")
    # Only here: who has no such file starts without the library.
    import yaml

    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _malformed(path, "it is no YAML") from None
    top = _mapping(document, path, "it")
    default = top.get("default-docker")
    namespaces = {
        name: _storage(node, path, f"namespace {name!r}")
        for name, node in _mapping(top.get("docker"), path, "docker").items()
        if isinstance(name, str)
    }
    return (None if default is None else _storage(default, path, "default-docker")), namespaces


def _storage(node: Any, path: str, where: str) -> Storage:
    members = _mapping(node, path, where)
    for name in _TEXTS:
        if not isinstance(members.get(name, ""), str | None):
            raise _malformed(path, f"{name} of {where} is no text")
    attachments = members.get(_ATTACHMENTS)
    if not isinstance(attachments, bool | None):
        raise _malformed(path, f"{_ATTACHMENTS} of {where} is neither true nor false")
    # `sigstore` is what `lookaside` was called before sigstore was.
    return Storage(members.get("lookaside") or members.get("sigstore") or None, attachments)


def _mapping(node: Any, path: str, where: str) -> dict[Any, Any]:
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise _malformed(path, f"{where} is no mapping")
    return node


def _malformed(path: str, problem: str) -> InvalidConfig:
    return InvalidConfig(
        f"the signature storage file {path} is malformed: {problem}",
        hint="see containers-registries.d(5)",
        path=path,
    )


def _twice(what: str, first: str, second: str) -> InvalidConfig:
    return InvalidConfig(
        f"{what} is defined both in {first} and in {second}",
        hint="see containers-registries.d(5)",
        path=second,
    )
