"""Images bound to a host image: containers the system runs, named by links to their quadlet files.

    /usr/lib/bootc/bound-images.d/web.image -> /usr/share/containers/systemd/web.image
    /usr/lib/bootc/bound-images.d/db.container -> ...

Formats: podman-systemd.unit(5) and systemd.syntax(7); what of it counts is `boundimage.rs` of
https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

from bootcd.model.errors import NotBootable
from bootcd.model.text import one_line

DIRECTORY = "usr/lib/bootc/bound-images.d"

MAX_NAME = 4096


def parse_bound_image(name: str, data: bytes) -> str:
    """Return the image that a quadlet file names.

    Args:
        name: of the link, which tells by its extension what the file is.
    Raises:
        NotBootable: the file names no image, or has what cannot be obeyed.
    """
    section = {"image": "Image", "container": "Container"}.get(name.rpartition(".")[2])
    if section is None or "." not in name:
        raise invalid(name, "ends neither in .image nor in .container")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise invalid(name, "is not UTF-8") from None
    values = _section(text, section)
    if section == "Image" and "AuthFile" in values:
        raise invalid(
            name,
            "has an AuthFile, which bound images cannot have",
            hint="put the credentials in the host's own file",
        )
    image = _unescaped(name, values.get("Image", ""))
    if not image:
        raise invalid(name, f"has no Image= in its section [{section}]")
    # It becomes an argument of a command.
    if image.startswith("-") or len(image) > MAX_NAME or not image.isprintable() or " " in image:
        raise invalid(name, "names an image that cannot be one")
    return image


def invalid(name: str, problem: str, hint: str = "") -> NotBootable:
    return NotBootable(f"/{DIRECTORY}/{one_line(name, 100)} of the image {problem}", hint=hint)


def _section(text: str, wanted: str) -> dict[str, str]:
    """Return the settings of one section; the last of a name counts."""
    values: dict[str, str] = {}
    section = ""
    for line in _joined(text):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == wanted and "=" in line:
            key, _, value = line.partition("=")
            values[key.rstrip()] = value.lstrip()
    return values


def _joined(text: str) -> list[str]:
    """Return the lines without comments; a backslash at the end takes the next one along."""
    lines: list[str] = []
    open_line = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            open_line += line[:-1] + " "
            continue
        lines.append((open_line + line).strip())
        open_line = ""
    lines.append(open_line.strip())
    return lines


def _unescaped(name: str, value: str) -> str:
    """Resolve `%%`; a specifier stands for something of the running system, which is not there yet."""
    parts = value.split("%%")
    if any("%" in part for part in parts):
        raise invalid(name, "names its image with a specifier of systemd, which bound images cannot have")
    return "%".join(parts)
