"""One process tree measured: wall time, CPU time, peak memory.

The kernel counts a tree's CPU time and the peak memory of its largest process for whoever waits for it
(getrusage(2)), but a new process starts with the peak of the one it was forked from. So a small
interpreter, this file run by itself, stands between the bench and what is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. CPU time is user and system time; memory is the resident set of the largest process.

    What came over the wire is counted where it came from, in bytes of bodies.
    """

    wall_secs: float
    cpu_secs: float
    peak_bytes: int = 0
    wire_bytes: int = 0


async def measure(command: Sequence[str | Path], log: Path) -> Sample:
    """Run a command to its end. Raises RuntimeError with the end of its output if it fails."""
    report = log.with_suffix(".json")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", __file__, str(report), *map(str, command)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await process.wait()
    except asyncio.CancelledError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    found: dict[str, Any] = (
        json.loads(report.read_text()) if process.returncode == 0 else {"status": "no result"}
    )
    if found["status"]:
        text = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {found['status']}:\n{text}")
    return Sample(found["wall"], found["cpu"], found["peak"])


def cpu_secs_of(pid: int) -> float:
    """Return the CPU time of a running process and its ended children; see proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def main(report: str, *command: str) -> None:
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    found = {
        "status": os.waitstatus_to_exitcode(status),
        "wall": time.monotonic() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }
    Path(report).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
