"""As much of HTTP as collecting figures takes. No I/O.

https://www.rfc-editor.org/rfc/rfc9112 (HTTP/1.1): one request per connection, no body, GET and HEAD.
"""

from __future__ import annotations

import re

from bootcd.metrics.exposition import CONTENT_TYPE

HEAD_LIMIT = 8 << 10
"Bytes of a request; curl sends 80, Prometheus some hundred."

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,1024}) HTTP/1\.[01]")
_PATHS = ("/", "/metrics")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


def judge(head: bytes) -> tuple[int, bool]:
    """Return the status that answers a request's head, and whether its answer has a body."""
    line = _REQUEST_LINE.fullmatch(head.partition(b"\n")[0].removesuffix(b"\r"))
    if line is None:
        return 400, True
    method, target = line[1], line[2].decode("ascii")
    if method not in (b"GET", b"HEAD"):
        return 405, True
    # A proxy asks by the whole address.
    path = re.sub(r"^http://[^/?]*", "", target).partition("?")[0] or "/"
    return (200 if path in _PATHS else 404), method == b"GET"


def answer(status: int, body: bytes = b"", *, with_body: bool = True) -> bytes:
    """Return a whole answer, after which the connection is closed; `body` is of status 200 alone."""
    kind = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
    content = body if status == 200 else f"{_REASONS[status]}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n"
        + ("Allow: GET, HEAD\r\n" if status == 405 else "")
        + "\r\n"
    )
    return head.encode() + (content if with_body else b"")
