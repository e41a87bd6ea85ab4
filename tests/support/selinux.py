"""SELinux policies for test images, and what libselinux itself says a file's label is.

A small policy has a handful of rules and says nothing of access: labelling reads its file contexts alone.
Debian's own has thousands, built once from its package with the tools of the package's own installation.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.oci_image import Entry, directory, file

RULES = """\
/.*                                 system_u:object_r:default_t:s0
/                               -d  system_u:object_r:root_t:s0
/usr(/.*)?                          system_u:object_r:usr_t:s0
/usr/etc(/.*)?                      system_u:object_r:image_etc_t:s0
/usr/(s)?bin(/.*)?                  system_u:object_r:bin_t:s0
/usr/bin/su                     --  system_u:object_r:su_exec_t:s0
/usr/bin/[^/]+-link             -l  system_u:object_r:link_t:s0
/usr/lib(/.*)?                      system_u:object_r:lib_t:s0
/usr/lib(64)?/.*\\.so(\\.[^/]*)*  --  system_u:object_r:textrel_t:s0
/usr/share/nothing(/.*)?            <<none>>
/var(/.*)?                          system_u:object_r:var_t:s0
"""
SUBSTITUTIONS = "/usr/lib64 /usr/lib\n/opt /usr\n"
SELINUX_CONFIG = "SELINUX=enforcing\nSELINUXTYPE=test\n"
LABEL = "security.selinux"


def policy_files(rules: str = RULES, *, config: str = SELINUX_CONFIG, name: str = "test") -> dict[str, bytes]:
    """Return the content of /etc/selinux by path in it."""
    contexts = f"{name}/contexts/files"
    return {
        "config": config.encode(),
        f"{contexts}/file_contexts": rules.encode(),
        f"{contexts}/file_contexts.subs_dist": SUBSTITUTIONS.encode(),
        f"{name}/policy/policy.33": b"decides about access, not about labels\n",
    }


def policy_entries(files: Mapping[str, bytes]) -> list[Entry]:
    """Return archive entries that bring a policy into an image."""
    return [directory("etc/selinux"), *(file(f"etc/selinux/{path}", data) for path, data in files.items())]


def write_policy(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write a policy below `root`/etc/selinux; returns `root`."""
    for path, data in files.items():
        target = root / "etc/selinux" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        os.utime(target, (0, 0))
    return root


def debian_policy(cache: Path) -> dict[str, bytes]:
    """Return Debian's policy, from `cache` or built first, which takes half a minute."""
    final = cache / "debian-12"
    if not final.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.exists():
                work = cache / "work"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                _build(work)
                (work / "etc/selinux").rename(final)
                shutil.rmtree(work)
    files = {str(path.relative_to(final)): path.read_bytes() for path in final.rglob("*") if path.is_file()}
    return {**files, "config": b"SELINUX=enforcing\nSELINUXTYPE=default\n"}


def _build(work: Path) -> None:
    run = {"cwd": work, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Not as the user apt has for downloads: it cannot write here.
    subprocess.run(["apt-get", "-oAPT::Sandbox::User=root", "download", "selinux-policy-default"], **run)
    (package,) = work.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, work], **run)
    (work / "etc/selinux/config").write_text("SELINUX=permissive\nSELINUXTYPE=default\n")
    modules = work / "usr/share/selinux/default"
    names = (modules / ".modules").read_text().split()
    install = [f"--install={modules}/{name}.pp.bz2" for name in names]
    command = ["semodule", "--priority=100", "--noreload", f"--path={work}", "--store=default"]
    subprocess.run([*command, *install], **run)


class Oracle:
    """libselinux asked directly, without libostree and without any memory of answers."""

    def __init__(self, file_contexts: Path) -> None:
        class Option(ctypes.Structure):
            _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_char_p))

        self._library = ctypes.CDLL("libselinux.so.1", use_errno=True)
        self._library.selabel_open.restype = ctypes.c_void_p
        self._library.selabel_lookup_raw.argtypes = [
            *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_int)
        ]
        self._library.freecon.argtypes = [ctypes.c_void_p]
        path = Option(3, os.fspath(file_contexts).encode())  # SELABEL_OPT_PATH
        self._handle = self._library.selabel_open(0, ctypes.byref(path), 1)
        if not self._handle:
            raise OSError(ctypes.get_errno(), f"no policy in {file_contexts}")

    def label(self, path: str, mode: int) -> bytes | None:
        """Return the label of an absolute path with its NUL, None if it has none."""
        found = ctypes.c_void_p()
        if self._library.selabel_lookup_raw(self._handle, ctypes.byref(found), path.encode(), mode):
            return None
        label = ctypes.string_at(found.value or 0)
        self._library.freecon(found)
        return label + b"\0"

    def differences(self, root: Path, paths: Iterable[str] | None = None) -> list[str]:
        """Compare the labels of all files below a directory, itself among them, with the policy's."""
        found = []
        for path in _all_paths(root) if paths is None else paths:
            place = root / path
            # Where the policy has nothing for it, libostree takes the label of another mount point.
            want = self.label("/mnt" if path == "proc" else f"/{path}", place.lstat().st_mode)
            have = label_on_disk(place)
            if want != have:
                found.append(f"/{path}: {have!r}, not {want!r}")
        return found


def label_on_disk(place: Path) -> bytes | None:
    names = os.listxattr(place, follow_symlinks=False)
    return os.getxattr(place, LABEL, follow_symlinks=False) if LABEL in names else None


def _all_paths(root: Path) -> Iterable[str]:
    yield ""
    for directory_path, directories, files in os.walk(root):
        prefix = os.path.relpath(directory_path, root)
        for name in directories + files:
            yield name if prefix == "." else f"{prefix}/{name}"
