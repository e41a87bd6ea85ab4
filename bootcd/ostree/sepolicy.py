"""The SELinux policy in a tree: the label it has for each path.

libostree reads a policy from a directory, so its files are copied out of the repository for a moment; it
is libselinux that decides about labels, and `filecontexts` that asks it as little as possible.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from bootcd.model.errors import NotBootable, Unsupported
from bootcd.model.text import one_line
from bootcd.ostree.libostree import Gio, GLib, OSTree, host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostree.tree import Directory, read_tree
from bootcd.ostreefmt.filecontexts import Cell, FileContexts
from bootcd.ostreefmt.objects import parse_dirtree
from bootcd.ostreefmt.selinux import POLICY_DIRECTORY, parse_selinux_config

ReadFile = Callable[[bytes, int], bytes | None]
"Returns the content of a file by its checksum; None if it is no regular file or larger than a limit."

MAX_POLICY_BYTES = 64 << 20
_MAX_CONFIG_BYTES = 64 << 10
_PARTS = ("contexts", "policy")
"Of a policy's directory; the rest is what it was built from."
_CONTEXTS = "contexts/files"
_RULES = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
_SUBSTITUTIONS = ("file_contexts.subs", "file_contexts.subs_dist")
_MAX_CELLS = 100_000
_ROOT_MODE = stat.S_IFDIR | 0o755


class Policy:
    """The file contexts of one policy. `label` may be called from several threads."""

    def __init__(self, name: str, files: dict[str, bytes], scratch: Path) -> None:
        """Load a policy.

        Args:
            name: directory of the policy.
            files: content by path in that directory.
            scratch: existing directory to unpack them in for the moment.
        Raises:
            NotBootable: they make up no policy.
            Unsupported: libostree here knows nothing of SELinux.
        """
        self.identity = _identity(files)
        "Equal for policies that label alike."
        self._mutex = threading.Lock()
        self._labels: dict[tuple[Cell, int], bytes | None] = {}
        contexts = {path.rpartition("/")[2]: data for path, data in files.items()}
        try:
            self._contexts = FileContexts(
                (contexts[rules] for rules in _RULES if rules in contexts),
                (contexts[subs] for subs in _SUBSTITUTIONS if subs in contexts),
            )
        except ValueError as error:
            raise NotBootable(f"the SELinux policy {name} has {error}") from error
        with tempfile.TemporaryDirectory(prefix="bootcd-policy-", dir=scratch) as unpacked:
            directory = Path(unpacked) / POLICY_DIRECTORY
            _unpack(directory / name, files)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "config").write_text(f"SELINUX=enforcing\nSELINUXTYPE={name}\n")
            try:
                self._policy = OSTree.SePolicy.new(Gio.File.new_for_path(unpacked), None)
            except GLib.Error as error:
                message = one_line(error.message)
                raise NotBootable(f"the SELinux policy {name} cannot be loaded: {message}") from error
        if not self._policy.get_name():
            raise Unsupported(
                f"libostree of this host cannot give files the labels of the SELinux policy {name}",
                hint="install a libostree that is built with SELinux",
            )

    def label(self, path: str, mode: int) -> bytes | None:
        """Return the label of a path, its NUL included; None if the policy leaves it as it is.

        Args:
            path: relative to the root; empty for the root itself.
            mode: its file type counts.
        """
        absolute = f"/{path}"
        kind = stat.S_IFMT(mode)
        with self._mutex:
            cell = self._contexts.cell(absolute.encode())
            if cell is None:
                return self._ask(absolute, kind)
            key = (cell, kind)
            try:
                return self._labels[key]
            except KeyError:
                if len(self._labels) >= _MAX_CELLS:
                    self._labels.clear()
                label = self._labels[key] = self._ask(absolute, kind)
                return label

    def _ask(self, path: str, kind: int) -> bytes | None:
        with host_errors(f"find the SELinux label of {path[-80:]!r}"):
            _, label = self._policy.get_label(path, kind, None)
        return label.encode() + b"\0" if label else None


def read_policy(tree: Directory, read_file: ReadFile, scratch: Path) -> Policy | None:
    """Load the policy of a tree, None if it has none or has it turned off.

    Raises what `Policy` raises.
    """
    directory = tree.find(POLICY_DIRECTORY)
    return _read(directory, read_file, scratch) if directory else None


def read_policy_of(repository: Repository, commit: str) -> Policy | None:
    """Load the policy of a commit in the repository."""
    contents, meta, _ = repository.commit_root(commit)
    for part in POLICY_DIRECTORY.split("/"):
        _, directories = parse_dirtree(repository.read_dirtree(contents))
        found = next((entry for entry in directories if entry[0] == part), None)
        if found is None:
            return None
        _, contents, meta = found
    directory = read_tree(contents, meta, lambda _path, _meta: False, repository.read_dirtree)
    return _read(directory, repository.read_file, repository.scratch)


def _read(directory: Directory, read_file: ReadFile, scratch: Path) -> Policy | None:
    checksum = directory.files.get("config")
    config = read_file(checksum, _MAX_CONFIG_BYTES) if checksum else None
    name = parse_selinux_config(config.decode(errors="replace")) if config is not None else None
    if name is None:
        return None
    files: dict[str, bytes] = {}
    left = MAX_POLICY_BYTES
    for part in _PARTS:
        top = directory.find(f"{name}/{part}")
        for path, node in top.walk(part) if top else ():
            for file, checksum in node.files.items():
                # A compiled form is only for speed; without it, there is one truth.
                if file.endswith(".bin") and file.removesuffix(".bin") in node.files:
                    continue
                # Links are left out: they could lead anywhere.
                content = read_file(checksum, left)
                if content is not None:
                    files[f"{path}/{file}"] = content
                    left -= len(content)
    return Policy(name, files, scratch)


def _unpack(directory: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.utime(target, (0, 0))


def _identity(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.startswith(_CONTEXTS)):
        digest.update(f"{path}\0{len(files[path])}\0".encode())
        digest.update(files[path])
    return digest.hexdigest()
