"""What differs between two deployments, and between a host's /etc and its image's.

`bootcd-worker diff` and `config-diff` print these as one line of JSON; the bus hands them on as they
are. Lists are sorted and bounded; `totals` count everything. Paths that are not UTF-8 show U+FFFD.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_snake

ENTRIES_LIMIT = 20_000
"Of all lists of files together; what is beyond is only counted."


def _kebab(name: str) -> str:
    return to_snake(name).replace("_", "-")


class _Document(BaseModel):
    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=True
    )

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)


class DeploymentSummary(_Document):
    id: str
    image: str = ""
    digest: str = ""
    version: str = ""


class PackageChange(_Document):
    """A version is empty on the side the package is not on."""

    name: str
    before: str = ""
    after: str = ""


class PackageChanges(_Document):
    database: Literal["", "rpm", "dpkg", "apk"] = ""
    "Empty: none was found that can be read here."
    added: tuple[PackageChange, ...] = ()
    removed: tuple[PackageChange, ...] = ()
    changed: tuple[PackageChange, ...] = ()


class FileChange(_Document):
    """Sizes in bytes; 0 on the side the file is not on. A symbolic link is as long as its target."""

    path: str
    size_before: int = 0
    size_after: int = 0


class FileChanges(_Document):
    added: tuple[FileChange, ...] = ()
    removed: tuple[FileChange, ...] = ()
    changed: tuple[FileChange, ...] = ()
    truncated: bool = False


class Totals(_Document):
    files_added: int = 0
    files_removed: int = 0
    files_changed: int = 0
    bytes_added: int = 0
    "Of added files, and what changed ones are after."
    bytes_removed: int = 0
    "Of removed files, and what changed ones were before."


class KernelArguments(_Document):
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class DeploymentDiff(_Document):
    before: DeploymentSummary
    after: DeploymentSummary
    kernel_arguments: KernelArguments = KernelArguments()
    packages: PackageChanges = PackageChanges()
    files: FileChanges = FileChanges()
    totals: Totals = Totals()


class ConfigDiff(_Document):
    """/etc of the booted deployment against /usr/etc, as `ostree admin config-diff` tells; absolute paths."""

    deployment: str
    added: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    "Files of equal size and attributes, and directories, whose content the service may not read."
    truncated: bool = False
