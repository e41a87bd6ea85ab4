"""The tree of objects without a bus: what is told, what is held back, what is found where."""

from __future__ import annotations

from typing import Any

import pytest

from bootcd.bus.errors import ProtocolError
from bootcd.bus.objects import ObjectTree
from bootcd.bus.schema import Interface, Method, Property, Signal

ROOT = Interface.of("t.Root", Method("Do"), Property("A", "u", lambda source: source["A"]))
ITEM = Interface.of(
    "t.Item",
    Property("A", "u", lambda source: source["A"]),
    Property("B", "s", lambda source: source["B"]),
)


class Listener:
    def __init__(self) -> None:
        self.congested = False
        self.heard: list[tuple[Any, ...]] = []
        self.tree = ObjectTree("/r", self.emit, lambda: self.congested)
        self.tree.put("/r", ROOT, {"A": 0})

    def emit(self, path: str, interface: Interface, signal: Signal, *values: Any) -> None:
        assert signal in interface.signals.values()
        self.heard.append((path, signal.name, *values))

    def changes(self) -> list[Any]:
        """Return the changed properties that were told since the last time, by path."""
        told = [
            (path, {name: item.value for name, item in values[1].items()})
            for path, signal, *values in self.heard
            if signal == "PropertiesChanged"
        ]
        self.heard.clear()
        return told


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_put_tells_what_differs_in_one_change(listener: Listener) -> None:
    listener.tree.put("/r/i", ITEM, {"A": 1, "B": "x"})
    assert [event[:3] for event in listener.heard] == [("/r", "InterfacesAdded", "/r/i")]
    listener.heard.clear()
    listener.tree.put("/r/i", ITEM, {"A": 2, "B": "y"})
    listener.tree.put("/r/i", ITEM, {"A": 2, "B": "z"})
    assert listener.changes() == [("/r/i", {"A": 2, "B": "y"}), ("/r/i", {"B": "z"})]


def test_put_of_the_same_tells_nothing(listener: Listener) -> None:
    listener.tree.put("/r", ROOT, {"A": 0})
    assert listener.heard == []


def test_put_while_congested_is_merged_until_flush(listener: Listener) -> None:
    listener.tree.put("/r/i", ITEM, {"A": 1, "B": "x"})
    listener.heard.clear()
    listener.congested = True
    for number in range(100):
        listener.tree.put("/r/i", ITEM, {"A": number, "B": "x"})
    listener.tree.flush()
    assert listener.heard == []
    assert listener.tree.properties("/r/i", "t.Item")["A"].value == 99
    listener.congested = False
    listener.tree.flush()
    assert listener.changes() == [("/r/i", {"A": 99})]
    listener.tree.flush()
    assert listener.heard == []


def test_put_while_congested_that_returns_to_what_was_told_tells_nothing(listener: Listener) -> None:
    listener.congested = True
    listener.tree.put("/r", ROOT, {"A": 5})
    listener.tree.put("/r", ROOT, {"A": 0})
    listener.congested = False
    listener.tree.flush()
    assert listener.heard == []


def test_put_now_tells_although_congested(listener: Listener) -> None:
    listener.congested = True
    listener.tree.put("/r", ROOT, {"A": 5}, now=True)
    assert listener.changes() == [("/r", {"A": 5})]


def test_remove_forgets_held_changes(listener: Listener) -> None:
    listener.tree.put("/r/i", ITEM, {"A": 1, "B": "x"})
    listener.congested = True
    listener.tree.put("/r/i", ITEM, {"A": 2, "B": "x"})
    listener.tree.remove("/r/i")
    listener.tree.remove("/r/i")
    listener.congested = False
    listener.tree.flush()
    assert [event[1] for event in listener.heard] == ["InterfacesAdded", "InterfacesRemoved"]


@pytest.mark.parametrize(
    ("path", "interfaces"),
    [
        ("/", ["Peer", "Introspectable"]),
        ("/r", ["Peer", "Introspectable", "Properties", "ObjectManager", "Root"]),
        ("/r/sub", ["Peer", "Introspectable"]),
        ("/r/sub/i", ["Peer", "Introspectable", "Properties", "Item"]),
        ("/r/su", []),
        ("/x", []),
    ],
)
def test_interfaces_are_those_of_the_path(listener: Listener, path: str, interfaces: list[str]) -> None:
    listener.tree.put("/r/sub/i", ITEM, {"A": 1, "B": "x"})
    assert [item.name.rpartition(".")[2] for item in listener.tree.interfaces(path)] == interfaces


def test_properties_of_foreign_interface_is_unknown_and_of_standard_one_empty(listener: Listener) -> None:
    assert listener.tree.properties("/r", "org.freedesktop.DBus.Peer") == {}
    with pytest.raises(ProtocolError):
        listener.tree.properties("/r", "t.Item")
