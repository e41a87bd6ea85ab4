"""An operating system that boots: container images of Debian testing with bootcd in them.

bootcd is installed as a distribution would: `make install`, its Python dependencies and libostree from
packages, its unit enabled by preset. Built in two steps, so that a change of the code rebuilds only the
small layers, below `<repository>/.cache/vm-image/`:

    base-<key>      layers of packages: base (gzip), kernel with an initramfs by dracut (zstd), applications
                    (gzip), their /etc (tar)
    images-<key>    an OCI image layout of these, of a layer with bootcd, and of what this recipe adds

    v1      the system that is installed
    v2      other kernel arguments, a payload that takes a while to pull, a removed file
    v3      like v2, and broken: it boots, and boot-complete.target is never reached
    v4      like v2, and its kernel panics, for want of a first process
    other   another system on the layers of v1, to switch to

Users are `root` and `person`, both with the password `test` and the key of `Images.key` (that of root
comes with the installation). Everything the product needs to know of its test is in `_settings`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support import debian_tree, image_layout
from tests.support.debian_tree import (
    KEYRING,
    FileTree,
    bootstrap,
    directory,
    extract,
    file,
    link,
    make_bootable,
    mirror,
    parts_of_packages,
    read_archive,
    scan,
    split,
)
from tests.support.image_layout import Layer, Layout, OsImages, built_once, recipe_key

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "forky"
HOST_SUITE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "udev", "kmod", "e2fsprogs", "zstd"),
    *("dracut", "ostree", "ostree-boot", "grub-efi-amd64-bin", "grub-common", "grub2-common"),
    *("systemd-boot-efi", "systemd-boot-tools"),
    *("libpam-systemd", "polkitd", "passwd", "login", "openssh-server", "iproute2", "procps"),
    # What bootcd needs, by the names pyproject.toml has for it.
    *("gir1.2-ostree-1.0", "python3-gi", "python3-systemd", "python3-aiohttp", "python3-cryptography"),
    *("python3-dbus-fast", "python3-isal", "python3-pydantic", "python3-yaml", "python3-zstandard"),
    *("ca-certificates",),
)
TAGS = ("v1", "v2", "v3", "v4", "other")
REGISTRY = "10.0.2.100:5000"
"What a guest knows the test's registry by."
FLEET_LOCK = "10.0.2.100:5001"
HOME = "usr/lib/test-os"
PAYLOAD_SIZE = 16 << 20
PASSWORD = "test"

_UNWANTED = ("man", "doc", "info", "locale", "i18n")
_DRACUT = """\
hostonly="no"
hostonly_cmdline="no"
compress="zstd"
add_dracutmodules+=" ostree "
omit_dracutmodules+=" plymouth network kernel-network-modules nfs crypt lvm dm multipath mdraid btrfs i18n "
"""
_HOOKS = (
    'chroot "$1" useradd --create-home --shell /bin/bash person',
    f'printf "root:{PASSWORD}\\nperson:{PASSWORD}\\n" | chroot "$1" chpasswd',
    'systemctl --quiet --root="$1" enable systemd-networkd.service',
    'systemctl --quiet --root="$1" disable systemd-networkd-wait-online.service',
    'systemctl --quiet --root="$1" mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer'
    " e2scrub_reap.service dpkg-db-backup.timer fstrim.timer",
    # On an image-based host every file is from 1970: byte code checked by time stamps would not be used.
    'chroot "$1" sh -c "python3 -m compileall -q -f --invalidation-mode unchecked-hash'
    ' /usr/lib/python3*" || true',
)
_PYTHON = ("usr/bin/python3", "usr/lib/python3.", "usr/lib64/ld-", "usr/lib/x86_64-linux-gnu/")
"What of the system its interpreter needs to run on this machine."


@dataclass(frozen=True, slots=True)
class Images(OsImages):
    """The images, and the key that opens them."""

    key: Path


def cached_images(cache: Path, *, say: Callable[[str], None] = lambda _: None) -> Images:
    """Return the images from `cache`, building first what of them is not there; blocks for minutes then.

    Needs root.
    """
    packages = repr((SUITE, PACKAGES, _UNWANTED, _DRACUT, _HOOKS, _PYTHON))
    tools = [Path(str(module.__file__)) for module in (debian_tree, image_layout)]
    notice = "Once: an operating system that boots is built from Debian packages, in two minutes or more"
    base = built_once(cache / f"base-{recipe_key(*tools, text=packages)}", _build_base, lambda: say(notice))
    final = built_once(
        cache / f"images-{recipe_key(Path(__file__), *_product(), text=base.name)}",
        lambda work: _build_images(work, base),
        lambda: say("The images of the virtual machine are built with the current code"),
    )
    return Images(final, (base / "kernel-version").read_text(), base / "key")


def _product() -> list[Path]:
    """Return every file that `make install` may install."""
    found = [REPOSITORY / "Makefile", REPOSITORY / "LICENSE"]
    for name in ("bootcd", "bootcctl", "systemd", "dbus", "docs/man"):
        found += [
            path
            for path in sorted((REPOSITORY / name).rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return found


def _build_base(work: Path) -> None:
    archive = work / "bootstrap.tar"
    with TemporaryDirectory(prefix="bootcd-recipe-") as scratch:
        (dracut := Path(scratch, "90-test.conf")).write_text(_DRACUT)
        source = f"deb [signed-by={KEYRING}] {mirror(HOST_SUITE)} {SUITE} main"
        options = ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"']
        options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNWANTED]
        options += [f'--setup-hook=install -D -m 644 -t "$1"/etc/dracut.conf.d {dracut}']
        options += [f"--customize-hook={hook}" for hook in _HOOKS]
        bootstrap(archive, SUITE, PACKAGES, [source], *options, initrd=True)
    tree = read_archive(archive)
    extract(archive, {path: node for path, node in tree.items() if path.startswith(_PYTHON)}, work / "python")
    packages = parts_of_packages(archive, tree)
    kernel = make_bootable(tree)
    parts = split(tree, packages)
    store = Layout(work, archive)
    compressions = {"base": "gzip", "kernel": "zstd", "applications": "gzip", "configuration": "none"}
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {
            name: pool.submit(store.add_layer, tree, parts[name], compression)
            for name, compression in compressions.items()
        }
        layers = {name: layer.result() for name, layer in running.items()}
    described = {name: [layer.descriptor, layer.diff_id] for name, layer in layers.items()}
    (work / "base.json").write_text(json.dumps(described))
    (work / "kernel-version").write_text(kernel)
    _new_key(work / "key")
    archive.unlink()


def _build_images(work: Path, base: Path) -> None:
    store = Layout(work, Path(os.devnull))
    for blob in (base / "blobs/sha256").iterdir():
        os.link(blob, work / "blobs/sha256" / blob.name)
    described: dict[str, Any] = json.loads((base / "base.json").read_text())
    made = {name: Layer(descriptor, diff_id) for name, (descriptor, diff_id) in described.items()}
    common = [made[name] for name in ("base", "kernel", "applications", "configuration")]
    product, shared, update = _installed(base / "python"), _shared(), _update()
    common.append(store.add_layer(product, product, "gzip"))
    common.append(store.add_layer(shared, shared, "gzip"))
    payload = store.add_layer(update, update, "zstd")
    public = base.joinpath("key.pub").read_text()
    host_key = _new_key(work / "host-key")
    for tag in TAGS:
        settings = _settings(tag, public, host_key)
        layers = [*common, store.add_layer(settings, settings, "none")]
        if tag in ("v2", "v3", "v4"):
            layers.append(payload)
        store.add_image(tag, layers, {"other": "1-other"}.get(tag, tag.removeprefix("v")))
    store.write_index()


def _installed(python: Path) -> FileTree:
    """Return what `make install` installs, compiled by the interpreter the images have, unit enabled."""
    with TemporaryDirectory(prefix="bootcd-install-") as scratch:
        root = Path(scratch, "root")
        site = "/usr/lib/python3/dist-packages"
        install = ["make", "--no-print-directory", "-C", str(REPOSITORY), "install", f"DESTDIR={root}"]
        subprocess.run(
            ["sh", "-c", 'umask 022; exec "$@"', "sh", *install, f"SITEDIR={site}"],
            check=True,
            capture_output=True,
        )
        for directory_ in root.rglob("__pycache__"):
            shutil.rmtree(directory_)
        loader = next(python.glob("usr/lib64/ld-linux*"))
        compiler: list[str | Path] = [loader, "--library-path", python / "usr/lib/x86_64-linux-gnu"]
        compiler += [python / "usr/bin/python3", "-I", "-m", "compileall", "-q"]
        compiler += ["--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/", root / site[1:]]
        subprocess.run(compiler, check=True, env=os.environ | {"PYTHONHOME": str(python / "usr")})
        units = ["bootcd.service", "bootcd-health.service", "bootcd-boot-counter.service"]
        units += ["bootcd-fleet-lock.service"]
        subprocess.run(["systemctl", "--quiet", f"--root={root}", "preset", *units], check=True)
        return scan(root)


def _shared() -> FileTree:
    """Return what all images have, v2 on top of it some less."""
    return {
        HOME: directory(),
        f"{HOME}/removed-in-v2": file("gone soon\n"),
        f"{HOME}/payload": file(_noise(1, 1 << 20)),
        f"{HOME}/health-of-v3": file("#!/bin/sh\nexit 1\n", 0o755),
        "usr/lib/ostree": directory(),
        "usr/lib/ostree/prepare-root.conf": file("[composefs]\nenabled=no\n\n[sysroot]\nreadonly=true\n"),
        "usr/lib/tmpfiles.d/test-os.conf": file(
            "d /var/home 0755 root root -\nd /var/roothome 0700 root root -\n"
            "d /var/home/person 0700 person person -\n"
        ),
        # What a first boot brings up to date, at the cost of a minute, is of no use here.
        **{
            f"etc/systemd/system/{name}.service": link("/dev/null")
            for name in ("ldconfig", "systemd-hwdb-update", "systemd-journal-catalog-update")
        },
        # What a desktop starts for each user; it costs an emulated machine seconds at each login.
        "etc/systemd/user/sockets.target.wants": directory(),
        "etc/systemd/user/sockets.target.wants/.wh..wh..opq": file(""),
        # What a distribution ships with containers-common; without any policy no image is let in.
        "usr/share/containers": directory(),
        "usr/share/containers/policy.json": file('{"default": [{"type": "insecureAcceptAnything"}]}\n'),
        "usr/lib/systemd/network/10-test.network": file(
            "[Match]\nName=e*\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n"
        ),
        "usr/lib/systemd/system/test-os-health.service": file(
            "[Unit]\nDescription=Tell whether this boot is good\nBefore=boot-complete.target\n\n"
            f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/{HOME}/health\n"
        ),
        # Tells the harness on the console that a boot has come to its end.
        "usr/lib/systemd/system/test-os-ready.service": file(
            "[Unit]\nAfter=ssh.service bootcd.service systemd-logind.service\n\n"
            "[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/ttyS0\n"
            "ExecStart=/bin/sh -c '. /etc/os-release; echo \"test-os-ready $ID-$VERSION_ID ;\"'\n"
        ),
        "usr/lib/systemd/system/boot-complete.target.requires": directory(),
        "usr/lib/systemd/system/boot-complete.target.requires/test-os-health.service": link(
            "../test-os-health.service"
        ),
        "usr/lib/systemd/system/multi-user.target.wants": directory(),
        "usr/lib/systemd/system/multi-user.target.wants/test-os-ready.service": link(
            "../test-os-ready.service"
        ),
        "usr/lib/systemd/system/multi-user.target.wants/boot-complete.target": link(
            "../boot-complete.target"
        ),
        "etc/ssh/sshd_config.d/10-test.conf": file(
            "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\nUseDNS no\n"
            f"AuthorizedKeysFile .ssh/authorized_keys /{HOME}/authorized-keys-of-%u\n"
            "MaxStartups 50\nMaxSessions 50\n"
        ),
    }


def _update() -> FileTree:
    """Return the layer that v2, v3 and v4 have on top of the others."""
    return {
        f"{HOME}/.wh.removed-in-v2": file(""),
        f"{HOME}/payload": file(_noise(2, PAYLOAD_SIZE)),
        f"{HOME}/added-in-v2": directory(),
        **{f"{HOME}/added-in-v2/{number:03}": file(f"added file {number}\n") for number in range(500)},
    }


def _settings(tag: str, public_key: str, host_key: str) -> FileTree:
    """Return what tells the images apart, and how bootcd is set up on them."""
    name = "other-os" if tag == "other" else "test-os"
    version = "1" if tag == "other" else tag.removeprefix("v")
    release = (
        f'ID={name}\nID_LIKE=debian\nNAME="{name}"\nVERSION_ID={version}\nPRETTY_NAME="{name} {version}"\n'
    )
    kargs = ["console=ttyS0", "quiet", "systemd.show_status=1", f"test-os.version={version}"]
    kargs += ["audit=0", "mitigations=off"]  # emulated processors have no weaknesses, and time to lose
    kargs += ["rdinit=/bin/false", "panic=1"] if tag == "v4" else []
    health = link("health-of-v3") if tag == "v3" else link("../../bin/true")
    return {
        "usr/lib/os-release": file(release),
        "usr/lib/bootc": directory(),
        "usr/lib/bootc/kargs.d": directory(),
        "usr/lib/bootc/kargs.d/10-test.toml": file(f"kargs = {json.dumps(kargs)}\n"),
        f"{HOME}/health": health,
        # Made at every first boot elsewhere, which takes long.
        "etc/ssh/ssh_host_ed25519_key": file(host_key, 0o600),
        # A person's key is the image's, as no installer asks for one; that of root is the installer's.
        f"{HOME}/authorized-keys-of-person": file(public_key),
        # What it does by itself, it does in the test of that alone.
        "usr/lib/bootcd/config.d/50-test-os.toml": file(
            f'[updates]\nmode = "off"\n\n[registry]\ninsecure = ["{REGISTRY}"]\nstall-timeout = "30min"\n'
        ),
        "etc/test-os.conf": file(f"version={version}\n"),
    }


def _new_key(path: Path) -> str:
    """Make a key pair for ssh and return its private half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path.read_text()


def _noise(seed: int, size: int) -> bytes:
    """Return bytes that no compression makes smaller."""
    return random.Random(seed).randbytes(size)
