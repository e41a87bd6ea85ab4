from __future__ import annotations

import logging

import pytest
from dbus_fast import Variant
from dbus_fast.validators import is_interface_name_valid
from hypothesis import given
from hypothesis import strategies as st

from bootcd.bus.errors import ProtocolError, bus_name, clean_text, describe
from bootcd.model.errors import AccessDenied, InvalidArguments, WrongState, all_errors


@pytest.mark.parametrize("name", sorted(all_errors()))
def test_bus_name_of_every_error_is_one_the_bus_accepts(name: str) -> None:
    assert is_interface_name_valid(bus_name(name))
    assert bus_name(name).startswith(("org.bootcd1.Error.", "org.freedesktop.DBus.Error."))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidArguments("no"), ("org.freedesktop.DBus.Error.InvalidArgs", "no")),
        (AccessDenied("no", hint="ask"), ("org.freedesktop.DBus.Error.AccessDenied", "no\nask")),
        (WrongState("no"), ("org.bootcd1.Error.WrongState", "no")),
        (ProtocolError("UnknownMethod", "no"), ("org.freedesktop.DBus.Error.UnknownMethod", "no")),
    ],
    ids=["arguments", "access", "ours", "protocol"],
)
def test_describe_known_error_gives_name_and_text(error: Exception, expected: tuple[str, str]) -> None:
    assert describe(error, "a test") == expected


def test_describe_unknown_exception_tells_the_log_and_not_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, text = describe(ZeroDivisionError("/etc/secret"), "org.bootcd1.Manager.Check")
    assert name == "org.bootcd1.Error.Failed"
    assert "secret" not in text
    assert "ZeroDivision" not in text
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert text.rsplit(" ", 1)[1] in record.getMessage()
    assert "org.bootcd1.Manager.Check" in record.getMessage()


def test_describe_endless_text_is_cut() -> None:
    assert len(describe(WrongState("x" * 1_000_000), "a test")[1]) == 4096


@given(st.text(st.characters(codec=None)))
def test_clean_text_is_always_a_dbus_string(text: str) -> None:
    cleaned = clean_text(text)
    assert "\0" not in cleaned
    assert Variant("s", cleaned)
    assert cleaned.encode().decode() == cleaned
