from __future__ import annotations

import logging
import re
import subprocess
import sys

from bootcd.host.journal import Event, fields


def test_event_ids_are_random_128_bit_numbers_and_differ() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", event) for event in Event)
    assert len({event.value for event in Event}) == len(Event)


def test_fields_carry_the_event_and_its_facts() -> None:
    assert fields(Event.JOB_ENDED, job="u", changed=True) == {
        "MESSAGE_ID": Event.JOB_ENDED.value,
        "BOOTCD_JOB": "u",
        "BOOTCD_CHANGED": "True",
    }


def test_fields_do_not_clash_with_those_of_a_log_record() -> None:
    record = logging.makeLogRecord(fields(Event.JOB_STARTED, name="x", message="y"))
    assert record.getMessage() == ""


def test_log_goes_to_standard_error_without_a_journal() -> None:
    code = (
        "import logging; from bootcd.host import journal\n"
        "with journal.logging_configured():\n"
        "    logging.getLogger('bootcd.x').warning('one %s', 'two')\n"
        "    logging.getLogger('bootcd.x').debug('not shown')\n"
        "logging.getLogger('bootcd.x').error('after')\n"
    )
    environment = {"JOURNAL_STREAM": "1:1"}  # of another stream than this one
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == "WARNING: one two\nERROR: after\n"


def test_log_record_is_rendered_when_it_is_made_with_its_exception() -> None:
    code = (
        "import logging; from bootcd.host import journal\n"
        "with journal.logging_configured():\n"
        "    names = ['one']\n"
        "    logging.warning('%s', names)\n"
        "    names.append('two')\n"
        "    try: 1 / 0\n"
        "    except ZeroDivisionError: logging.exception('odd')\n"
    )
    environment = {"JOURNAL_STREAM": "1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    lines = done.stderr.splitlines()
    assert lines[:3] == ["WARNING: ['one']", "ERROR: odd", "Traceback (most recent call last):"]
    assert lines[-1] == "ZeroDivisionError: division by zero"
