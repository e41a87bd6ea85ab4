"""A simulated image-based host: real libostree, real boot entries, real staging, no virtual machine.

A `Machine` is a physical root made by `ostree admin` alone and, while it is booted, a process
tree in its own mount and pid namespaces whose root directory is the deployment the default boot
entry names. Inside, libostree finds itself booted; `ostree admin`, the daemon and its workers run
there as on a host. A reboot ends the processes, finalises what is staged as systemd does at
shutdown, reads the boot entries again and boots the best one with a fresh /run.

What is not as on a host:

- /usr is an overlay: `overlay`, the shim below and the deployment's os-release, then this machine's own
  /usr, so that the programs under test run whatever the image holds, then the deployment's /usr.
  libostree is not affected: it works on the deployment below /sysroot.
- `systemctl` is a shim that knows `reboot`, no job, and of units what /run/units says: no systemd runs
  as process 1.
- Devices, clock and, but for `Machine.network`, the network are this machine's. /boot is not a file system
  of its own.
- A power cut kills every process at once; what was written to the page cache is not lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.machine_init import inside
from tests.support.tree import Tree, scan_tree

REPOSITORY = Path(__file__).resolve().parents[2]
STATEROOT = "default"
PERSON = 1000
"Uid and gid of an unprivileged user; `minimal_tree` knows them as `person`."
KARGS = ("root=LABEL=root", "rw")

_INIT = Path(__file__).with_name("machine_init.py")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}
_SYSTEMCTL = """#!/bin/sh
# Stands in for systemd, which is not process 1 here.
[ "$1" = --no-pager ] && shift
case "$1" in
reboot) : >/run/reboot-requested ;;
list-jobs) ;;
show) [ ! -e /run/units ] || cat /run/units ;;
*) echo "systemctl: '$*' is not simulated on this host" >&2; exit 1 ;;
esac
"""
# Holds the program back until its pid has been read; bash closes a descriptor above 9, sh does not.
_GATE = 'printf . >&$0; read -r -u $0 || exit 125; eval "exec $0>&-"; exec "$@"'


@dataclass(frozen=True, slots=True)
class LoaderEntry:
    """One Boot Loader Specification entry (https://uapi-group.org/specifications/specs/boot_loader_specification/)."""

    name: str
    version: int
    title: str
    linux: str
    initrd: str
    options: tuple[str, ...]
    deployment: Path
    "The directory its `ostree=` option leads to."


class Process:
    """A program running inside a machine. `pid` is its process id as seen from the test."""

    def __init__(self, outer: asyncio.subprocess.Process, pid: int) -> None:
        self._outer = outer
        self.pid = pid
        self.stdin = outer.stdin
        self.stdout = outer.stdout
        self.stderr = outer.stderr

    @property
    def returncode(self) -> int | None:
        return self._outer.returncode

    def send_signal(self, number: int) -> None:
        """Send to the program itself; nothing happens if it has ended."""
        if self._outer.returncode is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # ended, and its end has not been read yet

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await self._outer.wait()

    async def communicate(self, data: bytes | None = None) -> tuple[bytes, bytes]:
        return await self._outer.communicate(data)


class Machine:
    """Created by `create`, deployed by `install_fixture`, then `boot`ed; use as a context manager."""

    def __init__(
        self, directory: Path, overlay: Path | None, binds: Sequence[Path], readonly_sysroot: bool
    ) -> None:
        self.directory = directory
        self.sysroot = directory / "sysroot"
        self.network: Path | None = None
        "A network namespace for programs that are started from then on; None for that of the test."
        self.finalisation: subprocess.CompletedProcess[str] | None = None
        "How finalising a staged deployment ended at the last reboot; None if nothing was staged."
        self._overlay = overlay
        self._binds = _binds(binds)
        self._readonly_sysroot = readonly_sysroot
        self._booted: LoaderEntry | None = None
        self._init: asyncio.subprocess.Process | None = None
        self._init_pid = 0
        self._processes: list[Process] = []
        self._mount_points: list[tuple[Path, Path]] = []

    @classmethod
    async def create(
        cls,
        directory: Path,
        *,
        overlay: Path | None = None,
        binds: Sequence[Path] = (),
        readonly_sysroot: bool = True,
    ) -> Self:
        """Make an empty physical root in `directory`, configured as `bootc install` does.

        `overlay` lies over /usr. `binds` are directories that are at their own path inside too, besides
        the checkout. `readonly_sysroot`: /sysroot is mounted read-only, as on hosts.
        """
        machine = cls(directory, overlay, binds, readonly_sysroot)
        machine.sysroot.mkdir(parents=True)
        await machine.ostree("admin", "init-fs", "--modern", str(machine.sysroot))
        await machine.ostree("admin", f"--sysroot={machine.sysroot}", "os-init", STATEROOT)
        for key, value in {"bootloader": "none", "bootprefix": "true", "readonly": "true"}.items():
            await machine.ostree("config", f"--repo={machine.repo}", "set", f"sysroot.{key}", value)
        for name in ("home", "roothome"):  # systemd-tmpfiles makes them on a host
            (machine.var / name).mkdir()
        shim = directory / "shim/bin/systemctl"
        shim.parent.mkdir(parents=True)
        shim.write_text(_SYSTEMCTL)
        shim.chmod(0o755)
        return machine

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def repo(self) -> Path:
        return self.sysroot / "ostree/repo"

    @property
    def var(self) -> Path:
        return self.sysroot / "ostree/deploy" / STATEROOT / "var"

    @property
    def running(self) -> bool:
        return self._init is not None

    async def ostree(self, *arguments: str) -> str:
        """Run `ostree` outside of the machine and return its output."""
        process = await asyncio.create_subprocess_exec(
            "ostree", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"ostree {' '.join(arguments)} failed: {errors.decode().strip()}")
        return output.decode()

    async def commit_tree(
        self, tree: Path, branch: str = "fixture", metadata: Mapping[str, str] | None = None
    ) -> str:
        """Commit a directory as it is (with usr/etc, not etc) and return the commit's checksum."""
        extra = [f"--add-metadata-string={key}={value}" for key, value in (metadata or {}).items()]
        arguments = ("commit", f"--repo={self.repo}", f"--branch={branch}", f"--tree=dir={tree}", *extra)
        return (await self.ostree(*arguments)).strip()

    async def install_fixture(
        self, source: Path | str, *, image: str = "", kargs: Sequence[str] = KARGS
    ) -> str:
        """Deploy a directory, or a commit of `repo`, as the host's first system; return the commit.

        `image` goes into the origin as the image the host tracks.
        """
        commit = await self.commit_tree(source) if isinstance(source, Path) else source
        origin = self.directory / "origin"
        key = f"container-image-reference=ostree-unverified-registry:{image}" if image else "refspec=fixture"
        origin.write_text(f"[origin]\n{key}\n")
        options = [f"--karg={karg}" for karg in kargs]
        await self.ostree(
            *("admin", f"--sysroot={self.sysroot}", "deploy", f"--os={STATEROOT}", f"--origin-file={origin}"),
            *(*options, commit),
        )
        return commit

    def boot_entries(self) -> list[LoaderEntry]:
        """Return what a boot menu shows, the default first."""
        entries = [
            _read_entry(path, self.sysroot) for path in (self.sysroot / "boot/loader/entries").iterdir()
        ]
        return sorted(entries, key=lambda entry: entry.version, reverse=True)

    def booted_entry(self) -> LoaderEntry:
        """Return the entry the machine was booted from, as it was then."""
        if self._booted is None:
            raise RuntimeError("the machine is not booted")
        return self._booted

    def path(self, inner: str) -> Path:
        """Return how the test reaches a path of the booted machine; an absolute link there leads outside."""
        return Path(f"/proc/{self._init_pid}/root", inner.lstrip("/"))

    def scan(self, deployment: Path) -> Tree:
        """Read a deployment without /etc, which is the host's own, and without mount points of binds."""
        return scan_tree(deployment, without=["etc", *self._foreign_tops(deployment)])

    async def boot(self, choice: int = 0) -> LoaderEntry:
        """Boot an entry of the menu, by default the default one, and return it."""
        if self._init is not None:
            raise RuntimeError("the machine is booted already")
        entry = self.boot_entries()[choice]
        self._make_mount_points(entry.deployment)
        if (release := entry.deployment / "usr/lib/os-release").exists():
            (self.directory / "shim/lib").mkdir(exist_ok=True)
            shutil.copy(release, self.directory / "shim/lib/os-release")
        # What a distribution ships with containers-common; a file in /etc replaces it.
        policy = self.directory / "shim/share/containers/policy.json"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        cmdline = self.directory / "cmdline"
        cmdline.write_text(f"BOOT_IMAGE={entry.linux} {' '.join(entry.options)}\n")
        usr = [*([self._overlay] if self._overlay else []), self.directory / "shim", Path("/usr")]
        settings = {
            "deployment": str(entry.deployment),
            "sysroot": str(self.sysroot),
            "var": str(self.var),
            "cmdline": str(cmdline),
            "usr": [str(layer) for layer in usr],
            "binds": [str(bind) for bind in self._binds],
            "readonly_sysroot": self._readonly_sysroot,
        }
        self._init = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"),
            *("/usr/bin/python3", "-I", str(_INIT), json.dumps(settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # an interrupt from the terminal is the test's, which then turns this off
        )
        assert self._init.stdout is not None
        assert self._init.stderr is not None
        async with asyncio.timeout(20):
            answer = (await self._init.stdout.readline()).split()
        if answer[:1] != [b"ready"]:
            errors = (await self._init.stderr.read()).decode()
            await self.power_cut()
            raise RuntimeError(f"the machine did not boot:\n{errors}")
        self._init_pid = int(answer[1])
        self._booted = entry
        return entry

    async def popen(
        self,
        command: Sequence[str | Path],
        *,
        user: int = 0,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start a program inside, with nothing of this process's environment."""
        if self._init is None:
            raise RuntimeError("the machine is not booted")
        network = [f"--net={self.network}"] if self.network else []
        identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"] if user else []
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                outer = await asyncio.create_subprocess_exec(
                    *("nsenter", f"--target={self._init_pid}", "--mount", "--pid", *network, "--"),
                    *("bash", "-c", _GATE, str(theirs.fileno()), *identity, *map(str, command)),
                    env=_ENVIRONMENT | dict(env or {}),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    limit=1 << 20,
                )
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                if not await loop.sock_recv(ours, 1):
                    raise RuntimeError(f"cannot run {command[0]}: the machine is gone")
                children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text()
                await loop.sock_sendall(ours, b"\n")
        process = Process(outer, int(children))
        self._processes.append(process)
        return process

    async def run(
        self,
        command: Sequence[str | Path],
        *,
        user: int = 0,
        env: Mapping[str, str] | None = None,
        input: str = "",
        timeout: float = 30,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end, as `subprocess.run` does."""
        pipe = subprocess.PIPE
        process = await self.popen(command, user=user, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(timeout):
                output, errors = await process.communicate(input.encode())
        finally:
            process.kill()
        result = subprocess.CompletedProcess(
            [str(word) for word in command], await process.wait(), output.decode(), errors.decode()
        )
        if check and result.returncode:
            raise RuntimeError(
                f"{result.args} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
            )
        return result

    async def reboot_requested(self, timeout: float = 20) -> None:
        """Wait until something inside has called `systemctl reboot`."""
        async with asyncio.timeout(timeout):
            # The shim is another process and the file its only sign.
            while not self.path("/run/reboot-requested").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def reboot(self) -> LoaderEntry:
        """Shut down and boot again; return the entry booted."""
        await self.shutdown()
        return await self.boot()

    async def shutdown(self) -> None:
        """End all processes, finalise what is staged, and turn off.

        A failing finalisation stops no shutdown, as on a host: see `finalisation`.
        """
        assert self._init is not None
        assert self._init.stdin is not None
        assert self._init.stdout is not None
        self._init.stdin.write(b"stop\n")
        async with asyncio.timeout(20):
            await self._init.stdout.readline()
        self.finalisation = None
        if self.path("/run/ostree/staged-deployment").exists():
            self.finalisation = await self.run(["ostree", "admin", "finalize-staged"], check=False)
        await self.power_cut()

    async def power_cut(self) -> None:
        """Turn off at once: every process is killed, nothing is finalised."""
        if self._init is None:
            return
        if self._init_pid:
            try:
                os.kill(self._init_pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
        elif self._init.returncode is None:
            self._init.kill()
        await self._init.communicate()
        for process in self._processes:
            await process.wait()
        self._processes.clear()
        self._init, self._init_pid, self._booted = None, 0, None
        self._remove_mount_points()

    async def close(self) -> None:
        """Turn off and remove everything from the disk."""
        await self.power_cut()
        if left := mounts_below(self.directory):
            raise RuntimeError(f"not removing {self.directory}: mounted below it are {left}")
        for deployment in self.sysroot.glob("ostree/deploy/*/deploy/*.?"):
            _set_immutable(deployment, False)
        await asyncio.to_thread(shutil.rmtree, self.directory)

    def _make_mount_points(self, root: Path) -> None:
        """Add to the immutable deployment the directories that binds need, for this boot."""
        for bind in self._binds:
            top = root / bind.parts[1]
            if not top.exists() and not top.is_symlink():
                _set_immutable(root, False)
                target = inside(root, bind)
                target.mkdir(parents=True)
                _set_immutable(root, True)
                self._mount_points.append((root, target))

    def _foreign_tops(self, deployment: Path) -> list[str]:
        return [
            target.relative_to(root).parts[0] for root, target in self._mount_points if root == deployment
        ]

    def _remove_mount_points(self) -> None:
        for root, target in self._mount_points:
            if root.exists():
                _set_immutable(root, False)
                while target != root:
                    target.rmdir()
                    target = target.parent
                _set_immutable(root, True)
        self._mount_points.clear()


def mounts_below(directory: Path) -> list[str]:
    """Return the mount points below a directory in this process's namespace."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(directory.resolve())]


def _binds(wanted: Sequence[Path]) -> list[Path]:
    """Return the directories to bind, without /usr and without those that lie in another one."""
    candidates = [REPOSITORY, Path(sys.prefix), *wanted]
    kept: list[Path] = [Path("/usr")]
    for path in sorted({path.resolve() for path in candidates}):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept[1:]


def _read_entry(path: Path, sysroot: Path) -> LoaderEntry:
    fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if " " in line)
    options = tuple(fields["options"].split())
    (link,) = (word.removeprefix("ostree=") for word in options if word.startswith("ostree="))
    return LoaderEntry(
        name=path.name,
        version=int(fields["version"]),
        title=fields.get("title", ""),
        linux=fields["linux"],
        initrd=fields.get("initrd", ""),
        options=options,
        deployment=(sysroot / link.lstrip("/")).resolve(strict=True),
    )


def _set_immutable(path: Path, wanted: bool) -> None:
    subprocess.run(["chattr", "+i" if wanted else "-i", str(path)], check=False, stderr=subprocess.DEVNULL)


def minimal_tree(directory: Path, version: str = "1") -> Path:
    """Write the smallest tree that boots here and return it; `version` is all over it."""
    kernel = f"6.1.{version}-test"
    for name in ("sysroot", "boot", "var", "run", "proc", "sys", "dev", "tmp", "usr/bin", "usr/sbin"):
        (directory / name).mkdir(parents=True)
    for name in ("usr/lib64", "usr/etc/polkit-1/rules.d", f"usr/lib/modules/{kernel}"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    links = {"ostree": "sysroot/ostree", "home": "var/home", "root": "var/roothome", "mnt": "var/mnt"}
    links |= {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    for name, target in links.items():
        (directory / name).symlink_to(target)
    release = f'ID=fixture\nNAME=fixture\nVERSION_ID={version}\nPRETTY_NAME="fixture {version}"\n'
    users = ["root:x:0:0:root:/root:/bin/sh", f"person:x:{PERSON}:{PERSON}::/tmp:/bin/sh"]
    # The programs are this machine's, so their users must have this machine's numbers.
    users += [f"{name}:x:{_uid(name)}:{_uid(name)}::/:/bin/false" for name in ("messagebus", "polkitd")]
    files = {
        f"usr/lib/modules/{kernel}/vmlinuz": f"kernel {version}\n",
        f"usr/lib/modules/{kernel}/initramfs.img": f"initramfs {version}\n",
        "usr/lib/os-release": release,
        "usr/lib/version": f"{version}\n",
        "usr/etc/passwd": "".join(f"{user}\n" for user in users),
        "usr/etc/group": "".join(f"{user.split(':')[0]}:x:{user.split(':')[3]}:\n" for user in users),
        "usr/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "usr/etc/version.conf": f"{version}\n",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(uuid.uuid5(uuid.NAMESPACE_DNS, name)) % 400 + 500
