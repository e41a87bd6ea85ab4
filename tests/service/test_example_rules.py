"""The rules administrators may copy, in the real polkitd, with the user and group the tests have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbus_fast import Variant

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import MANAGER, ROOT_PATH
from bootcd.model.trust import TrustPolicy
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import service as service
from tests.support.bus_peers import UserProcess, polkit, user
from tests.support.scripted_agent import ScriptedService

EXAMPLES = Path(__file__).resolve().parents[2] / "dbus/examples"
ERROR = "org.freedesktop.DBus.Error."
NEEDS_PROMPT, DENIED = ERROR + "InteractiveAuthorizationRequired", ERROR + "AccessDenied"
APPLIED = {"apply": Variant("b", True)}


def example(name: str, theirs: str, ours: str) -> str:
    rules = (EXAMPLES / name).read_text()
    assert theirs in rules
    return rules.replace(theirs, ours)


async def error_of(caller: UserProcess, member: str, *body: Any) -> str:
    answer = await caller.call(ROOT_PATH, MANAGER.name, member, MANAGER.methods[member].signature, [*body])
    return answer.error


async def test_wheel_needs_no_password_for_updates_and_one_for_other_images(
    bus: PrivateBus, front: Frontend, service: ScriptedService, tmp_path: Path
) -> None:
    rules = example("60-bootcd-wheel.rules", '"wheel"', '"nogroup"')
    async with polkit(bus, tmp_path, rules), user(bus.address) as member, user(bus.address, uid=1) as other:
        for verb, *body in (("Check", {}), ("Upgrade", APPLIED), ("Rollback", {}), ("Apply", {})):
            assert await error_of(member, verb, *body) == "", verb
            assert await error_of(other, verb, *body) == NEEDS_PROMPT, verb
        for verb, *body in (
            ("Switch", "quay.io/example/os:2", {}),
            ("Upgrade", {"tag": Variant("s", "edge")}),
            ("SetKernelArguments", {"append": Variant("as", ["quiet"])}),
        ):
            assert await error_of(member, verb, *body) == NEEDS_PROMPT, verb
    assert [call[0] for call in service.calls] == ["check", "upgrade", "rollback", "apply"]


async def test_service_user_takes_what_is_signed_within_one_repository(
    bus: PrivateBus, front: Frontend, service: ScriptedService, tmp_path: Path
) -> None:
    rules = example("60-bootcd-service-user.rules", '"updater"', '"nobody"')
    async with polkit(bus, tmp_path, rules), user(bus.address) as updater, user(bus.address, uid=1) as other:
        assert await error_of(updater, "Upgrade", {}) == DENIED
        service.update(trust=TrustPolicy(scope="docker quay.io/example", verifies=True))
        assert await error_of(other, "Upgrade", {}) == NEEDS_PROMPT
        for verb, *body in (
            ("Check", {}),
            ("Upgrade", APPLIED),
            ("Switch", "quay.io/example/os:2", {}),
        ):
            assert await error_of(updater, verb, *body) == "", verb
        for verb, *body in (
            ("Switch", "quay.io/example/os-of-others:2", {}),
            ("Switch", "quay.io/example/os:2", {"transport": Variant("s", "oci")}),
            ("Upgrade", {"tag": Variant("s", "edge")}),
            ("Upgrade", {"allow-downgrade": Variant("b", True)}),
            ("Rollback", {}),
            ("Drop", "rollback", {}),
        ):
            assert await error_of(updater, verb, *body) == DENIED, verb
    assert [call[0] for call in service.calls] == ["check", "upgrade", "switch"]
