"""Interfaces as values: what a call is checked against, what properties hold, what introspection says.

Written in code rather than read from the XML files of the contract, so that the daemon needs no
data file; a test compares both, names, types, annotations and argument names.
https://dbus.freedesktop.org/doc/dbus-specification.html#introspection-format
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Variant
from dbus_fast.signature import get_signature_tree

from bootcd.bus.errors import clean_text
from bootcd.model.right import Right

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_CONST = '<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>'
_SILENT = _CONST.replace("const", "false")
_RANGES = {"u": (0, 2**32 - 1), "t": (0, 2**64 - 1), "x": (-(2**63), 2**63 - 1)}


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    signature: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method; with `options` its last argument is an a{sv} of these keys and types."""

    name: str
    inputs: tuple[Argument, ...] = ()
    outputs: tuple[Argument, ...] = ()
    options: Mapping[str, str] | None = None
    right: Right | None = None
    "What a call needs; None for what anybody may call."

    @property
    def signature(self) -> str:
        return "".join(argument.signature for argument in self.inputs)

    @property
    def reply_signature(self) -> str:
        return "".join(argument.signature for argument in self.outputs)


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    arguments: tuple[Argument, ...]

    @property
    def signature(self) -> str:
        return "".join(argument.signature for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class Property:
    """A property, `value` of the object's source; `const` ones never change.

    Changes of `writable` ones are not announced, as only interfaces of others have such.
    """

    name: str
    signature: str
    value: Callable[[Any], Any]
    const: bool = False
    writable: bool = False


@dataclass(frozen=True)
class Interface:
    name: str
    methods: Mapping[str, Method] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    properties: tuple[Property, ...] = ()

    @classmethod
    def of(cls, name: str, *members: Method | Signal | Property) -> Interface:
        return cls(
            name,
            {member.name: member for member in members if isinstance(member, Method)},
            {member.name: member for member in members if isinstance(member, Signal)},
            tuple(member for member in members if isinstance(member, Property)),
        )

    def render(self, source: Any) -> dict[str, Variant]:
        """Return all properties of an object."""
        return {item.name: variant(item.signature, item.value(source)) for item in self.properties}

    def to_xml(self) -> str:
        lines = [f'  <interface name="{self.name}">\n']
        for method in self.methods.values():
            arguments = [(argument, "in") for argument in method.inputs]
            arguments += [(argument, "out") for argument in method.outputs]
            lines.append(f'    <method name="{method.name}">\n')
            lines += [
                f'      <arg name="{argument.name}" type="{argument.signature}" direction="{direction}"/>\n'
                for argument, direction in arguments
            ]
            lines.append("    </method>\n")
        for signal in self.signals.values():
            lines.append(f'    <signal name="{signal.name}">\n')
            lines += [
                f'      <arg name="{item.name}" type="{item.signature}"/>\n' for item in signal.arguments
            ]
            lines.append("    </signal>\n")
        for item in self.properties:
            access = "readwrite" if item.writable else "read"
            start = f'    <property name="{item.name}" type="{item.signature}" access="{access}"'
            note = _CONST if item.const else _SILENT if item.writable else ""
            lines.append(f"{start}>{note}</property>\n" if note else f"{start}/>\n")
        lines.append("  </interface>\n")
        return "".join(lines)


def variant(signature: str, value: Any) -> Variant:
    """Return a value as a variant, made fit for the bus: texts cleaned, numbers in range."""
    return Variant(signature, _fit(signature, value))


def _fit(signature: str, value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {clean_text(key): item for key, item in value.items()}
        case list():
            return [_fit(signature[1:], item) for item in value]
        case tuple():
            kinds = get_signature_tree(signature).types[0].children
            return [_fit(kind.signature, item) for kind, item in zip(kinds, value, strict=True)]
        case list() if signature[0] == "a":
            return [_fit(signature[1:], item) for item in value]
        case int() if signature in _RANGES:
            least, most = _RANGES[signature]
            return max(least, min(value, most))
        case _:
            return value


def node_xml(interfaces: tuple[Interface, ...], children: tuple[str, ...]) -> str:
    """Return the introspection document of one path."""
    body = "".join(interface.to_xml() for interface in interfaces)
    nodes = "".join(f'  <node name="{child}"/>\n' for child in children)
    return f"{_DOCTYPE}<node>\n{body}{nodes}</node>\n"


PEER = Interface.of(
    "org.freedesktop.DBus.Peer",
    Method("Ping"),
    Method("GetMachineId", outputs=(Argument("machine_uuid", "s"),)),
)
INTROSPECTABLE = Interface.of(
    "org.freedesktop.DBus.Introspectable",
    Method("Introspect", outputs=(Argument("xml_data", "s"),)),
)
PROPERTIES = Interface.of(
    "org.freedesktop.DBus.Properties",
    Method(
        "Get",
        inputs=(Argument("interface_name", "s"), Argument("property_name", "s")),
        outputs=(Argument("value", "v"),),
    ),
    Method("GetAll", inputs=(Argument("interface_name", "s"),), outputs=(Argument("props", "a{sv}"),)),
    Method(
        "Set",
        inputs=(Argument("interface_name", "s"), Argument("property_name", "s"), Argument("value", "v")),
    ),
    Signal(
        "PropertiesChanged",
        (
            Argument("interface_name", "s"),
            Argument("changed_properties", "a{sv}"),
            Argument("invalidated_properties", "as"),
        ),
    ),
)
OBJECT_MANAGER = Interface.of(
    "org.freedesktop.DBus.ObjectManager",
    Method("GetManagedObjects", outputs=(Argument("objects", "a{oa{sa{sv}}}"),)),
    Signal("InterfacesAdded", (Argument("object", "o"), Argument("interfaces", "a{sa{sv}}"))),
    Signal("InterfacesRemoved", (Argument("object", "o"), Argument("interfaces", "as"))),
)
