"""The test operating system: bootable container images made from real Debian packages.

Everything that pulls, imports or deploys is tried on a whole system: more than ten thousand files,
a kernel with its modules, hard links, capabilities, set-id programs. It is built once per recipe
(this file and the two it rests on) into `<repository>/.cache/os-image/<key>/`, an OCI image layout
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

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import debian_tree, image_layout
from tests.support.debian_tree import (
    EPOCH,
    FileTree,
    Node,
    apt_sources,
    bootstrap,
    directory,
    file,
    link,
    make_bootable,
    parts_of_packages,
    read_archive,
    split,
)
from tests.support.image_layout import Layer, Layout, OsImages, built_once, recipe_key

SUITE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "polkitd", "udev", "kmod", "python3"),
    *("iproute2", "iputils-ping", "libcap2-bin", "openssh-server", "ca-certificates", "less", "nano"),
    *("manpages", "locales", "tzdata", "ostree", "e2fsprogs", "zstd", "curl"),
)
TAGS = ("v1", "v2", "v3", "other")
HOME = "usr/lib/test-os"
"Directory of files made here, chosen for what they are rather than for what they hold."


def cached_os_images(cache: Path, *, say: Callable[[str], None] = lambda _: None) -> OsImages:
    """Return the images from `cache`, building them first if this recipe has not been built.

    Blocks for about a minute when it builds; only one of several processes does. Needs root.
    """
    final = cache / recipe_key(*map(Path, (__file__, debian_tree.__file__, image_layout.__file__)))
    notice = "Once: a test operating system is built from Debian packages, in about a minute"
    built_once(final, _build, lambda: say(notice))
    return OsImages(final, (final / "kernel-version").read_text())


def _build(work: Path) -> None:
    archive = work / "bootstrap.tar"
    sources = [str(path) for path in apt_sources(SUITE)]
    bootstrap(archive, SUITE, PACKAGES, sources, initrd=False)
    tree = read_archive(archive)
    packages = parts_of_packages(archive, tree)
    kernel = make_bootable(tree, file(_initramfs("1")))
    parts = split(tree, packages)
    store = Layout(work, archive)

    with ThreadPoolExecutor(max_workers=2) as pool:
        compressions = {"base": "gzip", "applications": "gzip", "kernel": "zstd", "documentation": "gzip"}
        running = {
            name: pool.submit(store.add_layer, tree, parts[name], compression)
            for name, compression in compressions.items()
        }
        common = [running[name].result() for name in ("base", "kernel", "documentation", "applications")]

    configured: dict[str, Layer] = {}
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


def _initramfs(mark: str) -> bytes:
    """Return a gzipped cpio archive (newc) with one small file."""
    archive = io.BytesIO()
    for name, data in (("mark", mark.encode()), ("TRAILER!!!", b"")):
        fields = (0, 0o100644, 0, 0, 1, EPOCH, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive.write(b"070701" + b"".join(b"%08X" % number for number in fields) + name.encode() + b"\0")
        archive.write(b"\0" * (-archive.tell() % 4) + data)
        archive.write(b"\0" * (-archive.tell() % 4))
    return gzip.compress(archive.getvalue(), mtime=0)


def _configuration(tag: str) -> FileTree:
    """Return the files made here that every image has, in the version of `tag`."""
    ids = {"v1": ("test-os", "1"), "v2": ("test-os", "2"), "v3": ("test-os", "3"), "other": ("other-os", "1")}
    name, version = ids[tag]
    release = (
        f'ID={name}\nID_LIKE=debian\nNAME="{name}"\nVERSION_ID={version}\nPRETTY_NAME="{name} {version}"\n'
    )
    kargs = ["console=ttyS0"] + (["quiet"] if version != "1" else [])
    return {
        "usr/lib/os-release": file(release),
        "usr/lib/bootc": directory(),
        "usr/lib/bootc/kargs.d": directory(),
        "usr/lib/bootc/kargs.d/10-test.toml": file(f"kargs = {json.dumps(kargs)}\n"),
        "usr/lib/tmpfiles.d/test-os.conf": file(
            "d /var/home 0755 root root -\nd /var/roothome 0700 root root -\n"
        ),
        "etc/test-os.conf": file(f"version={version}\n"),
        "etc/test-os-removed-in-v2.conf": file("gone soon\n"),
        HOME: directory(),
        f"{HOME}/größe 日本": file("a name that is not ASCII, with a blank\n"),
        f"{HOME}/{'n' * 200}": directory(0o711),
        f"{HOME}/{'n' * 200}/{'m' * 200}": file("a path longer than a ustar header holds\n"),
        f"{HOME}/attributes": file("extended attributes\n", 0o640, user_test="value", user_other="zwölf"),
        f"{HOME}/set-id": Node(tarfile.REGTYPE, 0o6755, 1000, 1000, content=b"#!/bin/sh\n"),
        f"{HOME}/sticky": directory(0o1777),
        f"{HOME}/original": file("three names, one file\n"),
        f"{HOME}/second-name": Node(tarfile.LNKTYPE, 0o644, target=f"{HOME}/original"),
        f"{HOME}/sticky/third-name": Node(tarfile.LNKTYPE, 0o644, target=f"{HOME}/original"),
        f"{HOME}/dangling": link("/nowhere/at/all"),
        f"{HOME}/empty": file(""),
        f"{HOME}/shape-file": file("becomes a directory\n"),
        f"{HOME}/shape-directory": directory(),
        f"{HOME}/shape-directory/inner": file("disappears with its directory\n"),
        f"{HOME}/shape-link": link("original"),
        f"{HOME}/opaque": directory(),
        f"{HOME}/opaque/hidden": file("hidden by the opaque mark\n"),
        f"{HOME}/opaque/deep": directory(),
        f"{HOME}/opaque/deep/hidden": file("hidden too\n"),
    }


def _update_layer(tree: FileTree, kernel: str) -> FileTree:
    """Return the layer that makes v2 of v1, white-outs included as plain entries."""
    documents = sorted(
        path for path, node in tree.items() if path.startswith("usr/share/doc/lib") and path.count("/") == 3
    )
    layer: FileTree = {
        f"usr/lib/modules/{kernel}/initramfs.img": file(_initramfs("2")),
        "etc/motd": file("Welcome to version 2\n"),
        "etc/.wh.test-os-removed-in-v2.conf": file(""),
        "usr/bin/.wh.nano": file(""),
        "usr/bin/less": Node(tree["usr/bin/less"].kind, 0o700, content=tree["usr/bin/less"].content),
        f"{HOME}/shape-file": directory(),
        f"{HOME}/shape-file/inner": file("was a file\n"),
        f"{HOME}/shape-directory": file("was a directory\n"),
        f"{HOME}/shape-link": file("was a link\n"),
        f"{HOME}/opaque": directory(0o750),
        # The mark comes last on purpose: it hides lower layers whatever its place in the archive.
        f"{HOME}/opaque/added": file("visible in the opaque directory\n"),
        f"{HOME}/opaque/.wh..wh..opq": file(""),
        f"{HOME}/added": directory(),
    }
    layer |= {f"{HOME}/added/{number:04}": file(f"added file {number}\n" * number) for number in range(300)}
    layer |= {f"usr/share/doc/.wh.{path.rpartition('/')[2]}": file("") for path in documents[:5]}
    changed = [p for p in sorted(tree) if p.startswith("usr/share/perl/") and p.endswith(".pm")][:50]
    layer |= {path: file(f"# {path} of version 2\n1;\n") for path in changed}
    return layer
