"""The test operating system: bootable container images made from real Debian packages.

Everything that pulls, imports or deploys is tried on a whole system: more than ten thousand files,
a kernel with its modules, hard links, capabilities, set-id programs. It is built once per recipe
(this file) into `<repository>/.cache/os-image/<key>/`, an OCI image layout
(https://github.com/opencontainers/image-spec/blob/main/image-layout.md) with the tags

    v1      base (gzip), kernel (zstd), documentation (gzip), applications (gzip), configuration (tar)
    v2      v1 with the configuration layer replaced and one layer on top that changes, adds and
            deletes (white-outs, an opaque directory), with another initramfs
    v3      v2 with the configuration layer replaced again: same kernel and initramfs as v2
    other   another system on the layers of v1, to switch to

The packages come from wherever this machine's own apt configuration points. The kernel is real;
the initramfs is a tiny cpio archive, because nothing boots it: the simulated host has no firmware.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

SUITE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "polkitd", "udev", "kmod", "python3"),
    *("iproute2", "iputils-ping", "libcap2-bin", "openssh-server", "ca-certificates", "less", "nano"),
    *("manpages", "locales", "tzdata", "ostree", "e2fsprogs", "zstd", "curl"),
)
EPOCH = 1_700_000_000
"One time stamp for everything, so that the same packages give the same digests."
TAGS = ("v1", "v2", "v3", "other")
HOME = "usr/lib/test-os"
"Directory of files made here, chosen for what they are rather than for what they hold."

_ARCH = {"amd64": "amd64", "arm64": "arm64"}
_IMAGE_TYPE = "application/vnd.oci.image."
_SUFFIX = {"gzip": "tar+gzip", "zstd": "tar+zstd", "none": "tar"}
_TO_VAR = {"home": "var/home", "root": "var/roothome", "srv": "var/srv", "mnt": "var/mnt", "opt": "var/opt"}
_OF_ONE_HOST = ("etc/ssh/ssh_host_", "etc/apt/sources.list", "etc/ld.so.cache")
_DOCUMENTATION = tuple(f"usr/share/{name}/" for name in ("doc", "man", "info", "locale", "i18n"))


@dataclass(frozen=True, slots=True)
class OsImages:
    """The built layout; `kernel` is the kernel version all its images carry."""

    layout: Path
    kernel: str

    async def push(self, tag: str, registry: str, repository: str, as_tag: str = "") -> str:
        """Copy an image to `registry` (`host:port`, plain HTTP) with skopeo and return its digest."""
        target = f"docker://{registry}/{repository}:{as_tag or tag}"
        await push(self.layout, tag, target)
        return self.digest(tag)

    def digest(self, tag: str) -> str:
        index = json.loads((self.layout / "index.json").read_text())
        for entry in index["manifests"]:
            if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
                return str(entry["digest"])
        raise KeyError(tag)


async def push(layout: Path, tag: str, target: str) -> None:
    """Copy `oci:layout:tag` to a skopeo destination, digests unchanged."""
    process = await asyncio.create_subprocess_exec(
        *("skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"),
        *(f"oci:{layout}:{tag}", target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"skopeo copy to {target} failed: {output.decode().strip()}")


def cached_os_images(cache: Path, *, say: Callable[[str], None] = lambda _: None) -> OsImages:
    """Return the images from `cache`, building them first if this recipe has not been built.

    Blocks for about a minute when it builds; only one of several processes does. Needs root.
    """
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    final = cache / key
    if not final.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.exists():
                say("Once: a test operating system is built from Debian packages, in about a minute")
                work = cache / f"{key}.tmp"
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                try:
                    _build(work)
                    work.rename(final)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    return OsImages(final, (final / "kernel-version").read_text())


# A tree is a dict from path (no leading or trailing slash) to one entry.


@dataclass(slots=True)
class _Node:
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


_Tree = dict[str, _Node]


def _file(content: bytes | str, mode: int = 0o644, **xattrs: str) -> _Node:
    data = content.encode() if isinstance(content, str) else content
    return _Node(
        tarfile.REGTYPE, mode, content=data, xattrs={k.replace("_", "."): v for k, v in xattrs.items()}
    )


def _directory(mode: int = 0o755) -> _Node:
    return _Node(tarfile.DIRTYPE, mode)


def _link(target: str) -> _Node:
    return _Node(tarfile.SYMTYPE, 0o777, target=target)


def _build(work: Path) -> None:
    archive = work / "bootstrap.tar"
    _bootstrap(archive)
    tree = _read_archive(archive)
    packages = _package_of_path(archive, tree)
    kernel = _make_bootable(tree)
    parts = _split(tree, packages)
    store = _Layout(work, archive)

    with ThreadPoolExecutor(max_workers=2) as pool:
        compressions = {"base": "gzip", "applications": "gzip", "kernel": "zstd", "documentation": "gzip"}
        running = {
            name: pool.submit(store.add_layer, tree, parts[name], compression)
            for name, compression in compressions.items()
        }
        common = [running[name].result() for name in ("base", "kernel", "documentation", "applications")]

    configured: dict[str, _Layer] = {}
    for tag in TAGS:
        variant = tree | _configuration(tag)
        paths = parts["configuration"] | _configuration(tag).keys()
        configured[tag] = store.add_layer(variant, paths, "none")
    update = _update_layer(tree, kernel)
    changes = store.add_layer(tree | update, update.keys(), "gzip")

    store.add_image("v1", [*common, configured["v1"]], "1.0")
    store.add_image("v2", [*common, configured["v2"], changes], "2.0")
    store.add_image("v3", [*common, configured["v3"], changes], "3.0")
    store.add_image("other", [*common, configured["other"]], "1.0-other")
    store.write_index()
    (work / "kernel-version").write_text(kernel)
    archive.unlink()


def _bootstrap(archive: Path) -> None:
    sources = [str(path) for path in _apt_sources()]
    if not sources:
        raise RuntimeError(f"no file in /etc/apt names a source of Debian packages with the suite {SUITE}")
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar"]
    command += [f"--include={','.join(PACKAGES)}", SUITE, str(archive), *sources]
    # INITRD=No keeps the kernel package from building an initramfs nobody boots.
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "INITRD": "No", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{done.stderr[-4000:]}")


def _apt_sources(etc: Path = Path("/etc/apt")) -> list[Path]:
    """Return this machine's own lists of Debian's packages, whatever they are called; see sources.list(5).

    Lists of third parties have suites of other names.
    """
    suites = {SUITE, f"{SUITE}-updates", f"{SUITE}-security"}
    candidates = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found = []
    for path in candidates:
        if path.suffix in (".list", ".sources") and path.is_file():
            words = {
                word
                for line in path.read_text(errors="replace").splitlines()
                for word in line.partition("#")[0].split()
            }
            if "main" in words and suites & words:
                found.append(path)
    return found


def _read_archive(archive: Path) -> _Tree:
    tree: _Tree = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            if path in ("", "."):
                continue
            node = _Node(member.type, member.mode, member.uid, member.gid, member.linkname)
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


def _read(archive: Path, node: _Node) -> bytes:
    if isinstance(node.content, bytes):
        return node.content
    with archive.open("rb") as stream:
        stream.seek(node.content[0])
        return stream.read(node.content[1])


def _package_of_path(archive: Path, tree: _Tree) -> dict[str, str]:
    """Return for each path the part of the system its package belongs to: `base` or `applications`."""
    status = _read(archive, tree["var/lib/dpkg/status"]).decode()
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
            for line in _read(archive, node).decode().splitlines():
                owned = line.strip("/")
                merged = (
                    f"usr/{owned}" if owned.partition("/")[0] in ("bin", "sbin", "lib", "lib64") else owned
                )
                found[merged] = part_of[package]
    return found


def _make_bootable(tree: _Tree) -> str:
    """Turn a Debian root into what an ostree host expects, and return the kernel version."""
    (kernel,) = {
        path.split("/")[3] for path in tree if path.startswith("usr/lib/modules/") and path.count("/") > 3
    }
    tree[f"usr/lib/modules/{kernel}/vmlinuz"] = tree[f"boot/vmlinuz-{kernel}"]
    tree[f"usr/lib/modules/{kernel}/initramfs.img"] = _file(_initramfs("1"))
    for path in list(tree):
        top, _, rest = path.partition("/")
        gone = rest and (top in ("boot", "var", "proc", "sys", *_TO_VAR) or path.startswith(_OF_ONE_HOST))
        if gone or (not rest and path.startswith(("vmlinuz", "initrd.img"))):
            del tree[path]
    tree |= {path: _link(target) for path, target in _TO_VAR.items()}
    tree |= {
        "sysroot": _directory(),
        "ostree": _link("sysroot/ostree"),
        "boot": _directory(),
        "var/lib": _directory(),
        "var/tmp": _directory(0o1777),
        # What a container build leaves behind: files its runtime mounted over.
        "etc/hostname": _file(""),
        "etc/resolv.conf": _file(""),
        "etc/machine-id": _file(""),
    }
    return kernel


def _initramfs(mark: str) -> bytes:
    """Return a gzipped cpio archive (newc) with one small file."""
    archive = io.BytesIO()
    for name, data in (("mark", mark.encode()), ("TRAILER!!!", b"")):
        fields = (0, 0o100644, 0, 0, 1, EPOCH, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive.write(b"070701" + b"".join(b"%08X" % number for number in fields) + name.encode() + b"\0")
        archive.write(b"\0" * (-archive.tell() % 4) + data)
        archive.write(b"\0" * (-archive.tell() % 4))
    return gzip.compress(archive.getvalue(), mtime=0)


def _split(tree: _Tree, packages: Mapping[str, str]) -> dict[str, set[str]]:
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


def _configuration(tag: str) -> _Tree:
    """Return the files made here that every image has, in the version of `tag`."""
    ids = {"v1": ("test-os", "1"), "v2": ("test-os", "2"), "v3": ("test-os", "3"), "other": ("other-os", "1")}
    name, version = ids[tag]
    release = (
        f'ID={name}\nID_LIKE=debian\nNAME="{name}"\nVERSION_ID={version}\nPRETTY_NAME="{name} {version}"\n'
    )
    kargs = ["console=ttyS0"] + (["quiet"] if version != "1" else [])
    return {
        "usr/lib/os-release": _file(release),
        "usr/lib/bootc": _directory(),
        "usr/lib/bootc/kargs.d": _directory(),
        "usr/lib/bootc/kargs.d/10-test.toml": _file(f"kargs = {json.dumps(kargs)}\n"),
        "usr/lib/tmpfiles.d/test-os.conf": _file(
            "d /var/home 0755 root root -\nd /var/roothome 0700 root root -\n"
        ),
        "etc/test-os.conf": _file(f"version={version}\n"),
        "etc/test-os-removed-in-v2.conf": _file("gone soon\n"),
        HOME: _directory(),
        f"{HOME}/größe 日本": _file("a name that is not ASCII, with a blank\n"),
        f"{HOME}/{'n' * 200}": _directory(0o711),
        f"{HOME}/{'n' * 200}/{'m' * 200}": _file("a path longer than a ustar header holds\n"),
        f"{HOME}/attributes": _file("extended attributes\n", 0o640, user_test="value", user_other="zwölf"),
        f"{HOME}/set-id": _Node(tarfile.REGTYPE, 0o6755, 1000, 1000, content=b"#!/bin/sh\n"),
        f"{HOME}/sticky": _directory(0o1777),
        f"{HOME}/original": _file("three names, one file\n"),
        f"{HOME}/second-name": _Node(tarfile.LNKTYPE, 0o644, target=f"{HOME}/original"),
        f"{HOME}/sticky/third-name": _Node(tarfile.LNKTYPE, 0o644, target=f"{HOME}/original"),
        f"{HOME}/dangling": _link("/nowhere/at/all"),
        f"{HOME}/empty": _file(""),
        f"{HOME}/shape-file": _file("becomes a directory\n"),
        f"{HOME}/shape-directory": _directory(),
        f"{HOME}/shape-directory/inner": _file("disappears with its directory\n"),
        f"{HOME}/shape-link": _link("original"),
        f"{HOME}/opaque": _directory(),
        f"{HOME}/opaque/hidden": _file("hidden by the opaque mark\n"),
        f"{HOME}/opaque/deep": _directory(),
        f"{HOME}/opaque/deep/hidden": _file("hidden too\n"),
    }


def _update_layer(tree: _Tree, kernel: str) -> _Tree:
    """Return the layer that makes v2 of v1, white-outs included as plain entries."""
    documents = sorted(
        path for path, node in tree.items() if path.startswith("usr/share/doc/lib") and path.count("/") == 3
    )
    layer: _Tree = {
        f"usr/lib/modules/{kernel}/initramfs.img": _file(_initramfs("2")),
        "etc/motd": _file("Welcome to version 2\n"),
        "etc/.wh.test-os-removed-in-v2.conf": _file(""),
        "usr/bin/.wh.nano": _file(""),
        "usr/bin/less": _Node(tree["usr/bin/less"].kind, 0o700, content=tree["usr/bin/less"].content),
        f"{HOME}/shape-file": _directory(),
        f"{HOME}/shape-file/inner": _file("was a file\n"),
        f"{HOME}/shape-directory": _file("was a directory\n"),
        f"{HOME}/shape-link": _file("was a link\n"),
        f"{HOME}/opaque": _directory(0o750),
        # The mark comes last on purpose: it hides lower layers whatever its place in the archive.
        f"{HOME}/opaque/added": _file("visible in the opaque directory\n"),
        f"{HOME}/opaque/.wh..wh..opq": _file(""),
        f"{HOME}/added": _directory(),
    }
    layer |= {f"{HOME}/added/{number:04}": _file(f"added file {number}\n" * number) for number in range(300)}
    layer |= {f"usr/share/doc/.wh.{path.rpartition('/')[2]}": _file("") for path in documents[:5]}
    changed = [p for p in sorted(tree) if p.startswith("usr/share/perl/") and p.endswith(".pm")][:50]
    layer |= {path: _file(f"# {path} of version 2\n1;\n") for path in changed}
    return layer


@dataclass(frozen=True, slots=True)
class _Layer:
    descriptor: dict[str, Any]
    diff_id: str


class _Layout:
    """An OCI image layout being written."""

    def __init__(self, root: Path, archive: Path) -> None:
        self._root = root
        self._archive = archive
        self._manifests: list[dict[str, Any]] = []
        (root / "blobs/sha256").mkdir(parents=True)

    def add_layer(self, tree: _Tree, paths: Iterable[str], compression: str) -> _Layer:
        wanted = set(paths)
        parents = {parent for path in wanted for parent in _parents(path)}
        ordered = [path for path in sorted(wanted | parents) if path in tree]
        # A hard link can only follow the name it refers to.
        ordered.sort(key=lambda path: tree[path].kind == tarfile.LNKTYPE)
        partial = self._root / f"layer-{hashlib.sha256(repr(ordered).encode()).hexdigest()}-{compression}"
        command = {"gzip": ["gzip", "-n", "-5"], "zstd": ["zstd", "-q", "-3"], "none": ["cat"]}[compression]
        with partial.open("wb") as output, self._archive.open("rb") as archive:
            packer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
            assert packer.stdin is not None
            hashed = _HashingWriter(packer.stdin)
            with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for path in ordered:
                    _write_node(tar, path, tree[path], archive)
            packer.stdin.close()
            if packer.wait():
                raise RuntimeError(f"{command[0]} failed")
        descriptor = self._adopt(partial, f"{_IMAGE_TYPE}layer.v1.{_SUFFIX[compression]}")
        return _Layer(descriptor, f"sha256:{hashed.hash.hexdigest()}")

    def add_image(self, tag: str, layers: list[_Layer], version: str) -> None:
        created = "2023-11-14T22:13:20Z"
        labels = {
            "containers.bootc": "1",
            "ostree.bootable": "1",
            "org.opencontainers.image.version": version,
        }
        config = {
            "created": created,
            "architecture": _ARCH[_output("dpkg", "--print-architecture")],
            "os": "linux",
            "config": {"Labels": labels, "Cmd": ["/sbin/init"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": "test recipe"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE_TYPE}manifest.v1+json",
            "config": self._add_json(config, f"{_IMAGE_TYPE}config.v1+json"),
            "layers": [layer.descriptor for layer in layers],
        }
        descriptor = self._add_json(manifest, f"{_IMAGE_TYPE}manifest.v1+json")
        self._manifests.append(descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}})

    def write_index(self) -> None:
        (self._root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self._root / "index.json").write_text(json.dumps(index))

    def _add_json(self, document: Any, media_type: str) -> dict[str, Any]:
        partial = self._root / "document"
        partial.write_text(json.dumps(document))
        return self._adopt(partial, media_type)

    def _adopt(self, partial: Path, media_type: str) -> dict[str, Any]:
        with partial.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
        partial.rename(self._root / "blobs/sha256" / checksum)
        return {"mediaType": media_type, "digest": f"sha256:{checksum}", "size": size}


def _write_node(tar: tarfile.TarFile, path: str, node: _Node, archive: BinaryIO) -> None:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.gid, info.linkname = (
        node.kind,
        node.mode,
        node.uid,
        node.gid,
        node.target,
    )
    info.mtime = EPOCH
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in sorted(node.xattrs.items())}
    if node.kind != tarfile.REGTYPE:
        tar.addfile(info)
        return
    info.size = node.size
    if isinstance(node.content, bytes):
        tar.addfile(info, io.BytesIO(node.content))
    else:
        archive.seek(node.content[0])
        tar.addfile(info, archive)


class _HashingWriter:
    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self._sink.write(data)
        return len(data)


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
