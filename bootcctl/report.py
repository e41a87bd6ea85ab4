"""Answers for people: status, jobs, history, kernel arguments. Pure: text from documents and times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from bootcctl.outcomes import render_outcome, short_digest
from bootcctl.render import PHASES, PLAIN, Style, clean, format_bytes, format_duration, percent

_STATE_COLOURS = {"done": "32", "failed": "31", "interrupted": "31", "cancelled": "33", "running": "1"}


def render_status(
    host: dict[str, Any],
    service: dict[str, Any],
    job: dict[str, Any] | None,
    now: float,
    style: Style = PLAIN,
    *,
    booted_only: bool = False,
    verbose: bool = False,
) -> str:
    """Render the host and the service.

    Args:
        host: the document of `bootc status --json`.
        service: the document of service.json.
        job: the active job, if there is one and it could be asked for.
        now: seconds since the epoch.
    """
    status = host.get("status") or {}
    available = service.get("available")
    sections = [] if booted_only else [_service_section(service, job, now, style)]
    roles = [("Booted", "booted", "")]
    if not booted_only:
        queued = status.get("rollbackQueued")
        roles.insert(0, ("Staged", "staged", "comes at the next boot"))
        roles.append(("Rollback", "rollback", "comes at the next boot" if queued else ""))
    signatures = service.get("signatures") or {}
    found = False
    for title, key, remark in roles:
        entry = status.get(key)
        if isinstance(entry, dict):
            found = True
            if entry.get("downloadOnly"):
                remark = "locked: comes with bootcctl apply"
            rows = _deployment_rows(title, entry, remark, now, style, verbose=verbose)
            if trust := _trust(signatures.get(_id(entry)), now, style):
                rows.append(("  Trust", trust))
            if entry is status.get("booted"):
                rows += _booted_rows(status)
            if booted_only or not _same_digest(available, entry.get("cachedUpdate")):
                rows += _cached_update_rows(entry, now)
            sections.append(_table(rows))
    if not found:
        sections.append("No deployment: this host was not booted from an image\n")
    for entry in [] if booted_only else status.get("otherDeployments") or []:
        sections.append(_table(_deployment_rows("Other", entry, "", now, style, verbose=verbose)))
    if available and not booted_only and not _is_deployed(available, status):
        sections.append(_available_section(available, now, style))
    return "\n".join(sections)


def _service_section(service: dict[str, Any], job: dict[str, Any] | None, now: float, style: Style) -> str:
    rows = [
        (
            "State",
            style.bold(clean(service.get("state", "unknown"))) + _since(service.get("state-since"), now),
        )
    ]
    active = service.get("active-job")
    if active:
        rows.append(
            ("Job", describe_job(job) if job else f"{clean(active['kind'])}, number {active['number']}")
        )
    if service.get("reboot-required"):
        rows.append(("Reboot", style.paint("needed, another system is set up for the next boot", "33")))
    rows.append(("Checked", _last_check(service, now)))
    rows.append(("Mode", _mode(service, now)))
    if scheduled := service.get("scheduled-apply"):
        left = format_duration(scheduled["when"] / 1e6 - now)
        text = f"in {left}, asked for by user {scheduled.get('uid')}; to call it off: bootcctl apply --cancel"
        rows.append(("Reboots", style.paint(text, "33")))
    if paused := service.get("paused"):
        rows.append(("Paused", style.paint(_paused(paused, now), "33")))
    return _table(rows)


def describe_job(job: dict[str, Any]) -> str:
    """Say in one line what a job is and how far."""
    done = percent(job)
    parts = [
        f"{clean(job['kind'])}, number {job['number']}",
        PHASES.get(job["phase"], clean(job["phase"])).lower(),
    ]
    if job["state"] == "cancelling":
        parts[1] = "cancelling"
    if done >= 0:
        parts.append(f"{done} %")
    if job["phase"] == "fetch" and job["bytes-total"]:
        parts.append(f"{format_bytes(job['bytes-done'])} of {format_bytes(job['bytes-total'])}")
    if job["eta-usec"]:
        parts.append(f"{format_duration(job['eta-usec'] / 1e6)} left")
    return ", ".join(parts)


def _since(usec: Any, now: float) -> str:
    return f" for {format_duration(now - usec / 1e6)}" if usec else ""


def _ago(usec: Any, now: float) -> str:
    return f"{format_duration(now - usec / 1e6)} ago"


def _last_check(service: dict[str, Any], now: float) -> str:
    if not service.get("last-check"):
        return "never"
    result = str(service.get("last-check-result", ""))
    words = {"up-to-date": "up to date", "available": "update available", "": ""}
    text = words.get(result, f"failed ({clean(result.rpartition('.')[2])})")
    return _ago(service["last-check"], now) + (f", {text}" if text else "")


def _paused(pause: dict[str, Any], now: float) -> str:
    until = pause.get("until")
    how_long = f"for {format_duration(until / 1e6 - now)} more" if until else "until it is ended"
    return f"{how_long}, by user {pause.get('uid')}; to end it: bootcctl resume"


def _mode(service: dict[str, Any], now: float) -> str:
    modes = {
        "off": "nothing by itself",
        "check": "checks by itself",
        "stage": "checks and stages by itself",
        "apply": "checks, stages and reboots by itself",
    }
    mode = str(service.get("mode", ""))
    text = f"{clean(mode)} ({modes[mode]})" if mode in modes else clean(mode) or "unknown"
    upcoming = service.get("next-action") or {}
    if upcoming.get("action"):
        text += f"; next: {clean(upcoming['action'])}"
        if upcoming.get("when"):
            left = upcoming["when"] / 1e6 - now
            text += f" in {format_duration(left)}" if left >= 1 else " now"
    if upcoming.get("reason") and mode != "off":
        text += f" ({clean(upcoming['reason'])})"
    return text


def _deployment_rows(
    title: str, entry: dict[str, Any], remark: str, now: float, style: Style, *, verbose: bool
) -> list[tuple[str, str]]:
    image = entry.get("image")
    ostree = entry.get("ostree") or {}
    name = _image_name(image["image"]) if isinstance(image, dict) else "not from an image"
    rows = [(title, style.bold(clean(name)) + (f"  {style.paint(f'({remark})', '33')}" if remark else ""))]
    if isinstance(image, dict):
        if version := _version_of(image, now):
            rows.append(("  Version", version))
        rows.append(("  Digest", clean(image.get("imageDigest", ""))))
    elif ostree:
        rows.append(("  Commit", clean(ostree.get("checksum", ""))))
    marks = []
    if entry.get("pinned"):
        marks.append("pinned")
    if entry.get("incompatible"):
        marks.append("has layered packages or overrides, so image updates are refused")
    if marks:
        rows.append(("  Note", "; ".join(marks)))
    return rows + (_verbose_rows(entry) if verbose else [])


def _id(entry: dict[str, Any]) -> str:
    ostree = entry.get("ostree") or {}
    return f"{ostree.get('checksum')}.{ostree.get('deploySerial')}"


def _trust(signature: dict[str, Any] | None, now: float, style: Style) -> str:
    """Say why an image was let in; nothing if the service does not know."""
    if not signature:
        return ""
    scope = clean(signature.get("scope", ""))
    if not signature.get("verified"):
        return style.paint("not signed", "33") + f", the policy accepts that (scope {scope})"
    who = clean(signature.get("signer") or "") or f"key {short_digest(clean(signature.get('key', '')))}"
    parts = [f"signed by {who}"]
    if identity := clean(signature.get("identity") or ""):
        parts.append(f"as {identity}")
    if signature.get("time"):
        parts.append(_ago(signature["time"], now))
    return ", ".join(parts) + f" (scope {scope})"


def _version_of(image: dict[str, Any], now: float) -> str:
    parts = (clean(image.get("version") or ""), _built(image.get("timestamp"), now))
    return ", ".join(part for part in parts if part)


def _verbose_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    image, ostree, composefs = (entry.get(key) or {} for key in ("image", "ostree", "composefs"))
    signature = (image.get("image") or {}).get("signature") or ""
    if isinstance(signature, dict):
        signature = ", ".join(f"{kind} {value}" for kind, value in signature.items())
    rows = (
        ("  Built", image.get("timestamp")),
        ("  For", image.get("architecture")),
        ("  Signed", signature),
        ("  Commit", ostree.get("checksum") if image else ""),
        ("  Root", ostree and f"{ostree.get('stateroot')}, serial {ostree.get('deploySerial')}"),
        ("  Verity", composefs.get("verity")),
        ("  Loader", composefs and f"{composefs.get('bootloader')}, {composefs.get('bootType')}"),
        ("  Reboot", "soft reboot is possible" if entry.get("softRebootCapable") else "full reboot"),
    )
    return [(name, clean(value)) for name, value in rows if value]


def _booted_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if overlay := status.get("usrOverlay"):
        kinds = {"readOnly": "read-only", "readWrite": "writable"}
        ends = {"transient": "gone at the next boot", "persistent": "kept over boots"}
        words = (kinds, "accessMode"), (ends, "persistence")
        text = ", ".join(known.get(overlay.get(key), clean(overlay.get(key, ""))) for known, key in words)
        rows.append(("  Overlay", f"over /usr, {text}"))
    if status.get("readOnly"):
        rows.append(("  Disk", "read-only, so nothing can be changed"))
    return rows


def _cached_update_rows(entry: dict[str, Any], now: float) -> list[tuple[str, str]]:
    image, update = entry.get("image") or {}, entry.get("cachedUpdate") or {}
    if not update or update.get("imageDigest") == image.get("imageDigest"):
        return []
    digest = clean(update.get("imageDigest", ""))
    return [("  Update", ", ".join(text for text in (_version_of(update, now), digest) if text))]


def _same_digest(available: dict[str, Any] | None, update: dict[str, Any] | None) -> bool:
    return bool(available and update and available.get("digest") == update.get("imageDigest"))


def _built(timestamp: Any, now: float) -> str:
    try:
        moment = datetime.fromisoformat(timestamp)
    except (TypeError, ValueError):
        return ""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    age = now - moment.timestamp()
    # Reproducible images carry the epoch or another fixed moment, whose age says nothing.
    return f"built {format_duration(age)} ago" if age >= 0 and moment.year >= 2000 else ""


def _image_name(image: dict[str, Any]) -> str:
    """Name an image with its transport, where that is no registry."""
    name, transport = image.get("image", ""), image.get("transport", "registry")
    return name if transport == "registry" else f"{transport}:{name}"


def _is_deployed(available: dict[str, Any], status: dict[str, Any]) -> bool:
    staged = status.get("staged") or {}
    return bool((staged.get("image") or {}).get("imageDigest") == available.get("digest"))


def _available_section(available: dict[str, Any], now: float, style: Style) -> str:
    rows = [("Available", style.paint(clean(_image_name(available)), "32"))]
    version = clean(available.get("version") or "")
    created = available.get("created")
    built = f"built {_ago(created, now)}" if created and created / 1e6 <= now else ""
    if version or built:
        rows.append(("  Version", ", ".join(text for text in (version, built) if text)))
    rows.append(("  Digest", clean(available.get("digest", ""))))
    size = available.get("download-size", -1)
    if size >= 0:
        rows.append(("  Download", format_bytes(size)))
    if available.get("has-notes"):
        rows.append(("  Notes", "bootcctl notes"))
    return _table(rows)


def _table(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<11}{value}".rstrip() + "\n" for name, value in rows)


def render_kargs(deployments: list[dict[str, Any]], style: Style = PLAIN) -> str:
    """Render the kernel arguments of deployments, those of the next boots first."""
    if not deployments:
        return "No deployment: this host was not booted from an image\n"
    order = ("staged", "booted", "rollback", "other")
    rows = [
        (
            clean(entry["role"]).capitalize(),
            " ".join(style.bold(clean(argument, 2048)) for argument in entry["kernel-arguments"]),
        )
        for entry in sorted(deployments, key=lambda entry: order.index(entry["role"]))
    ]
    return _table(rows)


def render_jobs(jobs: list[dict[str, Any]], now: float, style: Style = PLAIN) -> str:
    """Render a table of jobs, in the order given."""
    if not jobs:
        return "No jobs\n"
    rows = [("NUMBER", "KIND", "STATE", "STARTED", "BY", "DETAIL")]
    for job in jobs:
        detail = job["error"]["message"] if job["error"] else ""
        if job["state"] in ("running", "cancelling"):
            detail = describe_job(job).partition(", ")[2].partition(", ")[2]
        elif job["state"] == "done":
            detail = render_outcome(job)
        by = str(job["requester"].get("name", ""))
        started = _ago(job["created"], now) if job["created"] else ""
        rows.append((str(job["number"]), job["kind"], job["state"], started, by, detail))
    return _columns(rows, 2, style)


def render_history(entries: list[dict[str, Any]], zone: tzinfo | None, style: Style = PLAIN) -> str:
    """Render a table of ended jobs, in the order given; `zone` None means local time."""
    if not entries:
        return "No jobs yet\n"
    rows = [("ENDED", "KIND", "STATE", "TOOK", "BY", "DETAIL")]
    for entry in entries:
        finished, created = entry.get("finished", 0), entry.get("created", 0)
        ended = datetime.fromtimestamp(finished / 1e6, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
        took = format_duration((finished - created) / 1e6)
        detail = (
            entry.get("error-message")
            or entry.get("reason")
            or " ".join(
                text
                for text in (
                    entry.get("image"),
                    entry.get("version"),
                    short_digest(entry.get("digest") or ""),
                )
                if text
            )
        )
        detail = detail or clean(entry.get("summary") or "")
        if entry.get("kind") == "apply" and not detail:
            detail = "reboot asked for"
        elif entry.get("state") == "done" and not entry.get("changed"):
            available = entry.get("kind") == "check" and detail
            detail = f"available: {detail}" if available else "nothing changed"
        if warnings := entry.get("warnings"):
            detail += f"; {warnings[0]}" + (f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else "")
        rows.append(
            (ended, entry.get("kind", ""), entry.get("state", ""), took, entry.get("requester", ""), detail)
        )
    return _columns(rows, 2, style)


def _columns(rows: Sequence[tuple[str, ...]], coloured: int, style: Style) -> str:
    table = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for index, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if index == 0:
            lines.append(style.bold("  ".join(cells).rstrip()))
            continue
        cells[coloured] = style.paint(cells[coloured], _STATE_COLOURS.get(row[coloured], ""))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
