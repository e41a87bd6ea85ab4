"""A worker that does what a test says, as a real process behind the real command line.

Run as `scripted_worker.py run JOBDIR --socket PATH` it follows the steps in `<sysroot>/script.json`,
a list of lists, and as `scripted_worker.py inspect --sysroot PATH` it prints what is on
the host, whose document is `<sysroot>/host.json`; `diff` and `config-diff` print an empty document:

    ["ready"]                  tell that the checks passed
    ["progress", {...}]        send a Progress
    ["send", text]             send a datagram as it is
    ["hold"]                   wait until the test writes a byte to the fifo `<sysroot>/gate`
    ["deaf"]                   from now on ignore SIGTERM
    ["print", count]           print that many lines of 1000 bytes
    ["child"]                  start a child that outlives us, its pid in `<sysroot>/child`
    ["host", {...}]            change the host: replace host.json
    ["outcome", {...}]         write outcome.json
    ["raw-outcome", text]      write that as outcome.json
    ["kill"]                   die by SIGKILL

Each run adds its pid as a line to `<sysroot>/runs`. A missing host.json makes `inspect` fail as the real
one does. Knows nothing of the product but its wire documents, and starts in no time.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


def run(directory: Path, address: str) -> None:
    request = json.loads((directory / "request.json").read_text())
    sysroot = Path(request["settings"]["sysroot"])
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(**message: object) -> None:
        try:
            channel.sendto(json.dumps({"uuid": request["uuid"], **message}).encode(), address)
        except OSError:
            pass  # there may be no daemon

    def cancel(*_: object) -> None:
        write(directory / "outcome.json", '{"state": "cancelled"}')
        os._exit(0)

    signal.signal(signal.SIGTERM, cancel)
    with (sysroot / "runs").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for step in json.loads((sysroot / "script.json").read_text()):
        match step:
            case ["ready"]:
                send(ready=True)
            case ["progress", progress]:
                send(progress=progress)
            case ["send", text]:
                channel.sendto(text.encode(), address)
            case ["hold"]:
                gate = os.open(sysroot / "gate", os.O_RDONLY)
                os.read(gate, 1)  # not more: the rest is for later holds
                os.close(gate)
            case ["deaf"]:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case ["print", count]:
                for _ in range(count):
                    print("x" * 999, flush=True)
            case ["child"]:
                child = subprocess.Popen(["sleep", "600"])
                write(sysroot / "child", str(child.pid))
            case ["host", host]:
                write(sysroot / "host.json", json.dumps(host))
            case ["outcome", outcome]:
                write(directory / "outcome.json", json.dumps(outcome))
                send(finished=True)
            case ["raw-outcome", text]:
                write(directory / "outcome.json", text)
            case ["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                raise ValueError(step)


def inspect(sysroot: Path) -> int:
    try:
        print(f'{{"host":{(sysroot / "host.json").read_text()}}}')
    except FileNotFoundError:
        print(
            json.dumps(
                {"name": "BackendFailed", "message": "the host is not there", "hint": "", "fields": {}}
            )
        )
        return 1
    return 0


match sys.argv[1:]:
    case ["run", directory, "--socket", address]:
        run(Path(directory), address)
    case ["inspect", "--sysroot", sysroot, *_]:
        sys.exit(inspect(Path(sysroot)))
    case ["diff" | "config-diff", "--sysroot", *_]:
        print("{}")
    case _:
        sys.exit(2)
