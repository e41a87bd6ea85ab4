"""What a call may hold, and that both front ends offer the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from bootcd.bus.interfaces import MANAGER
from bootcd.bus.methods import _JOBS
from bootcd.model.job import JobOptions, SoftReboot
from bootcd.varlink.verbs import INTERACTIVE, VERBS, InvalidParameter, checked, job_options

_TYPES = {"int": "t", "bool": "b", "string": "s", "[]string": "as"}


def test_verbs_are_those_of_the_bus() -> None:
    assert {name: verb.kind for name, verb in VERBS.items()} == _JOBS


@pytest.mark.parametrize("name", VERBS)
def test_verb_takes_and_needs_what_it_does_on_the_bus(name: str) -> None:
    verb, method = VERBS[name], MANAGER.methods[name]
    required = {argument.name: argument.signature for argument in method.inputs[:-1]}
    assert {option: _TYPES[kind] for option, kind in verb.required.items()} == required
    options = {option.replace("_", "-"): _TYPES[kind] for option, kind in verb.options.items()}
    # Whoever calls by Varlink finds in the status when the last check was.
    assert options == {name: kind for name, kind in (method.options or {}).items() if name != "max-age"}
    assert verb.right == method.right
    assert {*verb.required, *verb.options} <= set(JobOptions.model_fields)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"image": "a", "colour": "red"}, "colour"),
        ({"image": 5}, "image"),
        ({}, "image"),
        ({"image": "a\nb"}, "image"),
        ({"image": "a" * 1025}, "image"),
        ({"image": "a", "retain": 1}, "retain"),
        ({"image": "a", INTERACTIVE: "yes"}, INTERACTIVE),
        ({"image": "a", "\n": 1}, "?"),
        ({"image": "a", "x" * 99: 1}, "?"),
    ],
)
def test_wrong_parameter_is_named(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        checked(given, VERBS["Switch"].parameters())
    assert caught.value.name == wrong


def test_null_is_as_good_as_nothing() -> None:
    assert checked({"tag": None, "apply": True}, VERBS["Upgrade"].parameters()) == {"apply": True}


def test_lists_hold_texts_and_not_too_many() -> None:
    parameters = VERBS["SetKernelArguments"].parameters()
    assert checked({"append": ["a", "b"]}, parameters) == {"append": ["a", "b"]}
    for wrong in ("a", ["a", 1], ["a"] * 257):
        with pytest.raises(InvalidParameter):
            checked({"append": wrong}, parameters)


def test_options_reach_the_job_by_their_names() -> None:
    options = job_options(VERBS["Upgrade"], {"softReboot": "auto", INTERACTIVE: True}, verified_only=True)
    assert options == JobOptions(soft_reboot=SoftReboot.AUTO, verified_only=True)


def test_value_out_of_range_is_named() -> None:
    with pytest.raises(InvalidParameter) as caught:
        job_options(VERBS["Upgrade"], {"softReboot": "perhaps"}, verified_only=False)
    assert caught.value.name == to_camel("soft_reboot")
