import os
import re
import tomllib
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.config import (
    CONFIG_DIRS,
    FILE_LIMIT_BYTES,
    Config,
    RunnerKind,
    load_config,
    parse_fragment,
    parse_size,
)
from bootcd.model.errors import InvalidConfig
from bootcd.model.job import WorkerSettings
from bootcd.policy.rollout import Rollout
from bootcd.policy.window import parse_window
from bootcd.update.facts import Mode, Rules
from bootcd.update.surroundings import Conditions, OnSessions

EVERY_KEY = """
[updates]
mode = "stage"
interval = "1h 30min"
jitter = 90
windows = [{ start = "Sun 02:00", length = "1h" }]
time-zone = "UTC"
[rollout]
wariness = 1
period = "3d"
minimum-age = "12h"
[gates]
metered = false
battery = 35
power-saver = true
sessions = "wait"
courtesy = "3min"
[registry]
insecure = ["LOCALHOST:5000", "[::1]:5000"]
ca-file = "/etc/pki/ca.pem"
auth-files = ["/etc/auth.json"]
parallel-downloads = 16
parallel-per-registry = 2
max-bandwidth = "512K"
stall-timeout = "5s"
retries = 0
partial-pulls = "never"
partial-proof = "table"
[trust]
accept-unnamed-signatures = true
[worker]
memory = "128M"
runner = "subprocess"
[metrics]
socket = false
textfile-directory = "/run/bootcd"
[health]
rollback = false
units = ["sshd.service"]
time-limit = "3min"
check-timeout = 20

[fleet-lock]
url = "https://lock.example/base"
group = "workers"

[hooks]
timeout = 30
[host]
sysroot = "/mnt"
backend = "bootc"
"""


def write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def config_of(text: str) -> Config:
    return Config.model_validate(parse_fragment(text.encode(), Path("/etc/x.toml")))


# Values


def test_config_of_nothing_checks_but_does_not_stage() -> None:
    config = Config()
    assert config.rules == Rules(Mode.CHECK, timedelta(hours=6), timedelta(minutes=30))
    assert config.worker.runner is RunnerKind.AUTO
    defaults = WorkerSettings(
        auth_files=("/run/ostree/auth.json", "/etc/ostree/auth.json", "/usr/lib/ostree/auth.json")
    )
    assert config.worker_settings == defaults


def test_config_of_every_key_reaches_rules_and_worker_settings() -> None:
    config = config_of(EVERY_KEY)
    window = parse_window("Sun 02:00", timedelta(hours=1))
    rollout = Rollout(wariness=1.0, period=timedelta(days=3), minimum_age=timedelta(hours=12))
    assert config.rules == Rules(
        Mode.STAGE,
        timedelta(minutes=90),
        timedelta(seconds=90),
        (window,),
        UTC,
        rollout,
        Conditions(False, 35, True, OnSessions.WAIT, timedelta(minutes=3)),
    )
    assert config.worker.runner is RunnerKind.SUBPROCESS
    assert config.worker_settings == WorkerSettings(
        sysroot="/mnt",
        backend="bootc",
        insecure_registries=frozenset({"localhost:5000", "[::1]:5000"}),
        ca_file="/etc/pki/ca.pem",
        auth_files=("/etc/auth.json",),
        parallel_downloads=16,
        parallel_per_registry=2,
        max_bandwidth_bytes=512 << 10,
        stall_timeout_secs=5.0,
        retries=0,
        partial_pulls="never",
        partial_proof="table",
        fleet_lock_url="https://lock.example/base",
        fleet_lock_group="workers",
        hook_timeout_secs=30.0,
        memory_bytes=128 << 20,
        accept_unnamed_signatures=True,
    )


def test_every_key_of_the_example_here_is_every_key_there_is() -> None:
    assert {
        (section, key) for section, keys in tomllib.loads(EVERY_KEY).items() for key in keys
    } == all_keys()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("8388608", 8 << 20), ("64M", 64 << 20), ("1K", 1024), ("2G", 2 << 30), ("1T", 1 << 40)],
)
def test_parse_size_uses_the_base_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "64m", "64MB", "64 M", "-1", "1.5G", "9" * 16, "64M\n", "٣"])
def test_parse_size_of_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size such as 64M"):
        parse_size(text)


@pytest.mark.parametrize("unit", ["sshd", "sshd service", "../x.service", "a.device", ""])
def test_unit_that_is_not_named_in_full_is_refused(unit: str) -> None:
    with pytest.raises(InvalidConfig, match="is no unit; name it in full"):
        config_of(f'[health]\nunits = ["{unit}"]\n')


# Drop-ins


def test_load_config_without_any_directory_is_the_default(tmp_path: Path) -> None:
    loaded = load_config([tmp_path / "absent"])
    assert (loaded.config, loaded.files, loaded.warnings) == (Config(), (), ())


def test_config_dirs_rank_as_systemd_ranks_them() -> None:
    assert [path.parts[1] for path in CONFIG_DIRS] == ["usr", "run", "etc"]


def test_load_config_applies_files_in_the_order_of_their_names_across_directories(tmp_path: Path) -> None:
    usr = write(
        tmp_path / "usr", {"50-x.toml": '[updates]\nmode = "stage"\ninterval = "1h"\njitter = "1min"\n'}
    )
    etc = write(tmp_path / "etc", {"10-x.toml": '[updates]\nmode = "off"\ninterval = "2h"\n'})
    run = write(tmp_path / "run", {"60-x.toml": '[updates]\ninterval = "3h"\n[worker]\nmemory = "32M"\n'})
    loaded = load_config([usr, run, etc])
    assert loaded.config.rules == Rules(Mode.STAGE, timedelta(hours=3), timedelta(minutes=1))
    assert loaded.config.worker.memory == 32 << 20
    assert loaded.files == (etc / "10-x.toml", usr / "50-x.toml", run / "60-x.toml")


def test_load_config_reads_of_files_with_one_name_only_the_last_directorys(tmp_path: Path) -> None:
    usr = write(tmp_path / "usr", {"10-x.toml": '[updates]\nmode = "stage"\n[registry]\nretries = 1\n'})
    run = write(tmp_path / "run", {"10-x.toml": "this is not TOML"})
    etc = write(tmp_path / "etc", {"10-x.toml": "[registry]\nretries = 9\n"})
    loaded = load_config([usr, run, etc])
    assert loaded.config.updates.mode is Mode.CHECK
    assert loaded.config.registry.retries == 9
    assert loaded.files == (etc / "10-x.toml",)


def test_load_config_with_a_link_to_dev_null_switches_the_file_off(tmp_path: Path) -> None:
    usr = write(tmp_path / "usr", {"10-x.toml": '[updates]\nmode = "stage"\n'})
    etc = write(tmp_path / "etc", {})
    (etc / "10-x.toml").symlink_to("/dev/null")
    loaded = load_config([usr, etc])
    assert (loaded.config, loaded.files) == (Config(), ())


def test_load_config_replaces_lists_whole(tmp_path: Path) -> None:
    directory = write(
        tmp_path / "etc",
        {"1.toml": '[registry]\ninsecure = ["a", "b"]\n', "2.toml": '[registry]\ninsecure = ["c"]\n'},
    )
    assert load_config([directory]).config.registry.insecure == ("c",)


def test_load_config_warns_of_files_it_does_not_read(tmp_path: Path) -> None:
    names = ["10-x.yaml", "20-x.TOML", "30-x.toml.bak", ".hidden.swp"]
    directory = write(tmp_path / "etc", dict.fromkeys(names, '[updates]\nmode = "stage"\n'))
    loaded = load_config([directory])
    assert loaded.config == Config()
    assert [re.search(r"ignoring .*/(\S+):", warning)[1] for warning in loaded.warnings] == names[:3]  # type: ignore[index]


# Errors


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        pytest.param("[updates]\nmoed = 1\n", 2, "updates.moed: unknown key", id="unknown key"),
        pytest.param("\n\n[upgrades]\n", 3, "upgrades: unknown key", id="unknown table"),
        pytest.param("[registry]\nca_file = '/x'\n", 2, "registry.ca_file: unknown key", id="underscore"),
        pytest.param("interval = 1\n[updates]\ninterval = 2\n", 1, "interval: unknown key", id="top level"),
        pytest.param(
            "[updates]\n# mode = 1\n\nmode = 'on'\n",
            4,
            "updates.mode: must be 'off', 'check', 'stage' or 'apply'",
            id="enum",
        ),
        pytest.param("updates.mode = 3\n", 1, "updates.mode: must be 'off',", id="dotted key"),
        pytest.param("updates = {interval = 'x'}\n", 1, 'updates.interval: "x" is no time span', id="inline"),
        pytest.param(
            "[updates]\n'interval' = 0\n", 2, "updates.interval: must be at least 1", id="quoted key"
        ),
        pytest.param(
            "[updates]\ninterval = 99999999999\n", 2, "updates.interval: must be at", id="huge number"
        ),
        pytest.param("[updates]\ninterval = 1.5\n", 2, "updates.interval: must be a time span", id="float"),
        pytest.param(
            "[updates]\ninterval = true\n", 2, "updates.interval: must be a time span", id="boolean"
        ),
        pytest.param("[updates]\njitter = -1\n", 2, "updates.jitter: must be at least 0", id="negative"),
        pytest.param("[rollout]\nwariness = 1.5\n", 2, "rollout.wariness: must be less than", id="wary"),
        pytest.param("[rollout]\nwariness = nan\n", 2, "rollout.wariness: must be", id="no number"),
        pytest.param("[rollout]\nwariness = true\n", 2, "rollout.wariness: must be", id="wary or not"),
        pytest.param("[rollout]\nperiod = '2y'\n", 2, 'rollout.period: "2y" is longer', id="endless rollout"),
        pytest.param("updates = 3\n", 1, "updates: must be a table", id="no table"),
        pytest.param("[[updates]]\n", 1, "updates: must be a table", id="array of tables"),
        pytest.param(
            "[registry]\nretries = '5'\n", 2, "registry.retries: must be a valid integer", id="string"
        ),
        pytest.param("[registry]\nretries = 21\n", 2, "registry.retries: must be less than", id="too many"),
        pytest.param(
            "[registry]\nparallel-downloads = 0\n",
            2,
            "registry.parallel-downloads: must be greater than",
            id="too few",
        ),
        pytest.param(
            "[registry]\nretries = true\n", 2, "registry.retries: must be a valid integer", id="bool int"
        ),
        pytest.param(
            "[registry]\nauth-files = [\n  '/a',\n  'b',\n]\n",
            2,
            'registry.auth-files: "b" is no abs',
            id="lines",
        ),
        pytest.param(
            "[registry]\nauth-files = '/a'\n", 2, "registry.auth-files: must be a valid list", id="list"
        ),
        pytest.param("[registry]\nca-file = 'a'\n", 2, 'registry.ca-file: "a" is no absolute', id="relative"),
        pytest.param(
            "[registry]\ninsecure = ['http://x']\n",
            2,
            'registry.insecure: "http://x" is no registry',
            id="url",
        ),
        pytest.param("[worker]\nmemory = '1M'\n", 2, "worker.memory: must be greater than", id="too little"),
        pytest.param("[worker]\nmemory = 'lots'\n", 2, 'worker.memory: "lots" is no size', id="no size"),
        pytest.param("[worker]\nrunner = 'docker'\n", 2, "worker.runner: must be 'auto',", id="runner"),
        pytest.param("[host]\nsysroot = ''\n", 2, 'host.sysroot: "" is no absolute path', id="empty path"),
        pytest.param(
            '[host]\nsysroot = """/\nretries = 1\n"""\n[registry]\nretries = -1\n',
            6,
            "registry.retries",
            id="the same text inside a string",
        ),
        pytest.param("[updates]\nmode = \n", 2, "is not valid TOML: invalid value", id="syntax"),
        pytest.param("[updates]\n\n[updates]\n", 3, "is not valid TOML: cannot declare", id="twice"),
        pytest.param("a = [", None, "is not valid TOML: invalid value at the end of", id="cut off"),
        pytest.param("a = 1\nb = 'x\ud800'", 2, "is not UTF-8 text", id="encoding"),
        pytest.param("a = " + "[" * 100_000, None, "is nested too deeply", id="bomb"),
    ],
)
def test_load_config_with_a_bad_file_names_file_line_and_key(
    tmp_path: Path, text: str, line: int | None, problem: str
) -> None:
    path = tmp_path / "50-x.toml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InvalidConfig) as caught:
        load_config([tmp_path])
    error = caught.value
    where = f"configuration file {path}, line {line}: " if line else f"configuration file {path}: "
    assert error.message.startswith(where + problem)
    assert error.fields == ({"path": str(path), "line": line} if line else {"path": str(path)})
    assert error.hint
    assert "\n" not in error.message
    assert len(error.message) < 400


def test_load_config_with_a_bad_key_deep_in_a_huge_file_still_answers_soon(tmp_path: Path) -> None:
    filler = "".join(f"# retries {number}\n" for number in range(40_000))
    directory = write(tmp_path, {"1.toml": f"[registry]\n{filler}retries = -1\n"})
    with pytest.raises(InvalidConfig, match=r"1\.toml: registry\.retries: must be greater") as caught:
        load_config([directory])
    assert "line" not in caught.value.fields


def test_load_config_with_a_bad_value_that_is_overridden_is_still_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, {"1.toml": "[updates]\nmode = 1\n", "2.toml": "[updates]\nmode = 'off'\n"})
    with pytest.raises(InvalidConfig, match=r"1\.toml, line 2"):
        load_config([directory])


def test_load_config_with_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, {"1.toml": "#" * (FILE_LIMIT_BYTES + 1)})
    with pytest.raises(InvalidConfig, match=r"1\.toml: cannot be read: Longer than 1048576 bytes"):
        load_config([directory])


def test_load_config_with_a_file_at_the_limit_reads_it(tmp_path: Path) -> None:
    end = "\n[registry]\nretries = 1\n"
    directory = write(tmp_path, {"1.toml": "#" * (FILE_LIMIT_BYTES - len(end)) + end})
    assert load_config([directory]).config.registry.retries == 1


def test_load_config_with_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.toml")
    with pytest.raises(InvalidConfig, match="cannot be read: Not a regular file"):
        load_config([tmp_path])


def test_load_config_with_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.toml").symlink_to("absent")
    with pytest.raises(InvalidConfig, match="cannot be read: No such file"):
        load_config([tmp_path])


def test_load_config_with_a_file_for_a_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.d"
    path.write_text("")
    with pytest.raises(InvalidConfig, match="cannot be listed: Not a directory"):
        load_config([path])


toml_values = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower()


@given(st.data())
def test_parse_fragment_with_any_value_for_a_key_is_valid_or_names_its_line(data: st.DataObject) -> None:
    section, key = data.draw(st.sampled_from(sorted(all_keys())))
    text = f"# {key} = 1\n[{section}]\n\n{key} = {toml(data.draw(toml_values))}\n"
    error = refusal(text.encode())
    if error:
        assert error.fields["line"] == 4
        assert f"{section}.{key}: " in error.message


def refusal(data: bytes) -> InvalidConfig | None:
    try:
        parse_fragment(data, Path("/x.toml"))
    except InvalidConfig as error:
        return error
    return None


@given(st.binary(max_size=60) | st.text(alphabet="[]{}='\"\n.# ab-\\u0", max_size=60).map(str.encode))
def test_parse_fragment_of_any_bytes_is_valid_or_invalid_config(data: bytes) -> None:
    error = refusal(data)
    assert error is None or "\n" not in error.message


# Windows


def test_windows_and_their_time_zone_become_rules() -> None:
    rules = config_of(
        '[updates]\nmode = "apply"\ntime-zone = "Asia/Kathmandu"\n'
        'windows = [{ start = "Mon..Fri 22:00", length = "2h" }, { start = "03:30", length = 90 }]\n'
    ).rules
    assert rules.mode is Mode.APPLY
    assert rules.zone == ZoneInfo("Asia/Kathmandu")
    assert rules.windows == (
        parse_window("Mon..Fri 22:00", timedelta(hours=2)),
        parse_window("03:30", timedelta(seconds=90)),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('time-zone = "Europe/Atlantis"', '"Europe/Atlantis" is no time zone of this host'),
        ('time-zone = "../../etc/passwd"', "is no time zone of this host"),
        ('time-zone = "Europe"', '"Europe" is no time zone of this host'),
        ('windows = [{ start = "Foo 22:00", length = "2h" }]', '"Foo" is no day of the week'),
        ('windows = [{ start = "Mon", length = "2h" }]', '"Mon" is no start of a window'),
        ('windows = [{ start = "Mon 22:00", length = "8d" }]', "at most 604800 seconds"),
        ('windows = [{ start = "Mon 22:00", length = "0s" }]', "at least 60"),
        ('windows = [{ start = "Mon 22:00" }]', "required"),
        ('windows = [{ start = "Mon 22:00", length = "1h", zone = "UTC" }]', "unknown key"),
        ('windows = ["Mon 22:00"]', "must be"),
    ],
)
def test_windows_that_make_no_sense_are_refused_with_file_line_and_reason(line: str, problem: str) -> None:
    error = refusal(f"[updates]\n{line}\n".encode())
    assert error
    assert error.message.startswith("configuration file /x.toml, line 2: updates.")
    assert problem in error.message


# The manual


def all_keys() -> set[tuple[str, str]]:
    return {
        (table.alias or section, option.alias or key)
        for section, table in Config.model_fields.items()
        for key, option in type(table.default).model_fields.items()
    }


MANUAL = Path(__file__).parents[2] / "docs" / "config.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| `([^`]*)` \| .{20,} \|$", re.M)


def documented() -> dict[tuple[str, str], str]:
    sections = re.split(r"^## \[([a-z-]+)\]$", MANUAL.read_text(), flags=re.M)
    return {
        (section, key): default
        for section, body in zip(sections[1::2], sections[2::2], strict=True)
        for key, default in ROW.findall(body)
    }


def test_manual_describes_every_key_and_no_other() -> None:
    assert set(documented()) == all_keys()


def test_manual_names_the_true_defaults() -> None:
    for (section, key), default in documented().items():
        assert config_of(f"[{section}]\n{key} = {default}\n") == Config(), (section, key)


def test_manual_examples_are_valid() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```$", MANUAL.read_text(), flags=re.M | re.S)
    assert examples
    for example in examples:
        assert config_of(example) != Config()


@pytest.mark.parametrize(
    "url",
    ["lock.example", "ftp://lock.example", "https://user:password@lock.example", "https://lock.example/?a=b"],
)
def test_address_of_a_fleet_lock_server_is_a_plain_one(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"fleet-lock\.url: .*is no address such as"):
        config_of(f'[fleet-lock]\nurl = "{url}"\n')
