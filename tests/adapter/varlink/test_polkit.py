"""Callers of the socket and the real polkit, which the front end on the bus asks."""

from __future__ import annotations

from pathlib import Path

from bootcd.bus.frontend import Frontend as BusFrontend
from bootcd.varlink.frontend import Frontend
from tests.support.bus import PrivateBus
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import service as service
from tests.support.bus_peers import NOBODY, polkit
from tests.support.scripted_agent import ScriptedService
from tests.support.varlink import user_client

RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.bootcd1.check" && subject.user == "nobody") return polkit.Result.YES;
    if (action.id == "org.bootcd1.switch" && action.lookup("image") == "registry.test/os:2"
        && subject.user == "nobody") return polkit.Result.YES;
    if (action.id == "org.bootcd1.reload") return polkit.Result.NO;
});
"""


async def test_polkit_decides_for_the_process_that_connected(
    bus: PrivateBus, front: BusFrontend, service: ScriptedService, tmp_path: Path
) -> None:
    path = Path(bus.address.removeprefix("unix:path=")).parent / "io.bootcd"
    varlink = Frontend(service, path, front.authorise, "9.9")
    await varlink.start()
    try:
        async with polkit(bus, tmp_path, RULES), user_client(path, NOBODY) as nobody:
            assert "parameters" in (reply := await nobody.call("io.bootcd.Check"))
            assert "error" not in reply
            assert "error" not in await nobody.call("io.bootcd.Switch", {"image": "registry.test/os:2"})
            reply = await nobody.call("io.bootcd.Switch", {"image": "registry.test/os:3"})
            assert reply["error"] == "io.bootcd.InteractiveAuthorizationRequired"
            assert (await nobody.call("io.bootcd.Reload"))["error"] == "io.bootcd.AccessDenied"
        async with user_client(path, NOBODY) as nobody:
            reply = await nobody.call("io.bootcd.Check")
            assert reply["error"] == "io.bootcd.AccessDenied"
            assert "polkit" in reply["parameters"]["hint"]
    finally:
        await varlink.stop()
    assert [call[0] for call in service.calls] == ["check", "switch"]
