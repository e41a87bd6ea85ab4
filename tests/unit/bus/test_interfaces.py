"""The interfaces in code against the contract in dbus/, and what they make of the model."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.agent.snapshot import Snapshot
from bootcd.bus.entries import microseconds
from bootcd.bus.interfaces import (
    DEPLOYMENT,
    JOB,
    MANAGER,
    JobView,
    ManagerView,
    deployment_path,
)
from bootcd.bus.schema import Interface, variant
from bootcd.model.host import BootEntry, OstreeStatus
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Progress,
    Requester,
)
from tests.support.machine import REPOSITORY

POLICY = REPOSITORY / "dbus/org.bootcd1.policy"
NUMBERS = st.integers(-(2**70), 2**70)
TEXTS = st.text(st.characters(codec=None))
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def canonical(interface: ET.Element) -> Any:
    """Return an interface as nested lists: members in any order, arguments in theirs."""
    children = [canonical(child) for child in interface]
    inside = children if interface.tag in ("method", "signal") else sorted(children)
    return [interface.tag, sorted(interface.attrib.items()), inside]


@pytest.mark.parametrize("interface", [MANAGER, DEPLOYMENT, JOB], ids=lambda interface: interface.name)
def test_interface_equals_its_contract(interface: Interface) -> None:
    contract = ET.parse(REPOSITORY / f"dbus/{interface.name}.xml").getroot().find("interface")
    assert contract is not None
    assert canonical(ET.fromstring(interface.to_xml())) == canonical(contract)


@pytest.mark.parametrize("interface", [MANAGER, JOB], ids=lambda interface: interface.name)
def test_contract_names_options_and_action_of_every_method(interface: Interface) -> None:
    text = (REPOSITORY / f"dbus/{interface.name}.xml").read_text()
    for method in interface.methods.values():
        comment = text.partition(f'<method name="{method.name}"')[0].rpartition("<!--")[2]
        for name, signature in (method.options or {}).items():
            assert f"{name} {signature}" in comment, method.name
        if method.options == {}:
            assert "Options: none yet" in comment, method.name
        if method.right:
            assert f"org.bootcd1.{method.right.action}" in comment, method.name


def test_policy_file_defines_exactly_the_actions_methods_ask_for() -> None:
    policy = ET.parse(POLICY).getroot()
    defined = {action.get("id") for action in policy.iter("action")}
    asked = {
        f"org.bootcd1.{action}"
        for interface in (MANAGER, JOB)
        for method in interface.methods.values()
        if method.right
        for action in (
            method.right.action,
            method.right.unverified_action,
            *method.right.option_actions.values(),
            *method.right.mode_actions.values(),
        )
        if action
    }
    assert defined == asked
    implied = {name for item in policy.iter("annotate") for name in (item.text or "").split()}
    assert implied <= defined


@pytest.mark.parametrize(
    "action", ["upgrade-unverified", "switch", "rollback", "apply", "ignore-inhibitors", "cancel", "reload"]
)
def test_policy_lets_nobody_change_anything_without_authentication(action: str) -> None:
    [found] = [
        item
        for item in ET.parse(POLICY).getroot().iter("action")
        if item.get("id") == f"org.bootcd1.{action}"
    ]
    defaults = found.find("defaults")
    assert defaults is not None
    assert all(re.fullmatch("auth_admin(_keep)?", item.text or "") for item in defaults)
    assert len(defaults) == 3


def test_only_a_verified_upgrade_is_free_and_only_for_who_sits_at_the_machine() -> None:
    found = {
        item.get("id"): {kind.tag: kind.text for kind in item.find("defaults") or ()}
        for item in ET.parse(POLICY).getroot().iter("action")
    }
    free = {name for name, kinds in found.items() if "yes" in kinds.values()}
    assert free == {"org.bootcd1.check", "org.bootcd1.upgrade", "org.bootcd1.inhibit-delay"}
    assert found["org.bootcd1.upgrade"] == {
        "allow_any": "auth_admin",
        "allow_inactive": "auth_admin",
        "allow_active": "yes",
    }


@given(TEXTS, NUMBERS, st.floats(0, allow_nan=False), st.sampled_from(JobState))
def test_render_job_of_any_numbers_and_texts_gives_values_the_bus_takes(
    text: str, number: int, eta: float, state: JobState
) -> None:
    progress = Progress.model_construct(
        phase=Progress().phase,
        bytes_done=number,
        bytes_total=number,
        bytes_cached=number,
        steps_done=number,
        steps_total=number,
        cancellable=True,
    )
    record = JobRecord.model_construct(
        number=1,
        request=JobRequest.model_construct(uuid=text, kind=JobKind.CHECK, image=text),
        requester=Requester.model_construct(uid=number, pid=number, name=text),
        state=state,
        created=WHEN,
        finished=None,
        progress=progress,
        outcome=Outcome(
            state=state, update=ImageUpdate(image=text, digest=text, download_bytes=number), dropped=text
        ),
    )
    shown = JOB.render(JobView(record, eta))
    assert set(shown) == {item.name for item in JOB.properties}
    assert shown["Progress"].value == -1 or 0 <= shown["Progress"].value <= 1


@given(TEXTS, NUMBERS, st.one_of(st.none(), st.datetimes(), st.datetimes(timezones=st.just(UTC))))
def test_render_manager_of_any_snapshot_gives_values_the_bus_takes(
    text: str, number: int, when: datetime | None
) -> None:
    snapshot = Snapshot(
        version=text,
        backend=text,
        state=text,
        state_since=when or WHEN,
        generation=number,
        last_check=when,
        last_check_result=text,
        mode=text,
    )
    shown = MANAGER.render(ManagerView(snapshot, "/"))
    assert set(shown) == {item.name for item in MANAGER.properties}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (None, 0),
        (datetime(1969, 12, 31, tzinfo=UTC), 0),
        (datetime(1, 1, 1), 0),  # noqa: DTZ001
        (datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC), 1_000_005),
        (datetime(1970, 1, 1, 0, 0, 1), 1_000_000),  # noqa: DTZ001
    ],
    ids=["none", "before-epoch", "year-one", "exact", "naive-is-utc"],
)
def test_microseconds_of_any_time_fits(when: datetime | None, expected: int) -> None:
    assert microseconds(when) == expected


def test_deployment_path_without_ostree_is_root() -> None:
    entry = BootEntry(ostree=OstreeStatus(stateroot="s", checksum="c" * 64, deploy_serial=2))
    assert deployment_path(entry) == f"/org/bootcd1/deployment/_{'c' * 64}_2"
    assert deployment_path(BootEntry()) == deployment_path(None) == "/"


@pytest.mark.parametrize(("signature", "value"), [("u", -1), ("t", 2**70), ("x", -(2**70))])
def test_variant_number_out_of_range_is_brought_into_it(signature: str, value: int) -> None:
    assert variant(signature, value).signature == signature
