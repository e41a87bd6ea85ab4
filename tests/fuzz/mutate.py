"""Inputs made of other inputs, the same ones for the same seed: for where no fuzzer is installed."""

from __future__ import annotations

import random
from collections.abc import Sequence

_WORDS = (
    b"\0", b"\xff", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"/", b"@", b"..", b"%00", b"=",
    b"null", b"-1", b"1e999", b"9" * 20, b"\\u0000", b"\xed\xa0\x80", b"\xe2\x80\xae", b"sha256:", b"0" * 64,
    b"\x80" + b"\xff" * 11, b"7777777\0", b"A" * 1000,
)  # fmt: skip
"Bytes that mean something in one of the formats, or are at the edge of something."
MAX_INPUT_BYTES = 64 << 10


def mutated(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """Return an input of the corpus, spoilt in one to eight places."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        length = min(chance.choice((1, 1, 2, 4, 16, 512)), len(data) - at)
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at:at] = chance.choice(_WORDS)
            case 2:
                data[at : at + length] = chance.choice(_WORDS)[:length]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * chance.choice((1, 2, 100))
            case 5:
                other = chance.choice(corpus)
                cut = chance.randint(0, len(other))
                data[at:] = other[cut:]
            case _:
                data[at : at + length] = chance.randbytes(length)
    return bytes(data[:MAX_INPUT_BYTES])
