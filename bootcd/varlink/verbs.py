"""The methods that start a job: what each takes, and what right it needs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from bootcd.model.job import JobKind, JobOptions
from bootcd.model.right import RIGHTS, Right

INTERACTIVE = "allowInteractiveAuthentication"
"Of every method that needs a right: whether a person may be asked, as systemd names it."

_TEXT_LIMIT = 1024
_LIST_LIMIT = 256


class InvalidParameter(Exception):
    """A parameter that is unknown, missing, of the wrong type or out of range."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name if name.isprintable() and len(name) <= 64 else "?"


@dataclass(frozen=True, slots=True)
class Verb:
    """A method; `options` are names of `JobOptions` with their Varlink types, `required` the others."""

    kind: JobKind
    options: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)

    @property
    def right(self) -> Right:
        return RIGHTS[self.kind]

    def parameters(self) -> dict[str, str]:
        """Return the parameters by name with their Varlink types, as the interface lists them."""
        required = {to_camel(name): kind for name, kind in self.required.items()}
        optional = {to_camel(name): f"?{kind}" for name, kind in self.options.items()}
        return {**required, **optional, INTERACTIVE: "?bool"}

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters by the names `JobOptions` has for them."""
        names = {to_camel(name): name for name in (*self.required, *self.options)}
        return {names[name]: value for name, value in values.items() if name in names}


_SOFT_REBOOT, _APPLY = {"soft_reboot": "string"}, {"apply": "bool"}
_UUID = {"job_uuid": "string"}
_EXPECTED = {"expect_generation": "int", **_UUID}
_BOOTING = {"ignore_inhibitors": "bool", **_EXPECTED}
_DEPLOYMENT = {"deployment": "string"}

VERBS: dict[str, Verb] = {
    "Check": Verb(JobKind.CHECK, {"ignore_inhibitors": "bool", **_UUID}),
    "Upgrade": Verb(
        JobKind.UPGRADE,
        {
            "download_only": "bool",
            "from_downloaded": "bool",
            "tag": "string",
            "allow_downgrade": "bool",
            **_SOFT_REBOOT,
            **_APPLY,
            "expect_digest": "string",
            **_BOOTING,
        },
    ),
    "Switch": Verb(
        JobKind.SWITCH,
        {
            "transport": "string",
            "download_only": "bool",
            "retain": "bool",
            **_SOFT_REBOOT,
            **_APPLY,
            "enforce_container_sigpolicy": "bool",
            "expect_digest": "string",
            **_BOOTING,
        },
        required={"image": "string"},
    ),
    "Rollback": Verb(JobKind.ROLLBACK, {**_SOFT_REBOOT, **_APPLY, **_BOOTING}),
    "Apply": Verb(JobKind.APPLY, {**_SOFT_REBOOT, **_BOOTING}),
    "SetKernelArguments": Verb(
        JobKind.KERNEL_ARGUMENTS,
        {"delete": "[]string", "replace": "[]string", "append": "[]string", **_APPLY, **_BOOTING},
    ),
    "Pin": Verb(JobKind.PIN, _EXPECTED, required=_DEPLOYMENT),
    "Unpin": Verb(JobKind.UNPIN, _EXPECTED, required=_DEPLOYMENT),
    "Drop": Verb(JobKind.DROP, _EXPECTED, required=_DEPLOYMENT),
    "OverlayUsr": Verb(JobKind.USR_OVERLAY, {"read_only": "bool", **_EXPECTED}),
}


def checked(given: Mapping[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters that are what is expected, those that are null left out.

    Raises InvalidParameter naming the first that is not.
    """
    for name in given:
        if name not in expected:
            raise InvalidParameter(name)
    values = {}
    for name, kind in expected.items():
        value = given.get(name)
        if value is None:
            if not kind.startswith("?"):
                raise InvalidParameter(name)
        elif not _fits(value, kind.removeprefix("?")):
            raise InvalidParameter(name)
        else:
            values[name] = value
    return values


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "string":
            # They reach prompts and logs before they are parsed.
            return isinstance(value, str) and len(value) <= _TEXT_LIMIT and value.isprintable()
        case _:
            return (
                isinstance(value, list)
                and len(value) <= _LIST_LIMIT
                and all(_fits(item, kind.removeprefix("[]")) for item in value)
            )


def job_options(verb: Verb, values: Mapping[str, Any], *, verified_only: bool) -> JobOptions:
    """Return what a job is asked for, of checked parameters; raises InvalidParameter."""
    given = verb.given(values)
    if verified_only:
        given["verified_only"] = True
    try:
        return JobOptions(**given)
    except ValidationError as error:
        raise InvalidParameter(to_camel(str(error.errors()[0]["loc"][0]))) from None
