from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.varlink.wire import Call, encode_error, encode_reply, parse_call


def message(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_call_is_read_with_its_flags() -> None:
    call = parse_call(message(method="io.bootcd.GetStatus", parameters={"a": 1}, more=True))
    assert call == Call("io.bootcd", "GetStatus", {"a": 1}, more=True)
    assert parse_call(message(method="io.bootcd.X", parameters=None)) == Call("io.bootcd", "X")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"method": 5}',
        b'{"method": "GetStatus"}',
        b'{"method": "io.bootcd.getStatus"}',
        b'{"method": "io.bootcd.X", "parameters": []}',
        b'{"method": "io.bootcd.X", "more": 1}',
        b'{"method": "io.bootcd.X", "parameters": {"a": NaN}}',
        b"[" * 60_000,
        b'{"method": "io.bootcd.X", "parameters": {"a": ' + b"9" * 10_000 + b"}}",
    ],
)
def test_message_that_is_no_call_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_call(data)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: message(method=text)))
def test_any_bytes_are_a_call_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert parse_call(data).method


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
def test_reply_is_one_message_whatever_is_in_it(parameters: dict[str, object]) -> None:
    data = encode_reply(parameters, continues=True)
    assert data.endswith(b"\0")
    assert data.count(b"\0") == 1
    assert json.loads(data[:-1])["continues"] is True
    assert b"\\u0000" not in encode_error("io.bootcd.Failed", {"message": "a\0b"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\0b", "a\ufffdb"), ("a\\u0000", "a\\u0000"), ("\\\0", "\\\ufffd"), ('\\\\u0000"', '\\\\u0000"')],
)
def test_text_with_a_nul_is_told_from_one_that_looks_like_it(text: str, shown: str) -> None:
    assert json.loads(encode_reply({"text": text})[:-1]) == {"parameters": {"text": shown}}


def test_text_with_half_of_a_surrogate_pair_does_not_break_the_reply() -> None:
    assert json.loads(encode_reply({"text": "\ud800"})[:-1]) == {"parameters": {"text": "?"}}
