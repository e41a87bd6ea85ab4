"""Kernel arguments that images list, read from their commits without a checkout.

Files are read in the order of their names, and no directory is an empty list, on both sides of an update.
bootc reads those of a new image in no order, and keeps the arguments of a directory that is gone.
"""

from __future__ import annotations

import logging
import os

from bootcd.model.errors import BackendFailed, NotBootable
from bootcd.model.text import one_line
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.kargs import KARGS_DIRECTORY, invalid_kargs, parse_kargs_toml, rust_architecture
from bootcd.ostreefmt.objects import parse_dirtree

log = logging.getLogger(__name__)

MAX_FILES = 128
MAX_FILE_BYTES = 16 << 10
MAX_BYTES = 64 << 10
"Of all files; a kernel takes 2 to 4 KiB of arguments."


def read_kargs(repository: Repository, commit: str) -> list[str]:
    """Return the kernel arguments an image lists for this machine, in the order of its files' names.

    Raises:
        NotBootable: a file cannot be understood.
        BackendFailed: the commit cannot be read.
    """
    architecture = rust_architecture(os.uname().machine)
    arguments: list[str] = []
    total = 0
    for name, checksum in _files(repository, commit):
        where = one_line(f"/{KARGS_DIRECTORY}/{name}")
        data = repository.read_file(checksum, MAX_FILE_BYTES)
        if data is None:
            raise invalid_kargs(where, f"is not a regular file of at most {MAX_FILE_BYTES >> 10} KiB")
        total += len(data)
        if total > MAX_BYTES:
            raise invalid_kargs(f"/{KARGS_DIRECTORY}", f"has more than {MAX_BYTES >> 10} KiB of files")
        arguments += parse_kargs_toml(data, where).arguments(architecture)
    return arguments


def read_deployed_kargs(repository: Repository, commit: str) -> list[str]:
    """Return what `read_kargs` does, or nothing: what is deployed is not to keep a host from an update."""
    try:
        return read_kargs(repository, commit)
    except (NotBootable, BackendFailed) as error:
        log.warning("the kernel arguments of deployed commit %s stay as they are: %s", commit, error.message)
        return []


def _files(repository: Repository, commit: str) -> list[tuple[str, bytes]]:
    """Return name and checksum of the files to read, sorted by name."""
    contents, _, _ = repository.commit_root(commit)
    path = ""
    for part in KARGS_DIRECTORY.split("/"):
        path += f"/{part}"
        files, dirs = parse_dirtree(repository.read_dirtree(contents))
        if any(name == part for name, _ in files):
            raise invalid_kargs(path, "is not a directory")
        found = next((tree for name, tree, _ in dirs if name == part), None)
        if found is None:
            return []
        contents = found
    files, dirs = parse_dirtree(repository.read_dirtree(contents))
    for name, _, _ in dirs:
        if _is_read(name):
            raise invalid_kargs(one_line(f"{path}/{name}"), "is not a file")
    wanted = [(name, checksum) for name, checksum in files if _is_read(name)]
    if len(wanted) > MAX_FILES:
        raise invalid_kargs(path, f"has more than {MAX_FILES} files")
    return wanted


def _is_read(name: str) -> bool:
    return name.endswith(".toml") and name != ".toml"
