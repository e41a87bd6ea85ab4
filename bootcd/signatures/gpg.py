"""Simple signatures verified by gpgv(1), with a private keyring of the policy's keys.

gpgv knows no web of trust and no key server: a key is in the keyring or it is not. Its exit code is
0 also for a signature by an expired or revoked key, so the status lines are what counts. Content may be
compressed, and grow to any size before its signature is reached; so it goes to memory of a fixed size.
Status lines: https://github.com/gpg/gnupg/blob/master/doc/DETAILS; armor: RFC 9580 §6.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bootcd.host import process
from bootcd.model.errors import BackendFailed, SignatureRejected
from bootcd.oci.trust.payload import MAX_PAYLOAD_BYTES

_DEADLINE_SECS = 30.0
_STATUS = "[GNUPG:] "
_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_FATAL = {
    "EXPKEYSIG": "it is by a key that has expired",
    "REVKEYSIG": "it is by a key that was revoked",
    "EXPSIG": "it has expired",
    "BADSIG": "it does not fit its content",
    "NO_PUBKEY": "it is by a key the policy does not name",
    "ERRSIG": "it cannot be checked",
    "NODATA": "it is no OpenPGP signature",
}


@dataclass(frozen=True, slots=True)
class GpgSignature:
    content: bytes
    fingerprint: str
    "Of the primary key."
    time: datetime | None


async def verify_gpg(message: bytes, keys: Sequence[bytes]) -> GpgSignature:
    """Verify a signed OpenPGP message and return its content.

    `keys` are key files as they are, armored or not. Raises SignatureRejected, or BackendFailed if gpgv
    cannot be run.
    """
    keyring = b"".join(dearmor(key) for key in keys)
    if not keyring:
        raise SignatureRejected("the policy's key files hold no key")
    temporary = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="bootcd-gpg-")
    try:
        directory, name = Path(temporary.name), temporary.name

        def lay_out() -> None:
            (directory / "keyring").write_bytes(keyring)
            (directory / "message").write_bytes(message)

        await asyncio.to_thread(lay_out)
        command = [
            *("gpgv", "--homedir", name, "--quiet", "--keyring", f"{name}/keyring"),
            *("--status-fd", "2", "--output", "-", f"{name}/message"),
        ]
        try:
            done = await process.run(command, deadline_secs=_DEADLINE_SECS, limit=MAX_PAYLOAD_BYTES)
        except FileNotFoundError as error:
            raise BackendFailed(
                "the policy wants an OpenPGP signature, and gpgv is not there to verify it",
                hint="install gpgv",
            ) from error
        except TimeoutError as error:
            raise BackendFailed(f"gpgv took longer than {_DEADLINE_SECS:g} seconds") from error
        except OSError as error:
            raise BackendFailed("gpgv could not be started") from error
    finally:
        await asyncio.to_thread(temporary.cleanup)
    fingerprint, time = parse_status(done.stderr.decode(errors="replace"))
    if done.status != 0:
        raise SignatureRejected(f"gpgv ended with code {done.status}")
    return GpgSignature(done.stdout, fingerprint, time)


def parse_status(text: str) -> tuple[str, datetime | None]:
    """Return fingerprint and time of the one good signature gpgv reports. Raises SignatureRejected."""
    good, valid = 0, []
    # A name in a message may hold what only Unicode calls an end of a line; gpgv writes it as it is.
    for line in text.split("\n"):
        if not line.startswith(_STATUS):
            continue
        word, *rest = line.removeprefix(_STATUS).split(" ")
        if word in _FATAL:
            raise SignatureRejected(_FATAL[word])
        if word == "GOODSIG":
            good += 1
        elif word == "VALIDSIG":
            valid.append(rest)
    if good != 1 or len(valid) != 1 or len(valid[0]) < 10:
        raise SignatureRejected("it is not exactly one good OpenPGP signature")
    fields = valid[0]
    time = datetime.fromtimestamp(int(fields[2]), UTC) if re.fullmatch(r"[0-9]{1,11}", fields[2]) else None
    return fields[9], time


def dearmor(data: bytes) -> bytes:
    """Return keys in the binary form gpgv takes for a keyring; binary ones pass as they are."""
    blocks = _ARMOR.findall(data)
    if not blocks:
        return b"" if data.lstrip().startswith(b"-----") else data
    keys = []
    for block in blocks:
        # Headers end at an empty line; the check sum is a line of its own that starts with `=`.
        lines = block.replace(b"\r", b"").split(b"\n")
        body = lines[lines.index(b"") + 1 :] if b"" in lines[:-1] else lines
        encoded = b"".join(line.strip() for line in body if not line.startswith(b"="))
        try:
            keys.append(base64.b64decode(encoded, validate=True))
        except binascii.Error:
            raise SignatureRejected("a key file of the policy has damaged armor") from None
    return b"".join(keys)
