"""Configuration files, and the one validated value they become.

Files are TOML v1.0.0 (https://toml.io/en/v1.0.0) drop-ins named `*.toml` in `CONFIG_DIRS`, with the
meaning drop-ins have in systemd.unit(5): of several files with one name the one in the directory
that counts most is read and the others are not, so that a link to /dev/null switches one off; then
all are applied in the order of their names, and later keys win. `docs/config.md` describes the keys.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig
from bootcd.model.job import WorkerSettings
from bootcd.policy.rollout import Rollout
from bootcd.policy.span import LONGEST_SPAN, parse_span, quoted
from bootcd.policy.window import LONGEST_WINDOW, Window, parse_window
from bootcd.update.facts import Mode, Rules
from bootcd.update.surroundings import Conditions, OnSessions

CONFIG_DIRS = (
    Path("/usr/lib/bootcd/config.d"),
    Path("/run/bootcd/config.d"),
    Path("/etc/bootcd/config.d"),
)
"In the order of systemd.unit(5): what counts most comes last."

FILE_LIMIT_BYTES = 1 << 20

_LOCAL_TIME = Path("/etc/localtime")
_WINDOWS_LIMIT = 64
_LEAST_BANDWIDTH = 16 << 10
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)", re.ASCII)
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\@-]{1,200}\.(?:service|socket|target|mount|timer|path|swap|automount)", re.ASCII
)
_WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]{1,260}(?:/[A-Za-z0-9._~/%-]{0,500})?", re.ASCII)
_REGISTRY = re.compile(r"(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)


def parse_size(text: str) -> int:
    """Parse a number of bytes with an optional K, M, G or T to the base of 1024, such as "64M".

    Raises ValueError with a message for people.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is no size such as 64M")
    return int(match[1]) << (10 * " KMGT".index(match[2] or " "))


# Types of values


def _span(at_least: timedelta, at_most: timedelta, *, optional: bool = False) -> Any:
    def check(value: object) -> timedelta | None:
        if optional and value in ("", None):
            return None
        if isinstance(value, str):
            span = parse_span(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            span = timedelta(seconds=max(-1, min(value, 1 << 32)))
        elif isinstance(value, timedelta):
            span = value
        else:
            raise ValueError("must be a time span such as 6h, or a number of seconds")
        if not at_least <= span <= at_most:
            lowest, highest = at_least.total_seconds(), at_most.total_seconds()
            raise ValueError(f"must be at least {lowest:g} and at most {highest:g} seconds")
        return span

    return BeforeValidator(check)


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _none_or_enough(value: int) -> int:
    if value and value < _LEAST_BANDWIDTH:
        raise ValueError(f"must be 0 for no bound, or at least {_LEAST_BANDWIDTH} bytes per second")
    return value


def _registry(value: str) -> str:
    value = value.lower()
    if not _REGISTRY.fullmatch(value):
        raise ValueError(f"{quoted(value)} is no registry; name it as host or host:port")
    return value


def _unit(value: str) -> str:
    if not _UNIT.fullmatch(value):
        raise ValueError(f"{quoted(value)} is no unit; name it in full, as in sshd.service")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{quoted(value)} is no absolute path")
    return value


def _web_address_or_empty(value: str) -> str:
    if value and not _WEB_ADDRESS.fullmatch(value):
        raise ValueError(f"{quoted(value)} is no address such as https://lock.example/base, without a login")
    return value


def _absolute_or_empty(value: str) -> str:
    return _absolute(value) if value else value


def _start(value: str) -> str:
    parse_window(value, LONGEST_WINDOW)  # for what it raises
    return value


def _time_zone(name: str) -> str:
    try:
        zone_of(name)
    except (ValueError, KeyError, OSError):
        raise ValueError(f"{quoted(name)} is no time zone of this host, such as Europe/Berlin") from None
    return name


def zone_of(name: str) -> tzinfo:
    """Return a time zone, for an empty name that of the host, which is UTC if nobody set it. Blocks.

    Raises ValueError, KeyError or OSError where there is none of that name.
    """
    if name:
        return UTC if name == "UTC" else ZoneInfo(name)
    try:
        with _LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


_Count = Annotated[int, Field(strict=True)]
_AbsolutePath = Annotated[str, AfterValidator(_absolute)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_kebab, populate_by_name=False, validate_default=True
    )


class RunnerKind(StrEnum):
    """How worker processes are started."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    SUBPROCESS = "subprocess"


class MaintenanceWindow(_Section):
    """One entry of `windows`."""

    start: Annotated[str, AfterValidator(_start)]
    length: Annotated[timedelta, _span(timedelta(minutes=1), LONGEST_WINDOW)]

    @property
    def window(self) -> Window:
        return parse_window(self.start, self.length)


class Updates(_Section):
    mode: Mode = Mode.CHECK
    interval: Annotated[timedelta, _span(timedelta(seconds=1), LONGEST_SPAN)] = timedelta(hours=6)
    jitter: Annotated[timedelta, _span(timedelta(0), LONGEST_SPAN)] = timedelta(minutes=30)
    windows: Annotated[tuple[MaintenanceWindow, ...], Field(max_length=_WINDOWS_LIMIT)] = ()
    time_zone: Annotated[str, AfterValidator(_time_zone)] = ""


class Phasing(_Section):
    wariness: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    period: Annotated[timedelta | None, _span(timedelta(0), LONGEST_SPAN, optional=True)] = None
    minimum_age: Annotated[timedelta, _span(timedelta(0), LONGEST_SPAN)] = timedelta(0)


class Gates(_Section):
    metered: Annotated[bool, Field(strict=True)] = True
    battery: Annotated[_Count, Field(ge=0, le=100)] = 20
    power_saver: Annotated[bool, Field(strict=True)] = False
    sessions: OnSessions = OnSessions.WARN
    courtesy: Annotated[timedelta, _span(timedelta(minutes=1), timedelta(hours=24))] = timedelta(minutes=10)

    @property
    def conditions(self) -> Conditions:
        return Conditions(
            metered=self.metered,
            least_battery_percent=self.battery,
            power_saver=self.power_saver,
            sessions=self.sessions,
            courtesy=self.courtesy,
        )


class Registry(_Section):
    insecure: tuple[Annotated[str, AfterValidator(_registry)], ...] = ()
    ca_file: Annotated[str, AfterValidator(_absolute_or_empty)] = ""
    auth_files: tuple[_AbsolutePath, ...] = (
        "/run/ostree/auth.json",
        "/etc/ostree/auth.json",
        "/usr/lib/ostree/auth.json",
    )
    parallel_downloads: Annotated[_Count, Field(ge=1, le=16)] = 3
    parallel_per_registry: Annotated[_Count, Field(ge=1, le=16)] = 16
    max_bandwidth: Annotated[_Count, BeforeValidator(_size), AfterValidator(_none_or_enough)] = 0
    stall_timeout: Annotated[timedelta, _span(timedelta(seconds=1), timedelta(hours=1))] = timedelta(
        seconds=60
    )
    retries: Annotated[_Count, Field(ge=0, le=20)] = 5
    partial_pulls: Literal["auto", "always", "never"] = "auto"
    partial_proof: Literal["archive", "table"] = "archive"


class Worker(_Section):
    memory: Annotated[_Count, BeforeValidator(_size), Field(ge=8 << 20, le=4 << 30)] = 64 << 20
    runner: RunnerKind = RunnerKind.AUTO


class Trust(_Section):
    accept_unnamed_signatures: bool = False


class Metrics(_Section):
    socket: Annotated[bool, Field(strict=True)] = True
    textfile_directory: Annotated[str, AfterValidator(_absolute_or_empty)] = ""


class Health(_Section):
    rollback: Annotated[bool, Field(strict=True)] = True
    units: tuple[Annotated[str, AfterValidator(_unit)], ...] = ()
    time_limit: Annotated[timedelta, _span(timedelta(seconds=10), timedelta(days=1))] = timedelta(minutes=10)
    check_timeout: Annotated[timedelta, _span(timedelta(seconds=1), timedelta(hours=1))] = timedelta(
        minutes=2
    )


class Hooks(_Section):
    timeout: Annotated[timedelta, _span(timedelta(seconds=1), timedelta(hours=1))] = timedelta(minutes=5)


class FleetLock(_Section):
    url: Annotated[str, AfterValidator(_web_address_or_empty)] = ""
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,200}$")] = "default"


class HostOptions(_Section):
    sysroot: _AbsolutePath = "/"
    backend: Literal["auto", "ostree", "bootc"] = "auto"


class Config(_Section):
    """Everything that can be set, valid as a whole."""

    updates: Updates = Updates()
    rollout: Phasing = Phasing()
    gates: Gates = Gates()
    registry: Registry = Registry()
    trust: Trust = Trust()
    worker: Worker = Worker()
    metrics: Metrics = Metrics()
    health: Health = Health()
    hooks: Hooks = Hooks()
    fleet_lock: FleetLock = FleetLock()
    host: HostOptions = HostOptions()

    @property
    def rules(self) -> Rules:
        """What plans depend on. Blocks for the time zone."""
        updates = self.updates
        return Rules(
            mode=updates.mode,
            interval=updates.interval,
            jitter=updates.jitter,
            windows=tuple(entry.window for entry in updates.windows),
            zone=zone_of(updates.time_zone) if updates.windows else UTC,
            rollout=Rollout(self.rollout.wariness, self.rollout.period, self.rollout.minimum_age),
            conditions=self.gates.conditions,
        )

    @property
    def worker_settings(self) -> WorkerSettings:
        return WorkerSettings(
            sysroot=self.host.sysroot,
            backend=self.host.backend,
            insecure_registries=frozenset(self.registry.insecure),
            ca_file=self.registry.ca_file,
            auth_files=self.registry.auth_files,
            parallel_downloads=self.registry.parallel_downloads,
            parallel_per_registry=self.registry.parallel_per_registry,
            max_bandwidth_bytes=self.registry.max_bandwidth,
            stall_timeout_secs=self.registry.stall_timeout.total_seconds(),
            retries=self.registry.retries,
            partial_pulls=self.registry.partial_pulls,
            partial_proof=self.registry.partial_proof,
            memory_bytes=self.worker.memory,
            fleet_lock_url=self.fleet_lock.url,
            fleet_lock_group=self.fleet_lock.group,
            hook_timeout_secs=self.hooks.timeout.total_seconds(),
            accept_unnamed_signatures=self.trust.accept_unnamed_signatures,
        )


# Files


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    config: Config
    files: tuple[Path, ...]
    "Those that were applied, in their order."
    warnings: tuple[str, ...]
    "Sentences about files in the configuration directories that mean nothing."


def load_config(dirs: Sequence[Path] = CONFIG_DIRS) -> LoadedConfig:
    """Read all drop-ins of `dirs`, what counts most last; a directory that is not there is empty.

    Blocks. Raises InvalidConfig at the first file that cannot be read or is not valid.
    """
    found: dict[str, Path] = {}
    warnings: list[str] = []
    for directory in dirs:
        for path in _entries(directory):
            if path.suffix == ".toml":
                found[path.name] = path
            else:
                warnings.append(f"ignoring {path}: only files whose names end in .toml are read")
    files = tuple(path for _, path in sorted(found.items()) if path.resolve() != Path("/dev/null"))
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, parse_fragment(_read(path), path))
    return LoadedConfig(Config.model_validate(merged), files, tuple(warnings))


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _invalid(directory, None, f"cannot be listed: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, FILE_LIMIT_BYTES)
    except OSError as error:
        raise _invalid(path, None, f"cannot be read: {error.strerror}") from error


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for section, values in new.items():
        into[section] = {**into.get(section, {}), **values}


def parse_fragment(data: bytes, path: Path) -> dict[str, Any]:
    """Return the tables of one file, each key valid by itself; `path` is for messages.

    Raises InvalidConfig naming file, line and key.
    """
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _invalid(path, line, "is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, str(error)) from error
    except RecursionError as error:
        raise _invalid(path, None, "is nested too deeply") from error
    try:
        Config.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = _keys_of(first["loc"], document)
        line_of_key = _line_of(text, keys)
        raise _invalid(path, line_of_key, f"{'.'.join(keys)}: {_reason(first)}") from error
    return document


def _syntax_error(path: Path, message: str) -> InvalidConfig:
    what, _, where = message.partition(" (at ")
    line = re.match(r"line (\d+)", where)
    end = " at the end of the file" if where.startswith("end of document") else ""
    return _invalid(path, int(line[1]) if line else None, f"is not valid TOML: {_lower_first(what)}{end}")


def _invalid(path: Path, line: int | None, problem: str) -> InvalidConfig:
    fields: dict[str, str | int | bool] = {"path": str(path)}
    where = f"configuration file {path}"
    if line is not None:
        fields["line"] = line
        where += f", line {line}"
    return InvalidConfig(f"{where}: {problem}", hint="correct the file or remove it", **fields)


def _keys_of(location: tuple[int | str, ...], document: dict[str, Any]) -> tuple[str, ...]:
    """Return the part of an error's location that names keys of the document: at most two."""
    keys: list[str] = []
    node: Any = document
    for part in location:
        if not isinstance(part, str) or not isinstance(node, dict) or part not in node:
            break
        keys.append(part)
        node = node[part]
    return tuple(keys)


def _reason(error: Any) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "model_type" | "model_attributes_type":
            return "must be a table"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            message: str = error["msg"]
            return message.replace("Input should be", "must be").replace("tuple", "list")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


_LINE_SEARCH_LIMIT = 4 << 20
"Characters parsed in search of a line, about two seconds; beyond them the file alone is named."


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """Return the line, from 1, of the statement that first defines a key.

    A statement may span lines, and a key may be written in several ways, so the parser itself is
    asked: it is the statement before which the text has no such key and after which it has.
    """
    lines = text.split("\n")
    left = _LINE_SEARCH_LIMIT

    def first(count: int) -> dict[str, Any] | None:
        nonlocal left
        beginning = "\n".join(lines[:count])
        left -= len(beginning)
        try:
            return tomllib.loads(beginning) if left > 0 else None
        except tomllib.TOMLDecodeError:
            return None

    for start in (number for number, line in enumerate(lines) if keys and keys[-1] in line):
        before = first(start)
        if before is None or _has(before, keys):
            if left <= 0:
                break
            continue
        for end in range(start + 1, len(lines) + 1):
            after = first(end)
            if after is not None and _has(after, keys):
                return start + 1
            if after is not None or left <= 0:
                break
    return None


def _has(document: dict[str, Any], keys: tuple[str, ...]) -> bool:
    node: Any = document
    for key in keys:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True
