from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootcctl.exitcodes import CODES, Failure
from bootcctl.mock.interfaces import blank, load_interfaces, split
from bootcctl.mock.scenario import BUILT_IN, JobScript, load_scenario


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_scenario_is_valid_and_its_errors_are_errors_of_the_service(name: str) -> None:
    scenario = load_scenario(name, "")
    for script in scenario.jobs.values():
        for error in (script.refuse, script.fail):
            assert not error or "." in error or error in CODES


def test_script_is_toml_or_json(tmp_path: Path) -> None:
    toml, document = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('staged = true\n[jobs.check]\nseconds = 2\nfail = "NotFound"\n')
    document.write_text(json.dumps({"staged": True, "jobs": {"check": {"seconds": 2, "fail": "NotFound"}}}))
    scenario = load_scenario("", str(toml))
    assert scenario == load_scenario("", str(document))
    assert scenario.job("check") == JobScript(seconds=2, fail="NotFound")
    assert scenario.job("pin").bytes == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 1", "has the key colour"),
        ("staged = 1", "staged is to be of the type bool"),
        ("[jobs.check]\nfail = 1", "jobs.check: fail is to be of the type str"),
        ("[jobs]\ncheck = 1", "jobs.check is no table"),
        ("a b", "is not what its name says"),
    ],
)
def test_script_that_is_wrong_is_named_with_its_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        load_scenario("", str(path))
    assert told in caught.value.message
    assert caught.value.kind == "InvalidArguments"


def test_scenario_and_file_that_are_not_there_are_clear() -> None:
    for name, script in (("none", ""), ("", "/does/not/exist.toml")):
        with pytest.raises(Failure):
            load_scenario(name, script)
    with pytest.raises(Failure, match=r"org\.bootcd1\.\*\.xml"):
        load_interfaces("/does/not/exist")


def test_every_type_of_the_interfaces_has_a_blank_value() -> None:
    for interface in load_interfaces().values():
        for signature in (*interface.properties.values(), *(out for _, out in interface.methods.values())):
            assert all(blank(kind) is not None for kind in split(signature))
    assert split("sa{sv}(sst)as") == ["s", "a{sv}", "(sst)", "as"]
    assert blank("(sst)") == ["", "", 0]
