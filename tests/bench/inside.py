"""What the bench runs inside the simulated host as an ordinary user; prints seconds as JSON.

`latency INTERVAL` calls GetStatus until its standard input ends and prints [when, took] pairs, the time as
everybody's CLOCK_MONOTONIC. `startup COUNT COMMAND...` runs a command so many times.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time


async def latency(interval: float) -> list[tuple[float, float]]:
    # Only here: the other verb measures how fast an interpreter can be.
    from dbus_fast import BusType, Message, MessageType
    from dbus_fast.aio import MessageBus

    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    found = []
    first = True
    while not ended.done():
        started = time.monotonic()
        reply = await bus.call(
            Message(
                destination="org.bootcd1",
                path="/org/bootcd1",
                interface="org.bootcd1.Manager",
                member="GetStatus",
                signature="a{sv}",
                body=[{}],
            )
        )
        assert reply is not None
        assert reply.message_type is MessageType.METHOD_RETURN, reply.body
        found.append((started, time.monotonic() - started))
        if first:
            print("ready", flush=True)
            first = False
        await asyncio.sleep(interval)
    bus.disconnect()
    return found


def startup(count: int, command: list[str]) -> list[float]:
    found = []
    for _ in range(count):
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.monotonic() - started)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "latency":
        print(json.dumps(asyncio.run(latency(float(sys.argv[2])))))
    else:
        print(json.dumps(startup(int(sys.argv[2]), sys.argv[3:])))
