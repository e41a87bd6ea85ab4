"""Objects on a bus with the interfaces of the XML files: calls in, answers and signals out."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any
from xml.sax.saxutils import quoteattr

from dbus_fast import (
    BusType,
    DBusFastError,
    Message,
    MessageFlag,
    MessageType,
    NameFlag,
    RequestNameReply,
    Variant,
)
from dbus_fast.aio import MessageBus

from bootcctl.client import SERVICE
from bootcctl.exitcodes import Failure
from bootcctl.mock.interfaces import Interface, blank, split

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_FREEDESKTOP = "org.freedesktop.DBus."
_STANDARD = """\
  <interface name="org.freedesktop.DBus.Peer"><method name="Ping"/>
    <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method></interface>
  <interface name="org.freedesktop.DBus.Introspectable"><method name="Introspect">
    <arg name="xml_data" type="s" direction="out"/></method></interface>
"""
_PROPERTIES = """\
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get"><arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/><arg name="value" type="v" direction="out"/></method>
    <method name="GetAll"><arg name="interface_name" type="s" direction="in"/>
      <arg name="props" type="a{sv}" direction="out"/></method>
    <method name="Set"><arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/><arg name="value" type="v" direction="in"/></method>
    <signal name="PropertiesChanged"><arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/><arg name="invalidated_properties" type="as"/></signal>
  </interface>
"""
_MANAGER = """\
  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects"><arg name="objects" type="a{oa{sa{sv}}}" direction="out"/></method>
    <signal name="InterfacesAdded"><arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/></signal>
    <signal name="InterfacesRemoved"><arg name="object" type="o"/><arg name="interfaces" type="as"/></signal>
  </interface>
"""

Answer = Callable[[str, str, str, list[Any], bool], Awaitable[tuple[list[Any], list[int]]]]
"Path, interface, member, arguments and whether a person may be asked, to an answer and its descriptors."


class BusError(Exception):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text


class Exporter:
    def __init__(self, root: str, interfaces: dict[str, Interface], answer: Answer) -> None:
        self._root = root
        self._interfaces = interfaces
        self._answer = answer
        self._objects: dict[str, dict[str, dict[str, Variant]]] = {}
        self._bus: MessageBus | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, address: str, *, system: bool) -> None:
        """Connect and take the name. Raises Failure."""
        kind = BusType.SYSTEM if system else BusType.SESSION
        try:
            self._bus = await MessageBus(address or None, kind, negotiate_unix_fd=True).connect()
            self._bus.add_message_handler(self._on_message)
            await self.own()
        except (OSError, EOFError, DBusFastError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it refused the connection"
            raise Failure("Unreachable", f"the bus cannot be used: {reason}") from None

    async def own(self) -> None:
        assert self._bus is not None
        reply = await self._bus.request_name(SERVICE, NameFlag.DO_NOT_QUEUE)
        if reply is not RequestNameReply.PRIMARY_OWNER:
            raise Failure("WrongState", f"{SERVICE} is on this bus already")

    async def leave(self) -> None:
        """Give the name up, as a service that ends."""
        assert self._bus is not None
        await self._bus.release_name(SERVICE)

    async def gone(self) -> None:
        """Return when the bus has closed the connection."""
        assert self._bus is not None
        await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def disconnect(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()

    # Objects

    def put(self, path: str, name: str, values: dict[str, Any]) -> None:
        """Add an interface to a path, or change what its properties are."""
        types = self._interfaces[name].properties
        new = {key: Variant(types[key], value) for key, value in values.items()}
        interfaces = self._objects.setdefault(path, {})
        if name not in interfaces:
            interfaces[name] = {key: Variant(kind, blank(kind)) for key, kind in types.items()} | new
            if path != self._root:
                self.emit(
                    self._root,
                    "ObjectManager",
                    "InterfacesAdded",
                    "oa{sa{sv}}",
                    path,
                    {name: interfaces[name]},
                )
            return
        changed = {key: value for key, value in new.items() if interfaces[name][key] != value}
        interfaces[name].update(changed)
        if changed:
            self.emit(path, "Properties", "PropertiesChanged", "sa{sv}as", name, changed, [])

    def remove(self, path: str) -> None:
        if names := self._objects.pop(path, None):
            self.emit(self._root, "ObjectManager", "InterfacesRemoved", "oas", path, list(names))

    def paths(self, prefix: str) -> list[str]:
        return [path for path in self._objects if path.startswith(prefix)]

    def value(self, path: str, name: str, key: str) -> Any:
        return self._objects[path][name][key].value

    def values(self, path: str, name: str) -> dict[str, Variant]:
        return self._objects[path][name]

    def signal(self, name: str, member: str, *values: Any) -> None:
        """Send a signal of one of our interfaces from the root."""
        self.emit(self._root, name, member, self._interfaces[name].signals[member], *values)

    def emit(self, path: str, name: str, member: str, signature: str, *values: Any) -> None:
        full = name if name in self._interfaces else _FREEDESKTOP + name
        if self._bus is not None and self._bus.connected:
            self._bus.send(Message.new_signal(path, full, member, signature, list(values)))

    # Calls

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        task = asyncio.get_running_loop().create_task(self._serve(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, message: Message) -> None:
        assert self._bus is not None
        try:
            signature, body, descriptors = await self._reply(message)
            await self._bus.send(Message.new_method_return(message, signature, body, descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
        except BusError as error:
            self._bus.send(Message.new_error(message, error.name, error.text))

    async def _reply(self, message: Message) -> tuple[str, list[Any], list[int]]:
        path, wanted, member = str(message.path), message.interface or "", str(message.member)
        if (wanted.startswith(_FREEDESKTOP) or not wanted) and member in _ANSWERS:
            expected, signature = _ANSWERS[member]
            self._require(message, expected)
            return signature, [self._standard(path, member, message.body)], []
        if member == "Ping":
            return "", [], []
        present = self._objects.get(path)
        if present is None:
            raise BusError(_FREEDESKTOP + "Error.UnknownObject", f"there is no object {path}")
        for name in present if not wanted else [wanted] if wanted in present else []:
            if member in self._interfaces[name].methods:
                expected, signature = self._interfaces[name].methods[member]
                self._require(message, expected)
                if expected.endswith("a{sv}"):
                    self._require_options(member, message.body[-1], self._interfaces[name].options[member])
                interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
                body, descriptors = await self._answer(path, name, member, message.body, interactive)
                return signature, body or [blank(kind) for kind in split(signature)], descriptors
        raise BusError(_FREEDESKTOP + "Error.UnknownMethod", f"{path} has no method {member}")

    def _require(self, message: Message, expected: str) -> None:
        if message.signature != expected:
            raise BusError(
                _FREEDESKTOP + "Error.InvalidArgs",
                f"{message.member} takes {expected or 'nothing'}, not {message.signature or 'nothing'}",
            )

    def _require_options(self, member: str, given: dict[str, Variant], known: dict[str, str]) -> None:
        for name, value in given.items():
            if name.startswith("x-"):
                continue
            if name not in known:
                text = f"{member} has no option {name[:64]!r}"
            elif value.signature != known[name]:
                text = f"option {name} of {member} is of type {known[name]}, not {value.signature}"
            else:
                continue
            raise BusError(_FREEDESKTOP + "Error.InvalidArgs", text)

    def _standard(self, path: str, member: str, body: list[Any]) -> Any:
        if member == "Introspect":
            return self._introspect(path)
        if member == "GetManagedObjects":
            return {known: item for known, item in self._objects.items() if known != self._root}
        interfaces = self._objects.get(path)
        if interfaces is None:
            raise BusError(_FREEDESKTOP + "Error.UnknownObject", f"there is no object {path}")
        if body[0] and body[0] not in interfaces:
            raise BusError(_FREEDESKTOP + "Error.UnknownInterface", f"{path} has no interface {body[0]}")
        chosen = [interfaces[body[0]]] if body[0] else list(interfaces.values())
        values = {key: value for properties in chosen for key, value in properties.items()}
        if member == "GetAll":
            return values
        if body[1] not in values:
            raise BusError(_FREEDESKTOP + "Error.UnknownProperty", f"{path} has no property {body[1]}")
        if member == "Set":
            raise BusError(_FREEDESKTOP + "Error.PropertyReadOnly", f"{body[1]} cannot be set")
        return values[body[1]]

    def _introspect(self, path: str) -> str:
        names = self._objects.get(path, {})
        prefix = path.rstrip("/") + "/"
        below = {item.removeprefix(prefix).split("/")[0] for item in self._objects if item.startswith(prefix)}
        parts = [_DOCTYPE, "<node>\n", _STANDARD]
        parts += [_PROPERTIES] if names else []
        parts += [_MANAGER] if path == self._root else []
        parts += [re.sub(r"\n\s*\n", "\n", self._interfaces[name].xml) + "\n" for name in names]
        parts += [f"  <node name={quoteattr(child)}/>\n" for child in sorted(below)]
        return "".join(parts) + "</node>\n"


_ANSWERS = {
    "Introspect": ("", "s"),
    "GetManagedObjects": ("", "a{oa{sa{sv}}}"),
    "Get": ("ss", "v"),
    "GetAll": ("s", "a{sv}"),
    "Set": ("ssv", ""),
}
"Members of the standard interfaces with the types of their arguments and answers."
