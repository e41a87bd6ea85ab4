"""A stand-in for the `bootc` command, which cannot be had here: it records its calls and answers.

    directory/
        calls           one JSON list of arguments a line
        host.json       what `status` prints; a rollback turns the boot order in it
        after.json      what it prints once an upgrade, a switch or a rollback has ended; moved to host.json
        progress        lines for --progress-fd
        fail            words of a failure of anything but `status`
        wait            a pull prints its progress and waits to be stopped, noting the signal in `stopped`

Answers follow `docs/src/*.schema.json` and `cli.rs` of https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = """\
#!{python} -I
import json, os, signal, sys, time
from pathlib import Path

here = Path({directory!r})
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if arguments[0] == "status":
    sys.stdout.write((here / "host.json").read_text())
    sys.exit(0)
for argument in arguments:
    if argument.startswith("--progress-fd="):
        descriptor = int(argument.partition("=")[2])
        if (here / "wait").exists():
            def stopped(number, _):
                (here / "stopped").write_text(signal.Signals(number).name)
                sys.exit(130)
            signal.signal(signal.SIGTERM, stopped)
        if (here / "progress").exists():
            data = (here / "progress").read_bytes()
            while data:
                data = data[os.write(descriptor, data):]
        if (here / "wait").exists():
            signal.pause()
        os.close(descriptor)
if (here / "fail").exists():
    sys.stderr.write((here / "fail").read_text())
    sys.exit(1)
if (here / "after.json").exists():
    (here / "after.json").rename(here / "host.json")
elif arguments[0] == "rollback":
    host = json.loads((here / "host.json").read_text())
    queued = not host["status"]["rollbackQueued"]
    host["status"] |= {{"rollbackQueued": queued, "staged": None}}
    host["spec"]["bootOrder"] = "rollback" if queued else "default"
    (here / "host.json").write_text(json.dumps(host))
"""

VERITY = {"booted": "ab" * 64, "staged": "cd" * 64, "rollback": "ef" * 64}


class BootcStandIn:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.program = directory / "bootc"
        self.program.write_text(SCRIPT.format(python=sys.executable, directory=str(directory)))
        self.program.chmod(0o755)

    def answer(self, name: str, content: str | bytes | dict[str, Any]) -> None:
        data = json.dumps(content) if isinstance(content, dict) else content
        (self.directory / name).write_bytes(data.encode() if isinstance(data, str) else data)

    def reboot(self) -> None:
        """Boot what the boot order says: the rollback if it is queued."""
        host = json.loads((self.directory / "host.json").read_text())
        status = host["status"]
        if status["rollbackQueued"]:
            status |= {"booted": status["rollback"], "rollback": status["booted"], "rollbackQueued": False}
        host["spec"]["bootOrder"] = "default"
        self.answer("host.json", host)

    @property
    def calls(self) -> list[list[str]]:
        """Return the arguments of all calls that changed something or could have."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call[0] != "status"]


def composefs_entry(role: str, version: str, **changes: Any) -> dict[str, Any]:
    """Return a deployment of a composefs-native host."""
    image = {"image": "quay.io/example/os:1", "transport": "registry"}
    return {
        "image": {
            "image": image,
            "version": version,
            "timestamp": "2026-01-02T03:04:05Z",
            "imageDigest": f"sha256:{version.encode().hex():0<64}",
            "architecture": "amd64",
        },
        "cachedUpdate": None,
        "incompatible": False,
        "pinned": False,
        "softRebootCapable": False,
        "downloadOnly": False,
        "store": None,
        "ostree": None,
        "composefs": {
            "verity": VERITY[role],
            "bootType": "Bls",
            "bootloader": "systemd",
            "bootDigest": None,
            "missingVerityAllowed": True,
        },
        **changes,
    }


def composefs_host(**entries: dict[str, Any] | None) -> dict[str, Any]:
    """Return a host with these deployments by role, beside a booted one."""
    booted = entries.get("booted") or composefs_entry("booted", "1")
    roles = {"staged": None, "rollback": None, **entries, "booted": booted}
    return {
        "apiVersion": "org.containers.bootc/v1",
        "kind": "BootcHost",
        "metadata": {"name": "host"},
        "spec": {"image": booted["image"]["image"], "bootOrder": "default"},
        "status": {
            **roles,
            "rollbackQueued": False,
            "type": "bootcHost",
            "usrOverlay": None,
            "readOnly": False,
        },
    }
