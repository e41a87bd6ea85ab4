"""Databases of installed packages, as they lie in an operating system's tree. No I/O.

dpkg: deb822 paragraphs, deb-control(5) and dpkg-query(1). apk: paragraphs of one-letter fields,
https://wiki.alpinelinux.org/wiki/Apk_spec. rpm's is a database that only rpm reads; it prints what
`RPM_QUERY` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

DPKG_PATHS = (
    "usr/lib/sysimage/dpkg/status",
    "usr/share/dpkg/status",
    "usr/lib/dpkg/status",
    "var/lib/dpkg/status",
    "usr/share/factory/var/lib/dpkg/status",
)
APK_PATHS = ("usr/lib/apk/db/installed", "lib/apk/db/installed")
RPM_DIRECTORIES = ("usr/share/rpm", "usr/lib/sysimage/rpm")

RPM_QUERY = r"%{NAME}.%{ARCH}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n"

Packages = Mapping[str, str]
"Version by name; the name holds the architecture where one package can be there for several."

_TEXT_LIMIT = 300


def parse_dpkg_status(text: str) -> Packages:
    """Return the packages a dpkg status file has as installed."""
    found = {}
    for fields in _paragraphs(text, ": "):
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            name, architecture = fields["Package"], fields.get("Architecture", "")
            suffix = f":{architecture}" if architecture and fields.get("Multi-Arch") == "same" else ""
            found[_short(name + suffix)] = _short(fields.get("Version", ""))
    return found


def parse_apk_installed(text: str) -> Packages:
    """Return the packages of apk's database."""
    return {
        _short(fields["P"]): _short(fields.get("V", ""))
        for fields in _paragraphs(text, ":")
        if fields.get("P")
    }


def parse_rpm_query(text: str) -> Packages:
    """Return the packages in what rpm prints for `RPM_QUERY`; of one installed twice, the last version."""
    pairs = (line.partition("\t") for line in text.splitlines())
    return {_short(name): _short(version) for name, tab, version in pairs if tab and name}


def _paragraphs(text: str, separator: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line:
            yield fields
            fields = {}
        elif not line[0].isspace():
            key, found, value = line.partition(separator)
            if found:
                fields[key] = value.strip()
    yield fields


def _short(text: str) -> str:
    return text[:_TEXT_LIMIT]
