"""A Debian root file system as a tree of entries: made by mmdebstrap, turned into what ostree hosts expect.

A tree is a dict from path (no leading or trailing slash) to one entry. What packages ship stays in the
bootstrap archive and is read from there when a layer is written.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1_700_000_000
"One time stamp for everything, so that the same packages give the same digests."
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_TO_VAR = {"home": "var/home", "root": "var/roothome", "srv": "var/srv", "mnt": "var/mnt", "opt": "var/opt"}
_OF_ONE_HOST = ("etc/ssh/ssh_host_", "etc/apt/sources.list", "etc/ld.so.cache")
_DOCUMENTATION = tuple(f"usr/share/{name}/" for name in ("doc", "man", "info", "locale", "i18n"))


@dataclass(slots=True)
class Node:
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    target: str = ""
    content: bytes | tuple[int, int] = b""
    "Bytes made here, or offset and size in the bootstrap archive."
    xattrs: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content[1]


FileTree = dict[str, Node]


def file(content: bytes | str, mode: int = 0o644, **xattrs: str) -> Node:
    data = content.encode() if isinstance(content, str) else content
    return Node(
        tarfile.REGTYPE, mode, content=data, xattrs={k.replace("_", "."): v for k, v in xattrs.items()}
    )


def directory(mode: int = 0o755) -> Node:
    return Node(tarfile.DIRTYPE, mode)


def link(target: str) -> Node:
    return Node(tarfile.SYMTYPE, 0o777, target=target)


def bootstrap(
    archive: Path, suite: str, packages: Sequence[str], sources: Sequence[str], *options: str, initrd: bool
) -> None:
    """Make the root file system of `suite` with these packages.

    `sources` are lines or files of sources.list(5). Without `initrd`, the kernel package builds no initramfs.
    """
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar", *options]
    command += [f"--include={','.join(packages)}", suite, str(archive), *sources]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"}
    if not initrd:
        environment["INITRD"] = "No"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{done.stderr[-4000:]}")


def apt_sources(suite: str, etc: Path = Path("/etc/apt")) -> list[Path]:
    """Return this machine's own lists of Debian's packages, whatever they are called; see sources.list(5).

    Lists of third parties have suites of other names. Raises RuntimeError if there is none.
    """
    suites = {suite, f"{suite}-updates", f"{suite}-security"}
    candidates = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found = []
    for path in candidates:
        if path.suffix in (".list", ".sources") and path.is_file():
            words = _words(path)
            if "main" in words and suites & words:
                found.append(path)
    if not found:
        raise RuntimeError(f"no file in /etc/apt names a source of Debian packages with the suite {suite}")
    return found


def mirror(suite: str, etc: Path = Path("/etc/apt")) -> str:
    """Return the address from which this machine gets a Debian suite; others are at the same place.

    Security updates come from elsewhere, where there are no others. Raises RuntimeError if there is none.
    """
    for path in apt_sources(suite, etc):
        for stanza in path.read_text(errors="replace").split("\n\n" if path.suffix == ".sources" else "\n"):
            words = [word for line in stanza.splitlines() for word in line.partition("#")[0].split()]
            if suite in words and "main" in words:
                return next(word for word in words if "://" in word)
    raise RuntimeError(f"no file in /etc/apt names a mirror with the suite {suite}")


def _words(path: Path) -> set[str]:
    lines = path.read_text(errors="replace").splitlines()
    return {word for line in lines for word in line.partition("#")[0].split()}


def read_archive(archive: Path) -> FileTree:
    tree: FileTree = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            if path in ("", "."):
                continue
            node = Node(member.type, member.mode, member.uid, member.gid, member.linkname)
            if member.isreg():
                node.content = (member.offset_data, member.size)
            if member.islnk():
                node.target = member.linkname.removeprefix("./")
            node.xattrs = {
                key.removeprefix("SCHILY.xattr."): value
                for key, value in member.pax_headers.items()
                if key.startswith("SCHILY.xattr.")
            }
            tree[path] = node
    return tree


def read(archive: Path, node: Node) -> bytes:
    if isinstance(node.content, bytes):
        return node.content
    with archive.open("rb") as stream:
        stream.seek(node.content[0])
        return stream.read(node.content[1])


def extract(archive: Path, tree: FileTree, target: Path) -> None:
    """Write a part of an archive's tree below a directory."""
    for path, node in sorted(tree.items(), key=lambda item: item[1].kind == tarfile.LNKTYPE):
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if node.kind == tarfile.DIRTYPE:
            place.mkdir(exist_ok=True)
        elif node.kind == tarfile.SYMTYPE:
            place.symlink_to(node.target)
        elif node.kind == tarfile.LNKTYPE:
            place.hardlink_to(target / node.target)
        else:
            place.write_bytes(read(archive, node))
            place.chmod(node.mode)


def scan(root: Path) -> FileTree:
    """Return what is below a directory, as root owns it."""
    tree: FileTree = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            node = link(str(path.readlink()))
        elif path.is_dir():
            node = directory(mode)
        else:
            node = file(path.read_bytes(), mode)
        tree[str(path.relative_to(root))] = node
    return tree


def parts_of_packages(archive: Path, tree: FileTree) -> dict[str, str]:
    """Return for each path the part of the system its package belongs to: `base` or `applications`."""
    status = read(archive, tree["var/lib/dpkg/status"]).decode()
    part_of: dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " "
        )
        if "Package" in fields:
            is_base = fields.get("Priority") in ("required", "important") or fields.get("Section") == "libs"
            part_of[fields["Package"]] = "base" if is_base else "applications"
    found: dict[str, str] = {}
    for path, node in tree.items():
        if path.startswith("var/lib/dpkg/info/") and path.endswith(".list"):
            package = path.rpartition("/")[2].removesuffix(".list").partition(":")[0]
            for line in read(archive, node).decode().splitlines():
                owned = line.strip("/")
                merged = (
                    f"usr/{owned}" if owned.partition("/")[0] in ("bin", "sbin", "lib", "lib64") else owned
                )
                found[merged] = part_of[package]
    return found


def make_bootable(tree: FileTree, initramfs: Node | None = None) -> str:
    """Turn a Debian root into what an ostree host expects, and return the kernel version.

    Its initramfs is the one its kernel package built, unless another is given.
    """
    (kernel,) = {
        path.split("/")[3] for path in tree if path.startswith("usr/lib/modules/") and path.count("/") > 3
    }
    tree[f"usr/lib/modules/{kernel}/vmlinuz"] = tree[f"boot/vmlinuz-{kernel}"]
    tree[f"usr/lib/modules/{kernel}/initramfs.img"] = initramfs or tree[f"boot/initrd.img-{kernel}"]
    for path, node in tree.items():
        if node.kind == tarfile.LNKTYPE and node.target.startswith("boot/"):
            tree[path] = tree[node.target]
    for path in list(tree):
        top, _, rest = path.partition("/")
        gone = rest and (top in ("boot", "var", "proc", "sys", *_TO_VAR) or path.startswith(_OF_ONE_HOST))
        if gone or (not rest and path.startswith(("vmlinuz", "initrd.img"))):
            del tree[path]
    tree |= {path: link(target) for path, target in _TO_VAR.items()}
    tree |= {
        "sysroot": directory(),
        "ostree": link("sysroot/ostree"),
        "boot": directory(),
        "var/lib": directory(),
        "var/tmp": directory(0o1777),
        # What a container build leaves behind: files its runtime mounted over.
        "etc/hostname": file(""),
        "etc/resolv.conf": file(""),
        "etc/machine-id": file(""),
    }
    return kernel


def split(tree: FileTree, packages: Mapping[str, str]) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {
        name: set() for name in ("base", "kernel", "documentation", "applications", "configuration")
    }
    for path, node in tree.items():
        # A hard link goes where its first name is: a layer must not refer to another one.
        name = node.target if node.kind == tarfile.LNKTYPE else path
        if name.startswith("usr/lib/modules/"):
            part = "kernel"
        elif name.startswith(_DOCUMENTATION):
            part = "documentation"
        elif name.startswith("etc/"):
            part = "configuration"
        else:
            # What no package owns was made at installation, such as compiled Python modules.
            part = packages.get(name, "applications" if name.startswith("usr/") else "base")
        parts[part].add(path)
    return parts
