"""Changes a person asks of a host's kernel arguments: delete, replace, append, in this order.

The spellings are those of rpm-ostree-kargs(1), the order is too. An argument is `KEY` or `KEY=VALUE`;
values with white space are quoted as on the kernel's command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bootcd.model.errors import InvalidArguments, WrongState
from bootcd.ostreefmt.kargs import DEPLOYMENT_KARG, split_kargs

MAX_CHANGES = 128
MAX_ARGUMENT = 2048
"Characters; the kernel takes 2 to 4 KiB in all."

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEPLOYMENT_KEY = DEPLOYMENT_KARG.rstrip("=")


@dataclass(frozen=True, slots=True)
class KargsChange:
    """What is asked for; `replace` has `KEY=NEW` or `KEY=OLD=NEW`."""

    delete: Sequence[str] = ()
    replace: Sequence[str] = ()
    append: Sequence[str] = ()


def check_change(change: KargsChange) -> None:
    """Refuse what no host could take.

    Raises:
        InvalidArguments: nothing is asked for, too much is, or an argument is none or is libostree's own.
    """
    asked = [*change.delete, *change.replace, *change.append]
    if not asked:
        raise InvalidArguments("no kernel argument is to be changed", hint="append, delete or replace one")
    if len(asked) > MAX_CHANGES:
        raise InvalidArguments(f"more than {MAX_CHANGES} kernel arguments are to be changed at once")
    for argument in asked:
        shown = repr(argument[:80])
        if len(argument) > MAX_ARGUMENT or _CONTROL.search(argument) or not _encodable(argument):
            raise InvalidArguments(f"{shown} is too long for a kernel argument, or has a control character")
        if split_kargs(argument) != [argument] or argument.count('"') % 2 or argument.startswith("="):
            raise InvalidArguments(
                f"{shown} is not one kernel argument", hint='quote a value with spaces: key="a b"'
            )
        if _key(argument) == _DEPLOYMENT_KEY:
            raise InvalidArguments(
                f"{DEPLOYMENT_KARG} names the deployment to boot, and only ostree sets it",
                hint="to boot another deployment, use: bootcctl rollback",
            )
    for argument in change.replace:
        if "=" not in argument:
            raise InvalidArguments(
                f"{argument!r} names no value to put in", hint="use KEY=NEW or KEY=OLD=NEW"
            )


def change_kargs(current: Sequence[str], change: KargsChange) -> list[str]:
    """Return the arguments after a change that `check_change` let pass.

    What is replaced stays where it was; what is appended and is there already stays as it is.

    Raises:
        WrongState: what is to go is not there, or it is not clear which of several is meant.
    """
    result = list(current)
    for wanted in change.delete:
        result = _delete(result, wanted)
    for wanted in change.replace:
        result = _replace(result, wanted)
    return result + [argument for argument in dict.fromkeys(change.append) if argument not in result]


def _delete(current: list[str], wanted: str) -> list[str]:
    if wanted not in current:
        if "=" in wanted:
            raise _absent(wanted)
        wanted = _only(current, wanted, f"delete {wanted}=VALUE")
    return [argument for argument in current if argument != wanted]


def _replace(current: list[str], wanted: str) -> list[str]:
    key, _, value = wanted.partition("=")
    # KEY=OLD=NEW, where OLD and NEW may have equals signs of their own: OLD is one that is there.
    splits = [(value[:at], value[at + 1 :]) for at, character in enumerate(value) if character == "="]
    found = [(f"{key}={old}", f"{key}={new}") for old, new in splits if f"{key}={old}" in current]
    if len(found) > 1:
        raise WrongState(
            f"{wanted!r} can be read in {len(found)} ways",
            hint="delete the old argument and append the new one",
        )
    if found:
        old, new = found[0]
    elif splits:
        raise WrongState(
            f"there is no kernel argument {key} with the value that {wanted!r} is to replace",
            hint="name a value that is there, or delete the old argument and append the new one",
        )
    else:
        old, new = _only(current, key, f"replace {key}=OLD=NEW"), wanted
    return [new if argument == old else argument for argument in current]


def _only(current: list[str], key: str, instead: str) -> str:
    """Return the one argument with a key."""
    found = [argument for argument in dict.fromkeys(current) if _key(argument) == key]
    if not found:
        raise _absent(key)
    if len(found) > 1:
        raise WrongState(
            f"there are {len(found)} kernel arguments {key}", hint=f"say which one: {instead}", key=key
        )
    return found[0]


def _absent(wanted: str) -> WrongState:
    return WrongState(
        f"there is no kernel argument {wanted}", hint="see what there is: bootcctl kargs", argument=wanted
    )


def _key(argument: str) -> str:
    return argument.partition("=")[0]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
