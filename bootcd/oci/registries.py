"""containers-registries.conf(5): where an image is asked for, and which images are not asked for at all.

The files an administrator wrote for podman and skopeo decide here too, so what counts is how they read
them: an entry is found by the image's name without tag or digest, `blocked` forbids the place that would
be asked and not the name that was given (an image with a mirror can be had although its registry is
blocked), and keys are known in any case. Aliases and search registries are for short names, which no
operating system is installed by; they are checked for form and not used.

The image keeps its own name whatever these files say; only the place that is asked changes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bootcd.model.errors import InvalidConfig, InvalidImage
from bootcd.oci.reference import ImageReference, parse_reference

MAX_REGISTRIES_BYTES = 1 << 20
AUTH_FILES_HELPER = "containers-auth.json"
"The entry of `credential-helpers` that stands for the auth files."

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]+)?"
)
_PULLS = ("", "all", "digest-only", "tag-only")
_SHORT_NAME_MODES = ("", "disabled", "enforcing", "permissive")
_V1_LISTS = ("search", "insecure", "block")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place below which a namespace is found."""

    location: str
    "Empty for a wildcard entry that leaves the name as it is."
    insecure: bool = False
    pull: str = ""
    "Of a mirror: for which references it is asked."

    def serves(self, *, by_digest: bool) -> bool:
        return self.pull in ("", "all") or self.pull == ("digest-only" if by_digest else "tag-only")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One `[[registry]]` table."""

    prefix: str
    primary: Endpoint
    blocked: bool = False
    mirrors: tuple[Endpoint, ...] = ()
    mirror_by_digest_only: bool = False
    where: str = ""
    "The file it is from."

    def endpoints(self, *, by_digest: bool) -> list[Endpoint]:
        """Return the places to ask in their order, the registry itself last."""
        if self.mirror_by_digest_only and not by_digest:
            return [self.primary]
        return [*(mirror for mirror in self.mirrors if mirror.serves(by_digest=by_digest)), self.primary]


@dataclass(frozen=True, slots=True)
class PullSource:
    """A place an image can be had from, under the name it has there."""

    reference: ImageReference
    insecure: bool = False
    "Unverified TLS and plain HTTP are allowed."
    blocked: bool = False
    "It may not be asked."


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """What all files say together."""

    entries: tuple[RegistryEntry, ...] = ()
    credential_helpers: tuple[str, ...] | None = None

    def updated(self, later: RegistriesConf) -> RegistriesConf:
        """Return these settings with those of a file that is read later put over them."""
        merged = {entry.prefix: entry for entry in self.entries}
        merged |= {entry.prefix: entry for entry in later.entries}
        helpers = later.credential_helpers
        return RegistriesConf(
            tuple(entry for _, entry in sorted(merged.items())),
            self.credential_helpers if helpers is None else helpers,
        )

    def sources(self, reference: ImageReference) -> tuple[PullSource, ...]:
        """Return where to ask for an image, in this order; never empty.

        Raises InvalidConfig where a location gives a name that is none.
        """
        entry = self._entry(reference.name)
        if entry is None:
            return (PullSource(reference),)
        sources = []
        for endpoint in entry.endpoints(by_digest=reference.digest is not None):
            physical = _rewritten(reference, entry, endpoint)
            other = self._entry(physical.name)
            sources.append(PullSource(physical, endpoint.insecure, other is not None and other.blocked))
        return tuple(sources)

    def _entry(self, name: str) -> RegistryEntry | None:
        """Return the entry of the longest prefix, the first of equally long ones."""
        matching = [entry for entry in self.entries if _match(name, entry.prefix) is not None]
        return max(matching, key=lambda entry: len(entry.prefix), default=None)


def _match(text: str, prefix: str) -> int | None:
    """Return how much of a name an entry's prefix stands for, None if it is not for the name."""
    if prefix.startswith("*."):
        # The first occurrence alone, as podman looks for it.
        end = text.find(prefix[1:]) + len(prefix) - 1
        if end < len(prefix) - 1 or "/" in text[:end]:
            return None
    elif text.startswith(prefix):
        end = len(prefix)
    else:
        return None
    return end if text[end : end + 1] in ("", "/", ":", "@") else None


def _rewritten(reference: ImageReference, entry: RegistryEntry, endpoint: Endpoint) -> ImageReference:
    if not endpoint.location:
        return reference
    text = str(reference.canonical)
    new = endpoint.location + text[_match(text, entry.prefix) :]
    try:
        parsed = parse_reference(new)
        if str(parsed) == new:
            return parsed
    except InvalidImage:
        pass
    raise _invalid(entry.where, f"location {endpoint.location!r} of {entry.prefix!r} gives no image name")


# Reading


def parse_registries(data: bytes, where: str, *, drop_in: bool = False) -> RegistriesConf:
    """Parse one file; `where` names it in errors. A drop-in may not be of the old format.

    Raises InvalidConfig.
    """
    if len(data) > MAX_REGISTRIES_BYTES:
        raise _invalid(where, f"is larger than {MAX_REGISTRIES_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise _invalid(where, "is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise _invalid(where, f"is not valid TOML: {error}") from None
    except RecursionError:
        raise _invalid(where, "is nested too deeply") from None
    top = _Table(document, where)
    old = top.table("registries")
    if old is not None:
        lists = {name: old.table(name) for name in _V1_LISTS}
        if any(found is not None and found.has("registries") for found in lists.values()):
            if drop_in:
                raise _invalid(where, "is of version 1 of the format, which a drop-in may not be")
            if any(map(top.has, ("registry", "unqualified-search-registries", "credential-helpers"))):
                raise _invalid(where, "mixes versions 1 and 2 of the format")
            return RegistriesConf(_version_1(lists, where))
    if top.string("short-name-mode") not in _SHORT_NAME_MODES:
        raise _invalid(where, "short-name-mode has a value nobody knows")
    for search in top.strings("unqualified-search-registries") or ():
        if not _DOMAIN.fullmatch(_location(search, where)):
            raise _invalid(where, f"unqualified-search-registries: {_quote(search)} is no registry")
    helpers = top.strings("credential-helpers")
    for helper in helpers or ():
        if not _HELPER.fullmatch(helper):
            raise _invalid(where, "credential-helpers has an entry that is no name of a helper")
    aliases = top.table("aliases")
    if aliases is not None and not all(isinstance(value, str) for value in aliases.values()):
        raise _invalid(where, "aliases has a value that is no string")
    entries = [_entry(table, where) for table in top.tables("registry")]
    _require_agreement(entries, where)
    return RegistriesConf(_unique(entries), helpers)


def _entry(table: _Table, where: str) -> RegistryEntry:
    location = _location(table.string("location"), where)
    prefix = _location(table.string("prefix"), where) or location
    if not prefix:
        raise _invalid(where, "a registry has neither prefix nor location")
    wildcard = prefix.startswith("*.")
    if not location and not wildcard:
        raise _invalid(where, f"registry {_quote(prefix)} has no location")
    if wildcard and any(char in prefix for char in "/@:"):
        raise _invalid(where, f"prefix {_quote(prefix)} is not of the form *.example.com")
    if table.string("pull-from-mirror"):
        raise _invalid(where, f"registry {_quote(prefix)} has pull-from-mirror, which is for mirrors")
    digest_only = table.boolean("mirror-by-digest-only")
    mirrors = []
    for mirror in table.tables("mirror"):
        # Not stripped: podman leaves the slash at the end, and the name that results is none.
        place, pull = mirror.string("location"), mirror.string("pull-from-mirror")
        if not _location(place, where):
            raise _invalid(where, f"a mirror of {_quote(prefix)} has no location")
        if pull not in _PULLS:
            raise _invalid(where, f"pull-from-mirror of {_quote(place)} has a value nobody knows")
        if pull and digest_only:
            raise _invalid(
                where, f"registry {_quote(prefix)} has mirror-by-digest-only and a mirror pull-from-mirror"
            )
        mirrors.append(Endpoint(place, mirror.boolean("insecure"), pull))
    primary = Endpoint(location, table.boolean("insecure"))
    return RegistryEntry(prefix, primary, table.boolean("blocked"), tuple(mirrors), digest_only, where)


def _version_1(lists: dict[str, _Table | None], where: str) -> tuple[RegistryEntry, ...]:
    """Read the lists of the old format, in which an entry is a registry and nothing more."""
    names = {
        name: {_location(entry, where) for entry in (table.strings("registries") or () if table else ())}
        for name, table in lists.items()
    }
    insecure, blocked = names["insecure"], names["block"]
    if "" in insecure | blocked:
        raise _invalid(where, "lists a registry without a name")
    return tuple(
        RegistryEntry(name, Endpoint(name, name in insecure), name in blocked, where=where)
        for name in sorted(insecure | blocked)
    )


def _require_agreement(entries: Iterable[RegistryEntry], where: str) -> None:
    """Refuse entries for one location that say different things of it."""
    seen: dict[str, tuple[bool, bool]] = {}
    for entry in entries:
        place, says = entry.primary.location or entry.prefix, (entry.primary.insecure, entry.blocked)
        if seen.setdefault(place, says) != says:
            raise _invalid(where, f"registry {_quote(place)} has entries that contradict each other")


def _unique(entries: Iterable[RegistryEntry]) -> tuple[RegistryEntry, ...]:
    """Keep the first entry of each prefix."""
    kept: dict[str, RegistryEntry] = {}
    for entry in entries:
        kept.setdefault(entry.prefix, entry)
    return tuple(entry for _, entry in sorted(kept.items()))


def _location(text: str, where: str) -> str:
    text = text.rstrip("/")
    if text.startswith(("http://", "https://")):
        # It may hold a password, so it is not repeated.
        raise _invalid(where, "a location is a URL; it is host[:port][/namespace]")
    return text


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the document, read with the types podman insists on."""

    data: dict[str, Any]
    where: str

    def _get(self, name: str) -> Any:
        if name in self.data:
            return self.data[name]
        return next((value for key, value in self.data.items() if key.lower() == name), None)

    def has(self, name: str) -> bool:
        return self._get(name) is not None

    def values(self) -> Iterable[Any]:
        return self.data.values()

    def string(self, name: str) -> str:
        value = self._get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _invalid(self.where, f"{name} must be a string")
        return value

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise _invalid(self.where, f"{name} must be true or false")
        return value

    def strings(self, name: str) -> tuple[str, ...] | None:
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _invalid(self.where, f"{name} must be a list of strings")
        return tuple(value)

    def table(self, name: str) -> _Table | None:
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise _invalid(self.where, f"{name} must be a table")
        return _Table(value, self.where)

    def tables(self, name: str) -> list[_Table]:
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise _invalid(self.where, f"{name} must be tables in double brackets")
        return [_Table(item, self.where) for item in value]


def _invalid(where: str, problem: str) -> InvalidConfig:
    return InvalidConfig(
        f"registries file {where}: {problem}", hint="see containers-registries.conf(5)", path=where
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
