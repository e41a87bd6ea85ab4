"""Differences between deployments and in /etc for people, and which deployments are meant. Pure."""

from __future__ import annotations

from typing import Any

from bootcctl.exitcodes import Failure
from bootcctl.render import PLAIN, Style, clean, format_bytes

FILES_SHOWN = 20
"Of each kind, unless all are wanted."

_ROLES = ("staged", "booted", "rollback")
_PREFIX_CHARACTERS = 4


def choose_deployments(host: dict[str, Any], before: str, after: str) -> tuple[str, str]:
    """Return the ids of two deployments; empty texts stand for what a person most likely means.

    Raises:
        Failure: there is no such deployment, or the name fits several.
    """
    status = host.get("status") or {}
    first = before or "booted"
    if after:
        second = after
    elif first != "booted":
        second = "booted"
    else:
        second = next((role for role in ("staged", "rollback") if status.get(role)), "")
        if not second:
            raise Failure("WrongState", "there is no other deployment to compare with")
    return _find(status, first), _find(status, second)


def _find(status: dict[str, Any], name: str) -> str:
    if name in _ROLES:
        if id := _id(status.get(name)):
            return id
        raise Failure("WrongState", f"there is no {name} deployment", "see: bootcctl status")
    entries = [*(status.get(role) for role in _ROLES), *(status.get("otherDeployments") or [])]
    ids = [id for id in map(_id, entries) if id]
    found = [id for id in ids if id.startswith(name)] if len(name) >= _PREFIX_CHARACTERS else []
    if len(found) != 1:
        many = "several deployments begin" if found else "no deployment begins"
        raise Failure("InvalidArguments", f"{many} with {name}", "see: bootcctl status --verbose")
    return found[0]


def _id(entry: Any) -> str:
    ostree = (entry or {}).get("ostree")
    return f"{ostree['checksum']}.{ostree['deploySerial']}" if ostree else ""


def render_diff(document: dict[str, Any], style: Style = PLAIN, *, verbose: bool = False) -> str:
    """Render the document of Manager.Diff."""
    lines = [
        f"From  {_summary(document['before'], style)}",
        f"To    {_summary(document['after'], style)}",
        "",
    ]
    kargs = document["kernel-arguments"]
    if kargs["added"] or kargs["removed"]:
        lines += ["Kernel arguments", *(f"  + {clean(one)}" for one in kargs["added"])]
        lines += [*(f"  - {clean(one)}" for one in kargs["removed"]), ""]
    lines += [*_packages(document["packages"]), ""]
    totals, files = document["totals"], document["files"]
    lines.append(
        f"Files: {totals['files-added']} added, {totals['files-removed']} removed, "
        f"{totals['files-changed']} changed; {format_bytes(totals['bytes-added'])} new, "
        f"{format_bytes(totals['bytes-removed'])} gone"
    )
    for mark, kind in (("+", "added"), ("-", "removed"), ("!", "changed")):
        entries = files[kind]
        shown = entries if verbose else entries[:FILES_SHOWN]
        lines += [_file(mark, entry) for entry in shown]
        if missing := totals[f"files-{kind}"] - len(shown):
            lines.append(f"  {mark} and {missing} more")
    return "\n".join(lines) + "\n"


def _summary(side: dict[str, Any], style: Style) -> str:
    name = " ".join(clean(side[key]) for key in ("image", "version") if side[key])
    return f"{style.bold(name)}  {clean(side['id'])[:12]}" if name else clean(side["id"])


def _packages(packages: dict[str, Any]) -> list[str]:
    if not packages["database"]:
        return ["Packages: no database that can be read here"]
    added, removed, changed = (packages[kind] for kind in ("added", "removed", "changed"))
    return [
        f"Packages ({clean(packages['database'])}): {len(added)} added, {len(removed)} removed,"
        f" {len(changed)} changed",
        *(f"  + {clean(one['name'])} {clean(one['after'])}" for one in added),
        *(f"  - {clean(one['name'])} {clean(one['before'])}" for one in removed),
        *(f"  ! {clean(one['name'])} {clean(one['before'])} -> {clean(one['after'])}" for one in changed),
    ]


def _file(mark: str, entry: dict[str, Any]) -> str:
    before, after = format_bytes(entry["size-before"]), format_bytes(entry["size-after"])
    sizes = {"+": after, "-": before, "!": before if before == after else f"{before} -> {after}"}
    return f"  {mark} {clean(entry['path'])}  ({sizes[mark]})"


def render_config_diff(document: dict[str, Any]) -> str:
    """Render the document of Manager.ConfigDiff, a letter and a path to a line as ostree does."""
    marks = (("M", "modified"), ("D", "removed"), ("A", "added"), ("?", "unreadable"))
    lines = [f"{mark}    {clean(path)}" for mark, kind in marks for path in document[kind]]
    if not lines:
        return "/etc is as the image made it\n"
    if document["truncated"]:
        lines.append("and more")
    return "\n".join(lines) + "\n"
