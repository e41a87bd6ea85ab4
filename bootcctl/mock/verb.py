"""The verb mock: shows the stand-in on a bus until it is stopped."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace

from bootcctl import exitcodes
from bootcctl.mock.interfaces import load_interfaces
from bootcctl.mock.scenario import BUILT_IN, load_scenario
from bootcctl.mock.world import World
from bootcctl.terminal import Terminal


def mock(options: Namespace, terminal: Terminal) -> int:
    """Run until a signal, or until the bus goes. Raises Failure."""
    if options.list:
        terminal.result("\n".join(f"{name:<10} {text}" for name, (text, _) in BUILT_IN.items()))
        terminal.document({"scenarios": {name: text for name, (text, _) in BUILT_IN.items()}})
        return exitcodes.DONE
    scenario = load_scenario(options.scenario, options.script)
    return asyncio.run(
        _run(World(scenario, load_interfaces(options.interfaces), options.speed), options, terminal)
    )


async def _run(world: World, options: Namespace, terminal: Terminal) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await world.exporter.connect(options.address, system=options.system)
    world.begin()
    where = options.address or ("the system bus" if options.system else "the session bus")
    terminal.line(f"org.bootcd1 is on {where}, as {options.script or options.scenario}; Ctrl-C ends it")
    terminal.event({"ready": True, "scenario": options.script or options.scenario})
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(world.exporter.gone())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await world.stop()
        world.exporter.disconnect()
    return exitcodes.DONE if stop.is_set() else exitcodes.UNREACHABLE
