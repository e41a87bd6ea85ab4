"""Stage the newest version of the host's image and show how far it is: python3 upgrade.py"""

import asyncio
import sys

from dbus_fast import BusType, Message, MessageFlag, MessageType, unpack_variants
from dbus_fast.aio import MessageBus

ROOT, JOB = "/org/bootcd1", "org.bootcd1.Job"
DBUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


async def call(bus, name, path, interface, member, signature="", *body):
    message = Message(name, path, interface, member, signature=signature, body=[*body])
    message.flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION  # a person is here who may be asked
    reply = await bus.call(message)
    if reply.message_type is MessageType.ERROR:
        sys.exit(f"{reply.error_name}\n{reply.body[0]}")  # a sentence, and on a second line what to do
    return unpack_variants(reply.body)


def show(message):
    if message.member == "PropertiesChanged" and message.body[0] == JOB:
        changed = unpack_variants(message.body[1])
        if changed.get("Progress", -1) >= 0:  # -1: not known yet
            print(f"{changed.get('Phase', ''):8} {changed['Progress']:4.0%}", flush=True)


async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    bus.add_message_handler(show)
    # Listen before asking, so that no step is missed.
    await call(bus, *DBUS, "AddMatch", "s", f"type='signal',sender='org.bootcd1',path_namespace='{ROOT}'")
    [job] = await call(bus, "org.bootcd1", ROOT, "org.bootcd1.Manager", "Upgrade", "a{sv}", {})
    result, outcome = await call(bus, "org.bootcd1", job, JOB, "Wait", "a{sv}", {})
    if result == "failed":
        [ended] = await call(bus, "org.bootcd1", job, "org.freedesktop.DBus.Properties", "GetAll", "s", JOB)
        sys.exit(f"{ended['ErrorMessage']}\n{ended['ErrorHint']}")
    news = f"{outcome['version']} at the next boot" if outcome.get("changed") else "no change"
    print(f"{result}: {news}")


asyncio.run(main())
