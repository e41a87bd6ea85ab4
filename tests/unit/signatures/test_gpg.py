from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import SignatureRejected
from bootcd.signatures.gpg import dearmor, parse_status

GOOD = "[GNUPG:] GOODSIG 31280AEA23A6D968 good <good@x>\n"
VALID = "[GNUPG:] VALIDSIG AAAA 2026-11-25 1795571161 0 4 0 1 10 00 BBBB\n"


def test_one_good_signature_gives_primary_key_and_time() -> None:
    fingerprint, time = parse_status("[GNUPG:] NEWSIG good@x\n" + GOOD + VALID)
    assert fingerprint == "BBBB"
    assert time is not None
    assert int(time.timestamp()) == 1795571161


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD,
        VALID,
        GOOD + VALID + GOOD + VALID,
        GOOD.replace("GOODSIG", "EXPKEYSIG") + VALID,
        GOOD.replace("GOODSIG", "REVKEYSIG") + VALID,
        GOOD.replace("GOODSIG", "EXPSIG") + VALID,
        GOOD + VALID + "[GNUPG:] BADSIG AAAA x\n",
        GOOD + VALID + "[GNUPG:] NO_PUBKEY AAAA\n",
        GOOD + "[GNUPG:] VALIDSIG AAAA\n",
        (GOOD + VALID).replace("[GNUPG:] ", "gpgv: "),
    ],
)
def test_anything_else_than_one_good_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureRejected):
        parse_status(text)


def armored(data: bytes, headers: str = "Comment: x\n\n") -> bytes:
    body = base64.encodebytes(data).decode()
    begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
    return f"{begin}\n{headers}{body}=AbCd\n{end}\n".encode()


@given(st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=200))
def test_armored_keys_come_out_as_they_went_in(first: bytes, second: bytes) -> None:
    assert dearmor(armored(first) + armored(second, "\n")) == first + second


def test_binary_keys_pass_and_other_armor_does_not() -> None:
    assert dearmor(b"\x99\x01") == b"\x99\x01"
    assert dearmor(b"-----BEGIN PGP MESSAGE-----\n\nYQ==\n-----END PGP MESSAGE-----\n") == b""
    with pytest.raises(SignatureRejected):
        dearmor(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%%\n-----END PGP PUBLIC KEY BLOCK-----")


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_name_that_holds_another_end_of_line_makes_no_status_line(end: str) -> None:
    forged = "[GNUPG:] GOODSIG AAAA x", "[GNUPG:] VALIDSIG AAAA 2026-11-25 1 0 4 0 1 10 00 BBBB"
    with pytest.raises(SignatureRejected):
        parse_status(f"[GNUPG:] PLAINTEXT 62 0 {end}{forged[0]}{end}{forged[1]}\n")
