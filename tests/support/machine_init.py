"""Process 1 of a simulated host: mounts what a boot would mount, then keeps the host alive.

Started by `machine.py` in new mount and pid namespaces with one argument, the JSON of its settings. It says
`ready PID` once the host is up and ends every other process when it reads `stop`. When its standard
input is closed, the test is dead: it lifts what would keep the files from being removed and ends,
and with it the whole host and every mount of it.

The layout is what ostree-prepare-root(1) leaves behind: the deployment is the root directory itself
(libostree compares their inodes), the physical root is at /sysroot, /var is the state root's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STOP_SECONDS = 5.0
"How long processes may take to end after SIGTERM, as a service manager's stop time-out."


def main() -> None:
    settings = json.loads(sys.argv[1])
    host_pid = Path("/proc/self").readlink()  # still the outer /proc
    deployments = os.open(Path(settings["sysroot"], "ostree/deploy"), os.O_PATH | os.O_DIRECTORY)
    mount_everything(Path(settings["deployment"]), settings)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps orphans
    print(f"ready {host_pid}", flush=True)
    for line in sys.stdin:
        if line.strip() == "stop":
            stop_processes()
            print("stopped", flush=True)
    immutable = [str(path) for path in Path(f"/proc/self/fd/{deployments}").glob("*/deploy/*.?")]
    subprocess.run(["chattr", "-i", *immutable], pass_fds=[deployments], check=False)


def mount_everything(root: Path, settings: dict[str, Any]) -> None:
    sysroot = settings["sysroot"]
    mount("--bind", root, root)
    layers = [*settings["usr"], str(root / "usr")]
    mount("-t", "overlay", "-o", f"ro,lowerdir={':'.join(layers)}", "overlay", root / "usr")
    mount("--bind", sysroot, root / "sysroot")
    mount("--bind", f"{sysroot}/boot", root / "boot")
    mount("--bind", settings["var"], root / "var")
    if settings["readonly_sysroot"]:
        mount("-o", "remount,bind,ro", root / "sysroot")
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", root / "run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    mount("-t", "proc", "proc", root / "proc")
    mount("--bind", settings["cmdline"], root / "proc/cmdline")
    mount("--rbind", "/sys", root / "sys")
    mount("--rbind", "/dev", root / "dev")
    (root / "run/ostree").mkdir()
    (root / "run/lock").mkdir()
    (root / "run/ostree-booted").touch()
    for bind in settings["binds"]:
        target = inside(root, Path(bind))
        target.mkdir(parents=True, exist_ok=True)
        mount("--bind", bind, target)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    subprocess.run(["umount", "--lazy", "."], check=True)
    os.chdir("/")


def inside(root: Path, path: Path) -> Path:
    """Return where `path` is below `root`, following a relative link at its top such as home -> var/home."""
    top, *rest = path.parts[1:]
    first = root / top
    if first.is_symlink():
        first = root / first.readlink()
    return first.joinpath(*rest)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", "--no-mtab", *map(str, arguments)], check=True)


def stop_processes() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(-1, number)  # everyone in the namespace but process 1
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while any(others()) and time.monotonic() < deadline:
            time.sleep(0.01)


def others() -> Iterator[int]:
    """Yield the live processes of this namespace but this one."""
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                yield int(name)


if __name__ == "__main__":
    main()
