"""A virtual machine: QEMU with UEFI firmware, one disk, a serial console, and one way to one registry.

    async with Machine(directory, disk, variables, {5000: 5000}) as machine:
        await machine.start()
        await machine.booted()

Nothing but the port of `registry_port` on this machine's loopback can be reached from inside, under the
address `image.REGISTRY`. A machine is stopped by `power_cut` or with the test, and is killed with the
process that started it. Where KVM cannot run a guest, its processors are emulated: ten times slower.

QMP: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
FIRMWARE_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
MEMORY_MIB = 1536
PROCESSORS = 2
BOOT_SECS = 900
"Emulated on a busy machine, ten times what it takes on an idle one."

_PROBE_SECS = 1
"Where KVM works it takes a fifth of that; where it crawls, four times that: emulation is faster then."
_QMP_SECS = 30
_SAVE_SECS = 120
_UNREAD_LIMIT = 1 << 20
# mov dx,0xf4; mov al,0x10; out dx,al; hlt; jmp $: makes the isa-debug-exit device end QEMU with status 33.
_PROBE = bytes.fromhex("baf400b010eef4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_PROBE_STATUS = 33
_READY = re.compile(rb"test-os-ready (\S+) ;")
_HUNG = b"end Kernel panic"
"What a kernel says last that does not reboot."
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)")


@functools.cache
def missing() -> str:
    """Return why no virtual machine can be started here, or an empty text."""
    programs = ("qemu-system-x86_64", "qemu-img", "socat", "setpriv", "ssh")
    absent = [name for name in programs if shutil.which(name) is None]
    if not FIRMWARE.exists():
        absent.append(str(FIRMWARE))
    if os.uname().machine != "x86_64":
        return "needs an x86-64 machine"
    if os.geteuid() != 0:
        return "needs root: its disk is made from mounts"
    return f"needs {', '.join(absent)}: tests/setup.sh vm" if absent else ""


@functools.cache
def accelerator() -> str:
    """Return how guests run here. A /dev/kvm says little: what it runs for a guest may crawl, or not run."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        with TemporaryDirectory(prefix="bootcd-vm-") as scratch:
            (disk := Path(scratch, "disk")).write_bytes(_PROBE.ljust(1 << 20, b"\0"))
            command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "64"]
            command += ["-nodefaults", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
            command += ["-drive", f"file={disk},format=raw,if=ide", "-serial", "none", "-monitor", "none"]
            try:
                done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECS, check=False)
            except subprocess.TimeoutExpired:
                pass
            else:
                if done.returncode == _PROBE_STATUS:
                    return "kvm"
    return "tcg,thread=multi"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine at work, to be gone on with any number of times: disk, firmware variables, memory."""

    disk: Path
    variables: Path
    state: Path


class Machine:
    """`directory` takes its files and keeps them; `disk` and `variables` are not written to."""

    def __init__(self, directory: Path, disk: Path, variables: Path, ports: Mapping[int, int]) -> None:
        self.directory = directory
        self.disk = directory / "disk.qcow2"
        self.variables = directory / "variables"
        self.console = directory / "console.log"
        self.ssh_port = 0
        self._template = disk, variables
        self._ports = ports
        self._process: asyncio.subprocess.Process | None = None
        self._sockets = TemporaryDirectory(prefix="bootcd-vm-")  # a socket's path is short
        self._more = asyncio.Condition()
        self._unread = b""
        self._ended = False

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        disk, variables = self._template
        await overlay(disk, self.disk)
        shutil.copyfile(variables, self.variables)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.power_cut()
        self._sockets.cleanup()

    @property
    def socket_directory(self) -> str:
        return self._sockets.name

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, snapshot: Snapshot | None = None) -> None:
        """Power on, or go on where `snapshot` was taken: of the disk and variables given before."""
        assert not self.running
        sockets = Path(self._sockets.name)
        for name in ("qmp", "console"):
            (sockets / name).unlink(missing_ok=True)
        network = "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
        for inside, outside in self._ports.items():
            network += f",guestfwd=tcp:10.0.2.100:{inside}-cmd:socat - TCP:127.0.0.1:{outside}"
        console = f"socket,id=console,path={sockets}/console,server=on,wait=on,logfile={self.console}"
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults"]
        command += [
            "-machine",
            "q35",
            "-accel",
            accelerator(),
            "-cpu",
            # With page tables of five levels a kernel was seen to take faults that no code had made.
            "max,la57=off" if "tcg" in accelerator() else "host",
        ]
        command += ["-smp", str(PROCESSORS), "-m", str(MEMORY_MIB), "-display", "none", "-vga", "std"]
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={self.variables}"]
        command += ["-drive", f"if=virtio,format=qcow2,file={self.disk},discard=unmap"]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        command += ["-device", "virtio-rng-pci"]
        command += ["-chardev", f"{console},logappend=on", "-serial", "chardev:console"]
        command += ["-qmp", f"unix:{sockets}/qmp,server=on,wait=off"]
        if snapshot:
            command += ["-incoming", f"exec:zstd -q -d -c {snapshot.state}"]
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._unread, self._ended = b"", False
        self._reader = asyncio.create_task(self._follow_console(sockets / "console"))
        async with asyncio.timeout(_QMP_SECS):
            await self._qmp_opened(sockets / "qmp")
        if snapshot:
            await self._migrated(_SAVE_SECS)
            if (await self._execute("query-status"))["status"] != "running":
                await self._execute("cont")
        answer = await self._execute("human-monitor-command", {"command-line": "info usernet"})
        found = _FORWARD.search(answer)
        assert found, answer
        self.ssh_port = int(found[1])

    async def booted(self, secs: float = BOOT_SECS) -> str:
        """Wait until the next boot has come to its end; return the name and version of what runs."""
        return (await self.shows(_READY, secs))[1].decode()

    async def shows(self, pattern: re.Pattern[bytes], secs: float = BOOT_SECS) -> re.Match[bytes]:
        """Wait until the console shows something, after what was waited for before.

        Raises TimeoutError, or RuntimeError if the machine ended or its kernel did for good.
        """
        try:
            async with asyncio.timeout(secs), self._more:
                while not (found := pattern.search(self._unread)):
                    if self._ended:
                        log = (self.directory / "qemu.log").read_text()
                        raise RuntimeError(f"the virtual machine ended: {log}")
                    if _HUNG in self._unread:
                        raise RuntimeError(f"the kernel has stopped; the console says:\n{self._tail()}")
                    await self._more.wait()
        except TimeoutError:
            raise TimeoutError(
                f"no {pattern.pattern!r} within {secs} s; the console says:\n{self._tail()}"
            ) from None
        self._unread = self._unread[found.end() :]
        return found

    def _tail(self) -> str:
        return self.console.read_bytes()[-3000:].decode(errors="replace")

    async def power_cut(self) -> None:
        """End the machine as a power cut does: what the guest has not written out is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
        await self._reader
        self._qmp_out.close()

    async def save(self, state: Path) -> Snapshot:
        """Stop the machine for good and return what to go on with."""
        await self._execute("stop")
        await self._execute("migrate", {"uri": f"exec:zstd -q -1 -T2 >{state}"})
        await self._migrated(_SAVE_SECS)
        await self._execute("quit")
        assert self._process is not None
        await self._process.wait()
        await self.power_cut()
        return Snapshot(self.disk, self.variables, state)

    async def _migrated(self, secs: float) -> None:
        """Wait for the end of a transfer of the memory; QEMU has no event for it unless asked."""
        async with asyncio.timeout(secs):
            while True:
                answer = await self._execute("query-migrate")
                status = answer.get("status", "none")
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    raise RuntimeError(f"the memory could not be transferred: {answer}")
                await asyncio.sleep(0.1)

    async def _qmp_opened(self, path: Path) -> None:
        while True:
            try:
                self._qmp_in, self._qmp_out = await asyncio.open_unix_connection(path, limit=1 << 20)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._process is not None
                if self._process.returncode is not None:
                    raise RuntimeError((self.directory / "qemu.log").read_text()) from None
                await asyncio.sleep(0.05)
        await self._qmp_in.readline()  # the greeting
        await self._execute("qmp_capabilities")

    async def _execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        request = {"execute": command, "arguments": arguments or {}}
        async with asyncio.timeout(_QMP_SECS):
            self._qmp_out.write(json.dumps(request).encode() + b"\n")
            while True:
                line = await self._qmp_in.readline()
                if not line:
                    raise RuntimeError(f"QEMU ended: {(self.directory / 'qemu.log').read_text()}")
                answer = json.loads(line)
                if "error" in answer:
                    raise RuntimeError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]

    async def _follow_console(self, path: Path) -> None:
        streams = None
        while streams is None and self.running:
            try:
                streams = await asyncio.open_unix_connection(path)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.05)
        if streams:
            reader, writer = streams
            try:
                while piece := await reader.read(1 << 16):
                    async with self._more:
                        self._unread = (self._unread + piece)[-_UNREAD_LIMIT:]
                        self._more.notify_all()
            except ConnectionResetError:
                pass
            writer.close()
        async with self._more:
            self._ended = True
            self._more.notify_all()


async def overlay(base: Path, target: Path) -> None:
    """Make a disk that starts as `base` is and takes what is written."""
    kind = "qcow2" if base.suffix == ".qcow2" else "raw"
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", kind, str(target))
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise RuntimeError(f"no disk could be made from {base}")


@asynccontextmanager
async def reaped(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    """End a program we started, however the block is left."""
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
