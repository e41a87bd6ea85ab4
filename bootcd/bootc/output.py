"""What `bootc` prints, as values: progress lines, the state of the host, the reason of a failure.

Formats: `docs/src/progress-v0.schema.json`, `docs/src/host-v1.schema.json` and `cli.rs` of
https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    Busy,
    LocalModifications,
    NotBootable,
    NotBootcSystem,
    NotFound,
    OutOfSpace,
    ReadOnlyHost,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryRateLimited,
    RegistryUnavailable,
    SignatureRejected,
    WrongState,
)
from bootcd.model.host import Host
from bootcd.model.job import LAYERS_SHOWN, LayerProgress, Phase, Progress
from bootcd.model.text import last_line

_PHASES = {"pulling": Phase.FETCH, "importing": Phase.IMPORT, "staging": Phase.STAGE}
_MAX_COUNT = (1 << 63) - 1
_ID_CHARS = 21

_REASONS: tuple[tuple[str, type[BootcdError]], ...] = (
    (r"toomanyrequests|too many requests|rate limit", RegistryRateLimited),
    (r"unauthorized|authentication required|invalid username/password", RegistryAuthRequired),
    (r"denied: |requested access to the resource is denied|status code: 403|forbidden", RegistryDenied),
    (r"manifest unknown|name unknown|repository name not known|status code: 404", NotFound),
    (r"source image rejected|signature|containers-policy\.json", SignatureRejected),
    (r"no space left on device|insufficient free space|disk quota exceeded", OutOfSpace),
    (r"read-only file system|live iso", ReadOnlyHost),
    (r"connection refused|no such host|i/o timeout|network is unreachable", RegistryUnavailable),
    (r"tls handshake|deadline exceeded|connection reset|unexpected http status: 5", RegistryUnavailable),
    (r"ostree\.bootable|expected bootable|image has architecture", NotBootable),
    (r"rpm-ostree modifications", LocalModifications),
    (r"no rollback available|no staged deployment|not container image based", WrongState),
    (r"requires a booted host|not deployed via bootc|system is not booted", NotBootcSystem),
    (r"resource temporarily unavailable|already in progress|another process", Busy),
)
"What bootc and the libraries below it say, in lower case; the first that is found counts."


def parse_progress(line: bytes) -> Progress | None:
    """Return the progress a line tells of; None for a line without any, of whatever version."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("type") not in ("ProgressBytes", "ProgressSteps"):
        return None
    task = event.get("task")
    phase = _PHASES.get(task) if isinstance(task, str) else None
    if phase is None:
        return None
    return Progress(
        phase=phase,
        bytes_done=_count(event, "bytes"),
        bytes_total=_count(event, "bytesTotal"),
        bytes_cached=_count(event, "bytesCached"),
        steps_done=_count(event, "steps"),
        steps_total=_count(event, "stepsTotal"),
        steps_cached=_count(event, "stepsCached"),
        digest=str(event.get("id", ""))[:200] if phase is Phase.FETCH else "",
        layers=_layers(event.get("subtasks")) if phase is Phase.FETCH else (),
    )


def _layers(subtasks: object) -> tuple[LayerProgress, ...]:
    # They are all layers so far, and grow with the image.
    recent = subtasks[-LAYERS_SHOWN:] if isinstance(subtasks, list) else []
    return tuple(
        LayerProgress(
            id=str(item.get("id", "")).removeprefix("sha256:")[:_ID_CHARS],
            kind="chunk" if item.get("subtask") in ("ostree chunk", "ostree_chunk") else "layer",
            bytes_done=_count(item, "bytes"),
            bytes_total=_count(item, "bytesTotal"),
        )
        for item in recent
        if isinstance(item, dict)
    )


def _count(event: dict[str, Any], key: str) -> int:
    value = event.get(key)
    return min(max(value, 0), _MAX_COUNT) if isinstance(value, int) and not isinstance(value, bool) else 0


def parse_status(text: bytes) -> Host:
    """Return the host that `bootc status --json` describes; what a newer bootc adds is left out.

    Raises BackendFailed for anything else.
    """
    try:
        document = json.loads(text)
        try:
            return Host.model_validate(document)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_context=False, include_input=False):
                if problem["type"] == "extra_forbidden":
                    _drop(document, problem["loc"])
            return Host.model_validate(document)
    except (ValueError, RecursionError) as error:
        raise BackendFailed("bootc describes this host in a form that is not known") from error


def _drop(node: Any, place: tuple[int | str, ...]) -> None:
    for part in place[:-1]:
        node = node[part]
    node.pop(place[-1], None)


def failure(doing: str, status: int, stderr: bytes) -> BootcdError:
    """Return the error for a command that ended with a status other than 0."""
    text = stderr.decode(errors="replace")
    words = last_line(stderr).removeprefix("error: ").removeprefix("ERROR ")
    words = words or f"it ended with status {status}"
    lowered = text.lower()
    cls = next((cls for pattern, cls in _REASONS if re.search(pattern, lowered)), BackendFailed)
    return cls(f"bootc cannot {doing}: {words}", hint="the journal has all that bootc said")
