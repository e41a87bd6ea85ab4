"""The main job, narrated: `make demo`.

A registry, a booted host, a bus with our policy and polkit, the daemon and its client, all real and all in
one temporary directory; nothing else is touched. What is left out is the power-on: the host boots in
namespaces of this machine's kernel (see `tests.support.machine`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.support.host import BOOTCCTL, PERSON, Host, new_host
from tests.support.machine import REPOSITORY
from tests.support.os_image import cached_os_images

_BOLD, _DIM, _PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text: str) -> None:
    print(f"\n{_BOLD}== {text}{_PLAIN}", flush=True)


async def run(host: Host, *arguments: str, user: int = 0) -> int:
    """Show a command, run it on the host with this terminal, return its exit code."""
    prompt = "$" if user else "#"
    print(f"{_DIM}{prompt} bootcctl {' '.join(arguments)}{_PLAIN}", flush=True)
    process = await host.machine.popen(
        [BOOTCCTL, *arguments],
        user=user,
        env={"TERM": os.environ.get("TERM", "dumb"), "COLUMNS": str(shutil.get_terminal_size().columns)},
    )
    return await process.wait()


async def expect(code: int, host: Host, *arguments: str, user: int = 0) -> None:
    if (got := await run(host, *arguments, user=user)) != code:
        log = host.log.read_text()[-3000:] if host.log.exists() else "(none)"
        raise RuntimeError(f"bootcctl {arguments[0]} ended with {got}, not {code}; the daemon's log:\n{log}")


async def reboot(host: Host) -> None:
    await host.machine.reboot_requested()
    say("The host reboots")
    await host.reboot()
    await expect(0, host, "status", "--format=human", user=PERSON)


async def demo(directory: Path) -> None:
    started = time.monotonic()
    images = await asyncio.to_thread(cached_os_images, REPOSITORY / ".cache/os-image", say=say)
    async with new_host(directory, images) as host:
        say("A registry on loopback gets version 1 of an operating system made from Debian packages")
        await host.publish("v1")
        await host.publish("other", name="example/other")
        print(f"published {host.reference}")

        say("An empty disk gets it: pulled, imported into an ostree system root, deployed")
        outcome = await host.deploy()
        assert outcome.update is not None
        print(f"deployed {outcome.update.image}, {outcome.bytes_fetched >> 20} MiB fetched")

        say("The host boots; an ordinary user asks for its status")
        await host.boot()
        await expect(0, host, "status", "--format=human", user=PERSON)

        say("Is there anything new? Not yet")
        await expect(77, host, "check")

        say("Version 2 is published, and found")
        await host.publish("v2")
        await expect(0, host, "check")

        say("An ordinary user may look, and may not change anything")
        if await run(host, "upgrade", user=PERSON) == 0:
            raise RuntimeError("an ordinary user could upgrade the host")

        say("Root stages it: only the layers that changed are fetched")
        await expect(0, host, "upgrade")
        await expect(0, host, "status", "--format=human", user=PERSON)

        say("Root applies it")
        await expect(0, host, "apply")
        await reboot(host)

        say("Version 2 was not meant to be: back to version 1")
        await expect(0, host, "rollback", "--apply")
        await reboot(host)

        say("And now something else: another image")
        await expect(0, host, "switch", "--apply", f"{host.registry.host}/example/other:stable")
        await reboot(host)

        say("What happened here")
        await expect(0, host, "history")
        say("Everything is taken away again")
    print(f"\n{_BOLD}Done in {time.monotonic() - started:.0f} seconds; everything is cleaned up.{_PLAIN}")


def main() -> int:
    if os.geteuid() != 0:
        print(
            "demo: root is needed to make file systems with owners and namespaces: sudo make demo",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="bootcd-demo-"))
    try:
        asyncio.run(demo(directory))
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is cleaned up", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except TimeoutError:
        print("\ndemo: a step took much too long; this machine may be very busy", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
