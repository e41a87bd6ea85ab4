import pytest

from bootcd.update.driver import Driver, parse_driver

NO_PIDS = ("-1", "true", "1.5", "99999999", '"1"')


def test_driver_says_who_why_and_by_which_process() -> None:
    driver = parse_driver('name = "agent"\nwhy = "on\\u001bMonday"\npid = 12\nmore = 1', "a.toml")
    assert driver == Driver("agent", "on?Monday", 12)
    assert parse_driver('name = "agent"', "a.toml").sentence == "agent decides when this host is updated"


@pytest.mark.parametrize(
    "text",
    [
        *("", "name =", "name = 1", 'name = " "', 'name = "a"\nwhy = 1'),
        *(f'name = "a"\npid = {pid}' for pid in NO_PIDS),
    ],
)
def test_driver_that_makes_no_sense_is_called_by_its_file(text: str) -> None:
    assert parse_driver(text, "a.toml") == Driver("a.toml", "the file cannot be understood")
