"""Which package owns which file, by the package database an image has in it. Pure.

Packages made from one source change together, so a component is the source: `systemd` has `libsystemd0`.

dpkg: `info/PACKAGE.list` beside the status file, dpkg(1) and deb-control(5). apk: lines F and R of
`installed`, https://wiki.alpinelinux.org/wiki/Apk_spec. rpm prints what `RPM_QUERY` asks for.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Container, Iterator, Mapping

from bootcd.ostreefmt.packages import APK_PATHS, DPKG_PATHS, RPM_DIRECTORIES

RPM_QUERY = r"[%{SOURCERPM}\t%{NAME}\t%{FILENAMES}\n]"
_COMPILED = re.compile(r"(.*/)?__pycache__/([^/]+?)\.[a-z]+-[0-9]+(?:\.opt-[0-9a-z]+)?\.pyc", re.DOTALL)
"What Python makes of a module, at installation where the package does not have it."
_RPM_DATABASES = ("rpmdb.sqlite", "Packages.db", "Packages")

Owners = Mapping[str, str]
"Component by path, without a slash at its start."


def is_database(path: str) -> bool:
    """Tell whether the content of a file is needed to know the owners of others."""
    directory, name = posixpath.split(path)
    return (
        path in DPKG_PATHS
        or path in APK_PATHS
        or (name.endswith(".list") and directory in _INFO_DIRECTORIES)
        or (directory in RPM_DIRECTORIES and name.startswith(_RPM_DATABASES))
    )


def dpkg_status(paths: Container[str]) -> str | None:
    """Return the path of dpkg's database among the files there are."""
    return next((path for path in DPKG_PATHS if path in paths), None)


def apk_installed(paths: Container[str]) -> str | None:
    return next((path for path in APK_PATHS if path in paths), None)


def rpm_directory(paths: Container[str]) -> str | None:
    """Return the directory of rpm's database among the files there are."""
    for directory in RPM_DIRECTORIES:
        if any(f"{directory}/{name}" in paths for name in _RPM_DATABASES):
            return directory
    return None


def dpkg_owners(status_path: str, texts: Mapping[str, str]) -> Owners:
    """Read dpkg's database; of a file in two lists the first package by name is the owner.

    Args:
        texts: the files of the database by path.
    """
    sources = dict(_dpkg_sources(texts[status_path]))
    info = f"{posixpath.dirname(status_path)}/info"
    found: dict[str, str] = {}
    for path in sorted(texts):
        if posixpath.dirname(path) != info or not path.endswith(".list"):
            continue
        name = posixpath.basename(path).removesuffix(".list")
        package = name.partition(":")[0]
        component = sources.get(package, package)
        if not component:
            continue
        # What dpkg keeps about a package changes with it.
        for kind in ("list", "md5sums", "conffiles", "shlibs", "symbols", "triggers", "templates", "config"):
            found[f"{info}/{name}.{kind}"] = component
        for kind in ("preinst", "postinst", "prerm", "postrm"):
            found[f"{info}/{name}.{kind}"] = component
        for line in texts[path].splitlines():
            found.setdefault(line.strip("/"), component)
    return found


def apk_owners(text: str) -> Owners:
    found: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        fields = [(line[:1], line[2:]) for line in paragraph.splitlines() if line[1:2] == ":"]
        values = dict(fields)
        component = values.get("o") or values.get("P")
        directory = ""
        for key, value in fields:
            if key == "F":
                directory = value
            elif key == "R" and component:
                found.setdefault(f"{directory}/{value}".strip("/"), component)
    return found


def rpm_owners(text: str) -> Owners:
    """Read what rpm prints for `RPM_QUERY`."""
    found: dict[str, str] = {}
    for line in sorted(text.splitlines()):
        source, _, rest = line.partition("\t")
        name, _, path = rest.partition("\t")
        # NAME-VERSION-RELEASE.src.rpm
        parts = source.rsplit("-", 2)
        component = (parts[0] if len(parts) == 3 else "") or name
        if path and component:
            found.setdefault(path.strip("/"), component)
    return found


def owner_of(path: str, owners: Owners, links: Mapping[str, str]) -> str:
    """Return the component of a file, or "" if no package has it.

    Args:
        links: links in the root, such as `lib` to `usr/lib`: packages name files through them.
    """
    for name in _spellings(path, links):
        if (component := owners.get(name)) is not None:
            return component
    if module := _COMPILED.fullmatch(path):
        return owner_of(f"{module[1] or ''}{module[2]}.py", owners, links)
    return ""


def _spellings(path: str, links: Mapping[str, str]) -> Iterator[str]:
    yield path
    for link, target in links.items():
        if path.startswith(f"{target}/"):
            yield link + path[len(target) :]
    if path.startswith("usr/etc/"):
        yield path.removeprefix("usr/")


def _dpkg_sources(text: str) -> Iterator[tuple[str, str]]:
    for paragraph in text.split("\n\n"):
        package = source = ""
        for line in paragraph.splitlines():
            if line.startswith("Package: "):
                package = line[9:].strip()
            elif line.startswith("Source: "):
                # It may have a version in brackets behind it.
                source = line[8:].partition(" (")[0].strip()
        if package:
            yield package, source or package


_INFO_DIRECTORIES = frozenset(f"{posixpath.dirname(path)}/info" for path in DPKG_PATHS)
