"""What a hostile OpenPGP message may do to the one who verifies it, with the real gpgv."""

from __future__ import annotations

import bz2
import tempfile
from pathlib import Path

import pytest

from bootcd.model.errors import SignatureRejected
from bootcd.signatures.gpg import verify_gpg

COMPRESSED, LITERAL, BZIP2 = 0xC8, 0xCB, 3
KEY = b"\x99\x00\x01\x04"


def packet(tag: int, body: bytes) -> bytes:
    return bytes([tag, 0xFF]) + len(body).to_bytes(4, "big") + body


async def test_content_that_unpacks_to_any_size_is_refused_and_fills_no_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleanup, largest = tempfile.TemporaryDirectory.cleanup, []

    def measure(directory: tempfile.TemporaryDirectory[str]) -> None:
        largest.append(max(path.stat().st_size for path in Path(directory.name).iterdir()))
        cleanup(directory)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", measure)
    content = packet(LITERAL, b"b\0\0\0\0\0" + bytes(32 << 20))
    message = packet(COMPRESSED, bytes([BZIP2]) + bz2.compress(content))
    assert len(message) < 10_000

    with pytest.raises(SignatureRejected):
        await verify_gpg(message, [KEY])

    assert largest == [len(message)]
