"""How a job ended, in words for people. Pure: text from documents."""

from __future__ import annotations

from typing import Any

from bootcctl.render import PLAIN, Style, clean, format_bytes

_NEXT_BOOT = ("upgrade", "switch", "rollback", "kernel-arguments")
_UNCHANGED = {
    "upgrade": "Already up to date",
    "switch": "This image is already tracked and up to date",
    "kernel-arguments": "The kernel arguments are as asked for already",
    "pin": "This deployment is pinned already",
    "unpin": "This deployment is not pinned",
}


def render_outcome(job: dict[str, Any], style: Style = PLAIN, *, locked: bool = False) -> str:
    """Say in one sentence how a job that is done ended; `locked`: it was asked to stage for later."""
    outcome = job["outcome"]
    text = _what_was_done(job, outcome, style)
    if outcome.get("reboot"):
        return text + ("; user space restarts" if outcome.get("soft-reboot") else "; the host reboots")
    if job["kind"] in _NEXT_BOOT and outcome.get("changed"):
        text += "; it is locked until bootcctl apply" if locked else "; it comes at the next boot"
    if outcome.get("soft-reboot"):
        text += ", which restarts user space alone"
    return text


def _what_was_done(job: dict[str, Any], outcome: dict[str, Any], style: Style) -> str:
    kind, new = job["kind"], style.bold(_name_of(outcome))
    if kind in _UNCHANGED and not outcome.get("changed"):
        return _UNCHANGED[kind]
    match kind:
        case "check" if not outcome.get("digest"):
            return "Up to date"
        case "check":
            size = outcome.get("download-size", -1)
            text = f"Update available: {new}" + (f", {format_bytes(size)} to download" if size >= 0 else "")
            notes = "\nIt has release notes; read them with: bootcctl notes"
            return text + (notes if outcome.get("has-notes") else "")
        case "upgrade" if "from downloaded" in job["summary"]:
            return f"Unlocked {new}"
        case "upgrade" | "switch":
            fetched = outcome.get("bytes-fetched", 0)
            reused = outcome.get("bytes-reused", 0)
            text = f"Staged {new}" + (f", {format_bytes(fetched)} downloaded" if fetched else "")
            return text + (f", {format_bytes(reused)} reused" if fetched and reused else "")
        case "rollback" if outcome.get("dropped"):
            return f"Boot order swapped; the staged image {clean(outcome['dropped'])} was dropped"
        case "rollback":
            return "Boot order swapped"
        case "apply":
            return "Done"
        case "kernel-arguments":
            return f"Kernel arguments changed: {style.bold(clean(job['summary']))}"
        case "pin":
            return f"Pinned the {clean(job['summary']) or 'booted'} deployment"
        case "unpin":
            return f"Unpinned the {clean(job['summary']) or 'booted'} deployment"
        case "drop":
            dropped = short_digest(clean(outcome.get("dropped", "")))
            return f"Dropped the {clean(job['summary'])} deployment, {dropped}"
        case "usr-overlay":
            return "/usr has an overlay until the next reboot"
        case other:
            return f"{clean(other).capitalize()} done"


def render_changes(outcome: dict[str, Any]) -> str:
    """Say how an update that was found differs from what the host has; empty if that is not known."""
    if not outcome.get("layers"):
        return ""
    added, removed = outcome.get("layers-added", 0), outcome.get("layers-removed", 0)
    since = " ".join(
        clean(text)
        for text in (outcome.get("from-version", ""), short_digest(outcome.get("from-digest", "")))
        if text
    )
    return (
        f"  Since {since or 'the booted version'}: {added} of {outcome['layers']} layers {_are(added)} new"
        f" ({format_bytes(outcome.get('bytes-added', 0))}), {removed} {_are(removed)} gone"
        f" ({format_bytes(outcome.get('bytes-removed', 0))})"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _name_of(outcome: dict[str, Any]) -> str:
    names = (outcome.get("image", ""), outcome.get("version", ""), short_digest(outcome.get("digest", "")))
    return " ".join(clean(name) for name in names if name) or "the new version"


def short_digest(digest: str) -> str:
    """Return a digest as short as people can still tell it from others."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}" if value else digest[:12]
