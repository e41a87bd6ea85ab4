"""bootc's own storage code, as a program: crate `ostree-ext`, by which bootc pulls, stores and prunes images.

`make interop` builds it once; without it the tests that need it are skipped, by name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.machine import REPOSITORY

_SOURCE = Path(__file__).with_name("peer")


def binary() -> Path:
    """Return where the peer is, or would be once built."""
    files = [_SOURCE / "Cargo.toml", _SOURCE / "Cargo.lock", _SOURCE / "src/main.rs"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    return REPOSITORY / ".cache/peer" / key


def build() -> Path:
    """Build the peer unless it is there; takes minutes, and needs crates from their registry."""
    target = binary()
    if not target.exists():
        if shutil.which("cargo") is None:
            raise SystemExit("the peer needs Rust 1.74 or newer: install it from https://rustup.rs")
        work = target.with_suffix(".build")
        command = ["cargo", "build", "--release", "--locked", "--manifest-path", _SOURCE / "Cargo.toml"]
        subprocess.run(command, check=True, env=os.environ | {"CARGO_TARGET_DIR": str(work)})
        shutil.copy2(work / "release/peer", work / "peer")
        (work / "peer").rename(target)
        shutil.rmtree(work)
    return target


async def run(*arguments: str | Path, timeout: float = 300) -> str:
    """Run the peer to its end and return what it printed; RuntimeError with its words if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(binary(), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(timeout):
        output, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the peer failed: {errors.decode().strip()}")
    return output.decode()


if __name__ == "__main__":
    print(build())
