"""The D-Bus manual is what its sources say, and the files beside the XML fit the service."""

from __future__ import annotations

import configparser
import re
import xml.etree.ElementTree as ET

import pytest

from bootcd.bus.frontend import SERVICE_NAME
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER
from bootcd.bus.schema import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, Interface
from tests.meta.dbus_docs import PAGE, REPOSITORY, page

DBUS = REPOSITORY / "dbus"


def test_dbus_manual_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.meta.dbus_docs"


def test_dbus_manual_explains_every_member() -> None:
    text = page()
    for interface in (MANAGER, DEPLOYMENT, JOB):
        for name in (*interface.methods, *interface.signals):
            assert f"- `{name}(" in text
        for item in interface.properties:
            assert f"- `{item.name}` `{item.signature}`" in text


@pytest.mark.parametrize("interface", [MANAGER, JOB], ids=lambda interface: interface.name)
def test_dbus_manual_names_every_option_with_its_type(interface: Interface) -> None:
    text = (DBUS / f"{interface.name}.xml").read_text()
    for method in interface.methods.values():
        before = text.partition(f'<method name="{method.name}">')[0]
        comment = " ".join(before.rpartition("<!--")[2].split())
        for name, kind in (method.options or {}).items():
            # An option that was explained before is only named with its type.
            assert re.search(rf"\b{name} {kind}\b", comment), f"{method.name}: {name}"


def test_examples_of_the_dbus_manual_are_calls_the_service_takes() -> None:
    call = r"^busctl call org\.bootcd1 (\S+) (\S+) (\w+) '(\S+)'(.*)$"
    calls = re.findall(call, PAGE.read_text(), re.MULTILINE)
    assert len(calls) >= 4
    for path, name, member, signature, rest in calls:
        interface = {item.name: item for item in (MANAGER, JOB)}[name]
        assert path.startswith("/org/bootcd1")
        method = interface.methods[member]
        assert method.signature == signature
        count, *options = rest.split()
        given = {options[index]: options[index + 1] for index in range(0, len(options), 3)}
        assert len(given) == int(count)
        assert given.items() <= (method.options or {}).items()


def test_bus_policy_opens_exactly_the_interfaces_the_service_has() -> None:
    policy = ET.parse(DBUS / "org.bootcd1.conf").getroot()
    allowed = [item.attrib for item in policy.findall("policy[@context='default']/allow")]
    assert {item["send_interface"] for item in allowed} == {
        interface.name
        for interface in (MANAGER, DEPLOYMENT, JOB, PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER)
    }
    assert all(set(item) == {"send_destination", "send_interface"} for item in allowed)
    assert {item["send_destination"] for item in allowed} == {SERVICE_NAME}
    owners = [item.attrib for item in policy.findall("policy[@user='root']/allow")]
    assert owners == [{"own": SERVICE_NAME}]


def test_activation_file_leaves_the_start_to_systemd() -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DBUS / "org.bootcd1.service")
    assert dict(parser["D-BUS Service"]) == {
        "Name": SERVICE_NAME,
        "Exec": "/bin/false",
        "User": "root",
        "SystemdService": "bootcd.service",
    }
