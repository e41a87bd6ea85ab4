"""How far the boot is, and how its units do, as the system manager tells it.

The boot has come to its end when of the units its targets come after none is being started any more: those
that wait then wait for us. What timers start meanwhile is no part of the boot, however long it takes. The
system manager is asked by `systemctl`, whose output for programs is stable (systemctl(1), "show", and
"list-jobs --plain --no-legend").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from bootcd.host import process
from bootcd.host.clock import Clock
from bootcd.model.errors import BackendFailed
from bootcd.policy.health import Result

log = logging.getLogger(__name__)

UNIT = "bootcd-health.service"
TARGET = "boot-complete.target"
GREENBOOT = "greenboot-healthcheck.service"

_PROPERTIES = (
    "Id,LoadState,UnitFileState,ActiveState,Result,Job,Requires,After,"
    "InactiveEnterTimestampMonotonic,ConditionTimestampMonotonic,ConditionResult"
)
_STAGES = ("default.target", "graphical.target", "multi-user.target", "network-online.target")
"Whatever they come after is a part of the boot."
_ALWAYS_THERE = frozenset((UNIT, "sysinit.target"))
_DEADLINE_SECS = 30.0
_OUTPUT_LIMIT = 4 << 20
_LOOK_SECS = 1.0
_NAMED = 4

Properties = Mapping[str, str]
Sleep = Callable[[float], Awaitable[None]]


async def _systemctl(*arguments: str) -> str:
    try:
        command = ["systemctl", "--no-pager", *arguments]
        done = await process.run(command, deadline_secs=_DEADLINE_SECS, limit=_OUTPUT_LIMIT)
    except (OSError, TimeoutError) as error:
        raise BackendFailed("the system manager does not answer") from error
    if done.status != 0:
        raise BackendFailed("the system manager cannot be asked")
    return done.stdout.decode(errors="replace")


def parse_units(text: str) -> dict[str, Properties]:
    """Parse what `systemctl show` prints of several units, by their names."""
    units: dict[str, Properties] = {}
    for block in text.strip().split("\n\n"):
        lines = (line.partition("=") for line in block.splitlines())
        properties = {name: value for name, separator, value in lines if separator}
        if name := properties.get("Id"):
            units[name] = properties
    return units


def parse_running(text: str) -> list[str]:
    """Return the units whose jobs are running, ours left out, from what `systemctl list-jobs` prints."""
    rows = (line.split() for line in text.splitlines())
    return [row[1] for row in rows if len(row) == 4 and row[3] == "running" and row[1] != UNIT]


def state_of(properties: Properties) -> str | None:
    """Return what is wrong with a unit, empty if nothing is; None if that is not decided yet."""
    state, result = properties.get("ActiveState", ""), properties.get("Result", "success")
    if state in ("active", "reloading", "refreshing"):
        return ""
    if state == "failed":
        return f"failed ({result})"
    if state in ("activating", "deactivating"):
        return None
    if (loaded := properties.get("LoadState", "")) in ("not-found", "masked", "bad-setting", "error"):
        return f"cannot be started ({loaded})"
    if _is_set(properties, "ConditionTimestampMonotonic") and properties.get("ConditionResult") == "no":
        return ""  # not meant for this host
    if _is_set(properties, "InactiveEnterTimestampMonotonic"):
        return "" if result == "success" else f"failed ({result})"  # one that has done its work
    return "was not started"


def _is_set(properties: Properties, name: str) -> bool:
    return properties.get(name, "0") not in ("", "0")


async def show_units(names: Iterable[str]) -> dict[str, Properties]:
    """Raises BackendFailed."""
    return parse_units(await _systemctl("show", f"--property={_PROPERTIES}", "--", *names))


async def is_kept_by_greenboot() -> tuple[bool, bool]:
    """Tell whether greenboot is installed, and whether it is at work. Raises BackendFailed."""
    unit = (await show_units([GREENBOOT])).get(GREENBOOT, {})
    return unit.get("LoadState") == "loaded", unit.get("UnitFileState", "").startswith("enabled")


async def is_enabled() -> bool:
    """Tell whether boots are judged by our unit. Raises BackendFailed."""
    return (await show_units([UNIT])).get(UNIT, {}).get("UnitFileState", "").startswith("enabled")


async def required_units() -> tuple[str, ...]:
    """Return what others have made boot-complete.target require. Raises BackendFailed."""
    target = (await show_units([TARGET])).get(TARGET, {})
    return tuple(sorted(set(target.get("Requires", "").split()) - _ALWAYS_THERE))


async def _units_of_boot() -> set[str]:
    stages = await show_units(_STAGES)
    return {name for stage in stages.values() for name in stage.get("After", "").split()}


async def wait_for_end(
    names: Sequence[str], *, limit_secs: float, clock: Clock, sleep: Sleep = asyncio.sleep
) -> list[Result]:
    """Wait for the end of the boot, and tell how it and the units named did.

    Raises:
        BackendFailed: the system manager cannot be asked.
    """
    deadline = clock.boottime() + limit_secs
    awaited = await _units_of_boot() | {*names}
    quiet = 0
    while True:
        jobs = parse_running(await _systemctl("list-jobs", "--plain", "--no-legend"))
        running = [name for name in jobs if name in awaited]
        units = await show_units(names) if names else {}
        undecided = [name for name, unit in units.items() if state_of(unit) is None]
        # Twice, as between the end of one job and the start of the next nothing is running.
        quiet = 0 if running or undecided else quiet + 1
        late = clock.boottime() >= deadline
        if quiet > 1 or late:
            break
        await sleep(_LOOK_SECS)
    results = [_unit_result(name, units.get(name, {}), limit_secs) for name in names]
    if late and running:
        more = f" and {len(running) - _NAMED} more" if len(running) > _NAMED else ""
        what = f"{', '.join(sorted(running)[:_NAMED])}{more}"
        results.append(Result("boot", f"not at its end after {limit_secs:g} s, {what} still at work"))
    return results


def _unit_result(name: str, properties: Properties, limit_secs: float) -> Result:
    state = state_of(properties)
    if state is None:
        return Result(name, f"not started after {limit_secs:g} s")
    if state and _is_set(properties, "Job") and properties.get("ActiveState") == "inactive":
        return Result(name, "waits for this check, so that it cannot be a part of it", required=False)
    return Result(name, state)
