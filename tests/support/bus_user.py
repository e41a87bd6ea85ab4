"""An unprivileged client of the bus: reads calls as JSON lines, prints answers as JSON lines.

Run as `python -m tests.support.bus_user ADDRESS UID PID`. It starts as root, so that it can read the
code wherever it lies, and drops to the user before it connects. With a PID other than 0 it is the
authentication agent of that process of the same user.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant

from tests.support.bus_peers import POLKIT, Peer, connected, from_json, to_json

AGENT_PATH = "/agent"


def tell(number: int, error: str, body: list[Any]) -> None:
    sys.stdout.buffer.write(to_json([number, error, body]))
    sys.stdout.buffer.flush()


async def answer(peer: Peer, request: list[Any]) -> None:
    number, path, interface, member, signature, body, destination, interactive = request
    try:
        reply = await peer.call(
            path, interface, member, signature, body, destination=destination, interactive=interactive
        )
    except Exception as error:  # the test sees what went wrong here as an error it did not expect
        tell(number, f"client.{type(error).__name__}", [str(error)])
    else:
        tell(number, reply.error, reply.body)


async def register_agent(peer: Peer, pid: int) -> None:
    """Become the authentication agent of a process: tell of prompts and never answer them."""

    def on_message(message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.path != AGENT_PATH:
            return False
        tell(-1, str(message.member), [])
        if message.member == "CancelAuthentication":
            peer.bus.send(Message.new_method_return(message))
        return True

    peer.bus.add_message_handler(on_message)
    start_time = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    subject = [
        "unix-process",
        {
            "pid": Variant("u", pid),
            "start-time": Variant("t", start_time),
            "uid": Variant("i", os.getuid()),
        },
    ]
    reply = await peer.call(
        "/org/freedesktop/PolicyKit1/Authority",
        f"{POLKIT}.Authority",
        "RegisterAuthenticationAgent",
        "(sa{sv})ss",
        [subject, "C", AGENT_PATH],
        destination=POLKIT,
    )
    assert not reply.error, f"{reply.error}: {reply.body}"


async def main(address: str, uid: int, served: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    async with connected(address) as peer:
        if served:
            await register_agent(peer, served)
        tell(-1, "ready", [])
        loop, tasks = asyncio.get_running_loop(), set()
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            tasks.add(asyncio.create_task(answer(peer, from_json(line))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
