"""The D-Bus manual, made from the interface XML and the polkit policy: `python -m tests.meta.dbus_docs`.

A comment in the XML speaks of what follows it, up to the next comment.
"""

from __future__ import annotations

import re
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from bootcd.model.errors import BootcdError, InternalError, all_errors

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/dbus.md"
INTERFACES = ("Manager", "Deployment", "Job")
_WIDTH = 110

_INTRODUCTION = """\
# D-Bus API

<!-- Made from dbus/ by `python -m tests.meta.dbus_docs`; edit the XML, not this page. -->

The service owns `org.bootcd1` on the system bus. `/org/bootcd1` implements
`org.freedesktop.DBus.ObjectManager` for everything below it. Its properties are read-only and served
from memory; each change is announced once, by `PropertiesChanged`. Only additions are made to this API.

A caller's rights are decided by polkit; root is never asked. Without
`ALLOW_INTERACTIVE_AUTHORIZATION` in the call nobody is prompted, and a call that would need a prompt
fails with `org.freedesktop.DBus.Error.InteractiveAuthorizationRequired`. A client that leaves takes its open
prompt with it, never work that has begun.

An error's text is one sentence; a second line, where there is one, says what to do. Errors of the
service are named `org.bootcd1.Error.` and the name given below; wrong arguments and refused callers
get `org.freedesktop.DBus.Error.InvalidArgs` and `AccessDenied`. One caller can have 32 calls
served at a time, one user 128; more fail with `org.freedesktop.DBus.Error.LimitsExceeded`.

Methods that answer with a file descriptor (`h`) answer only callers that take them: from a client whose
D-Bus library has not agreed on that with the bus, the bus withholds the answer. The usual libraries agree by
themselves.

`/org/freedesktop/LogControl1` has systemd's interface for the log of a service: everybody may read its
properties, root may set `LogLevel` until the service ends, which is what
`systemctl service-log-level bootcd.service debug` does.
"""

_EXAMPLES = """\
## Examples

```sh
busctl introspect org.bootcd1 /org/bootcd1
busctl get-property org.bootcd1 /org/bootcd1 org.bootcd1.Manager State
busctl call org.bootcd1 /org/bootcd1 org.bootcd1.Manager GetStatus 'a{sv}' 0
busctl call org.bootcd1 /org/bootcd1 org.bootcd1.Manager GetHistory 'a{sv}' 1 limit u 5
busctl call org.bootcd1 /org/bootcd1 org.bootcd1.Manager Upgrade 'a{sv}' 1 download-only b true
busctl call org.bootcd1 /org/bootcd1/job/_1 org.bootcd1.Job Wait 'a{sv}' 0
busctl monitor org.bootcd1
```

[clients](clients/README.md) says how to write a client, and has two.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    for name in INTERFACES:
        parts += _interface(REPOSITORY / f"dbus/org.bootcd1.{name}.xml")
    parts += _actions(REPOSITORY / "dbus/org.bootcd1.policy")
    parts += _errors()
    parts.append(_EXAMPLES)
    return "\n".join(parts)


def _parse(path: Path) -> tuple[ET.Element, str]:
    """Return the root and the comment that precedes it."""
    text = path.read_text()
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    opening = re.search(r"<!--(.*?)-->\s*<(?:node|policyconfig)", text, re.DOTALL)
    return ET.fromstring(text, parser=parser), _flow(opening.group(1) if opening else "")


def _interface(path: Path) -> Iterator[str]:
    root, opening = _parse(path)
    interface = root.find("interface")
    assert interface is not None
    yield f"## {interface.get('name')}\n"
    yield opening + "\n"
    groups: list[tuple[str, list[ET.Element]]] = []
    for child in interface:
        if child.tag is ET.Comment:
            groups.append((_flow(child.text or ""), []))
        else:
            if not groups or any(member.tag != child.tag for member in groups[-1][1]):
                raise ValueError(f"{path.name} does not explain {child.get('name')}")
            groups[-1][1].append(child)
    for title, tag in (("Methods", "method"), ("Signals", "signal"), ("Properties", "property")):
        chosen = [(text, members) for text, members in groups if members and members[0].tag == tag]
        if chosen:
            yield f"### {title}\n"
        for text, members in chosen:
            yield "\n".join(f"- {_signature(member)}" for member in members) + "\n"
            yield textwrap.indent(text, "  ") + "\n"


def _signature(member: ET.Element) -> str:
    if member.tag == "property":
        constant = "; constant" if member.find("annotation") is not None else ""
        return f"`{member.get('name')}` `{member.get('type')}`{constant}"
    given = [argument for argument in member.findall("arg") if argument.get("direction") != "out"]
    answered = [argument for argument in member.findall("arg") if argument.get("direction") == "out"]
    arrow = f" -> {_arguments(answered)}" if answered else ""
    return f"`{member.get('name')}({_arguments(given)}){arrow}`"


def _arguments(arguments: list[ET.Element]) -> str:
    return ", ".join(f"{argument.get('name')} {argument.get('type')}" for argument in arguments)


def _actions(path: Path) -> Iterator[str]:
    root, opening = _parse(path)
    yield "## polkit actions\n"
    yield opening + "\n"
    yield "| action | any | inactive | active | implies |\n|---|---|---|---|---|"
    rows = []
    for action in root.iter("action"):
        defaults = [action.findtext(f"defaults/allow_{who}") for who in ("any", "inactive", "active")]
        implied = (action.findtext("annotate") or "").replace("org.bootcd1.", "")
        rows.append(f"| `{action.get('id')}` | {' | '.join(str(item) for item in defaults)} | {implied} |")
    yield "\n".join(rows) + "\n"


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield _flow(
        "All have the prefix `org.bootcd1.Error.`, but for those marked *, which have the standard names "
        "`org.freedesktop.DBus.Error.AccessDenied`, `InvalidArgs` and `LimitsExceeded`. Facts for "
        "programs are in the outcome of a job, under `error-` and their name. After those said to "
        "pass, the same may work later."
    )
    yield "\n| error | meaning | passes |\n|---|---|---|"
    standard = ("AccessDenied", "InvalidArguments", "LimitsExceeded")
    for name, error in sorted({BootcdError.name: InternalError, **all_errors()}.items()):
        first = (error.__doc__ or "").split("\n\n")[0]
        meaning = " ".join(first.split())
        if not meaning:
            raise ValueError(f"{name} has no meaning")
        mark = "*" if name in standard else ""
        yield f"| `{name}`{mark} | {meaning} | {'yes' if error.retryable else ''} |"
    yield ""


def _flow(text: str) -> str:
    """Return a comment as paragraphs of the page."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(_fill(item) for item in paragraphs)


def _fill(paragraph: str) -> str:
    text = " ".join(paragraph.split()).replace("<", "&lt;")
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False, break_long_words=False)


if __name__ == "__main__":
    PAGE.write_text(page())
