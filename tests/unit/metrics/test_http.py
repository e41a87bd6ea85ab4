from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.metrics.http import answer, judge


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET /metrics HTTP/1.1", (200, True)),
        ("GET / HTTP/1.0", (200, True)),
        ("GET /metrics?collect=all HTTP/1.1", (200, True)),
        ("GET http://localhost/metrics HTTP/1.1", (200, True)),
        ("GET http://localhost HTTP/1.1", (200, True)),
        ("HEAD /metrics HTTP/1.1", (200, False)),
        ("GET /status HTTP/1.1", (404, True)),
        ("POST /metrics HTTP/1.1", (405, True)),
        ("GET /metrics HTTP/2.0", (400, True)),
        ("GET /metrics", (400, True)),
        ("", (400, True)),
    ],
)
def test_request_is_judged_by_its_first_line(line: str, expected: tuple[int, bool]) -> None:
    assert judge(f"{line}\r\nHost: x\r\n\r\n".encode()) == expected


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(head: bytes) -> None:
    status, with_body = judge(head)
    assert answer(status, b"text", with_body=with_body).startswith(f"HTTP/1.1 {status} ".encode())


def test_answer_to_head_says_how_long_the_body_would_be() -> None:
    head, _, body = answer(200, b"abc", with_body=False).partition(b"\r\n\r\n")
    assert b"Content-Length: 3" in head
    assert body == b""


def test_refusal_never_carries_the_figures() -> None:
    assert b"secret" not in answer(404, b"secret")
