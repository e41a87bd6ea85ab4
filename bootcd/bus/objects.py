"""The exported objects: what is at each path, and the signals that keep clients in step with it.

Changes are told by comparing what an object shows now with what was last told. While the bus does
not read, changes are held and merged, so memory stays bounded however long it stalls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from dbus_fast import Variant

from bootcd.bus.errors import ProtocolError
from bootcd.bus.schema import (
    INTROSPECTABLE,
    OBJECT_MANAGER,
    PEER,
    PROPERTIES,
    Interface,
    Signal,
    node_xml,
)

Properties = dict[str, Variant]


class Emit(Protocol):
    """Send a signal to whoever listens; never raises, never waits."""

    def __call__(self, path: str, interface: Interface, signal: Signal, *values: Any) -> None: ...


class _Object:
    def __init__(self, interface: Interface, shown: Properties) -> None:
        self.interface = interface
        self.shown = shown
        self.told = shown


class ObjectTree:
    """Objects by path, each with one interface; the root is the ObjectManager of those below it.

    `congested` says whether the bus has stopped reading; once it reads again, call `flush`.
    """

    def __init__(self, root: str, emit: Emit, congested: Callable[[], bool]) -> None:
        self._root = root
        self._emit = emit
        self._congested = congested
        self._objects: dict[str, _Object] = {}

    def put(self, path: str, interface: Interface, source: Any, *, now: bool = False) -> None:
        """Show an object, new or changed; with `now` its change is not held back."""
        shown = interface.render(source)
        known = self._objects.get(path)
        if known is None:
            self._objects[path] = _Object(interface, shown)
            if self._is_managed(path):
                self._tell_manager("InterfacesAdded", path, {interface.name: shown})
            return
        known.shown = shown
        if any(item.writable for item in interface.properties):
            known.told = shown
        if now or not self._congested():
            self._tell_change(path, known)

    def remove(self, path: str) -> None:
        gone = self._objects.pop(path, None)
        if gone is not None:
            self._tell_manager("InterfacesRemoved", path, [gone.interface.name])

    def flush(self) -> None:
        """Tell the changes that were held back, as far as the bus takes them."""
        for path, item in self._objects.items():
            if self._congested():
                return
            self._tell_change(path, item)

    def paths(self, below: str) -> tuple[str, ...]:
        return tuple(path for path in self._objects if path.startswith(below + "/"))

    def interfaces(self, path: str) -> tuple[Interface, ...]:
        """Return what can be called at a path; nothing for a path that does not exist."""
        item = self._objects.get(path)
        if item is None:
            return (PEER, INTROSPECTABLE) if self._children(path) else ()
        manager = (OBJECT_MANAGER,) if path == self._root else ()
        return (PEER, INTROSPECTABLE, PROPERTIES, *manager, item.interface)

    def properties(self, path: str, interface: str) -> Properties:
        """Return the properties of one interface at a path; the empty name stands for ours."""
        item = self._objects[path]
        if interface in ("", item.interface.name):
            return item.shown
        if any(interface == known.name for known in self.interfaces(path)):
            return {}
        raise ProtocolError("UnknownInterface", f"{path} has no interface {interface}")

    def is_writable(self, path: str, interface: str, name: str) -> bool:
        """Tell whether there is a property that can be set."""
        item = self._objects.get(path)
        return (
            item is not None
            and interface in ("", item.interface.name)
            and any(known.writable for known in item.interface.properties if known.name == name)
        )

    def managed(self) -> dict[str, dict[str, Properties]]:
        """Return all objects below the root, as GetManagedObjects answers."""
        return {
            path: {item.interface.name: item.shown}
            for path, item in self._objects.items()
            if self._is_managed(path)
        }

    def introspect(self, path: str) -> str:
        return node_xml(self.interfaces(path), self._children(path))

    def _is_managed(self, path: str) -> bool:
        return path.startswith(self._root + "/")

    def _children(self, path: str) -> tuple[str, ...]:
        prefix = path.rstrip("/") + "/"
        below = (known.removeprefix(prefix) for known in self._objects if known.startswith(prefix))
        return tuple(sorted({name.split("/", 1)[0] for name in below}))

    def _tell_change(self, path: str, item: _Object) -> None:
        changed = {name: value for name, value in item.shown.items() if value != item.told[name]}
        item.told = item.shown
        if changed:
            signal = PROPERTIES.signals["PropertiesChanged"]
            self._emit(path, PROPERTIES, signal, item.interface.name, changed, [])

    def _tell_manager(self, signal: str, *values: Any) -> None:
        self._emit(self._root, OBJECT_MANAGER, OBJECT_MANAGER.signals[signal], *values)
