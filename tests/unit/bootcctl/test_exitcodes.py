import pytest

from bootcctl import exitcodes
from bootcctl.exitcodes import Failure, error_kind, exit_code, failure_from_bus
from bootcd.bus.errors import bus_name
from bootcd.model.errors import BootcdError, RegistryError, all_errors


@pytest.mark.parametrize("name", sorted(all_errors()))
def test_exit_code_of_every_error_of_the_service_is_a_failure_that_is_listed(name: str) -> None:
    assert name in exitcodes.CODES
    assert exit_code(name) in dict(exitcodes.MEANINGS)
    assert exit_code(name) not in (exitcodes.DONE, exitcodes.NOTHING_NEW)


@pytest.mark.parametrize("name", sorted(all_errors()))
def test_kind_of_every_bus_error_name_leads_back_to_the_error(name: str) -> None:
    assert error_kind(bus_name(name)) == name


def test_codes_contain_no_kind_that_neither_service_nor_client_has() -> None:
    assert set(exitcodes.CODES) == set(all_errors()) | {"Unreachable", "Detached"}


def test_retryable_registry_errors_share_the_code_that_says_try_again() -> None:
    registry = [cls for cls in all_errors().values() if issubclass(cls, RegistryError)]
    assert registry
    for cls in registry:
        if cls.retryable:
            assert exit_code(cls.name) == exitcodes.REGISTRY_UNREACHABLE, cls.name


def test_meanings_list_every_code_once_in_ascending_order() -> None:
    codes = [code for code, _ in exitcodes.MEANINGS]
    assert codes == sorted(set(codes))
    assert set(codes) == set(exitcodes.CODES.values()) | {
        exitcodes.DONE,
        exitcodes.NOTHING_NEW,
        exitcodes.UNHEALTHY,
    }


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("org.freedesktop.DBus.Error.ServiceUnknown", 13),
        ("org.freedesktop.DBus.Error.NoReply", 13),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", 13),
        ("org.freedesktop.systemd1.UnitMasked", 13),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", 4),
        ("org.freedesktop.DBus.Error.UnknownMethod", 6),
        ("org.freedesktop.DBus.Error.LimitsExceeded", 3),
        ("org.example.Whatever", 1),
        ("org.bootcd1.Error.FromTheFuture", 1),
        ("", 1),
    ],
)
def test_bus_error_name_has_a_code(name: str, code: int) -> None:
    assert failure_from_bus(name, "text").code == code


def test_bus_error_text_is_split_into_sentence_and_hint() -> None:
    error = BootcdError("job 3 is at work", hint="wait for it")
    failure = failure_from_bus("org.bootcd1.Error.Busy", f"{error.message}\n{error.hint}")
    assert (failure.kind, failure.message, failure.hint) == ("Busy", "job 3 is at work", "wait for it")


@pytest.mark.parametrize("name", ["org.bootcd1.Error.Busy", "org.freedesktop.DBus.Error.AccessDenied", "a.b"])
def test_bus_error_without_text_still_has_a_sentence(name: str) -> None:
    assert failure_from_bus(name, "").message


def test_failure_document_has_name_message_and_hint() -> None:
    assert Failure("Busy", "a", "b").document() == {"name": "Busy", "message": "a", "hint": "b"}
