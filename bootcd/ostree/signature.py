"""Signatures of ostree commits by the keys of an ostree remote: what `ostree-remote-image:` asks for.

The signatures are in a commit's detached metadata. libostree judges them by the remote's configuration and
keys, of whatever kind it knows: OpenPGP always, others where it was built with them.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from bootcd.model.errors import SignatureRejected
from bootcd.model.text import one_line
from bootcd.model.trust import Verdict
from bootcd.ostree.image import remote_scope
from bootcd.ostree.libostree import GLib, OSTree

log = logging.getLogger(__name__)

_GPG_SIGNATURES = "ostree.gpgsigs"
_DICTIONARY = GLib.VariantType.new("a{sv}")
_BYTE_STRINGS = GLib.VariantType.new("aay")


def verify_commit(repo: Any, remote: str, commit: bytes, detached: bytes | None, *, what: str) -> Verdict:
    """Return whose signature a commit has, which need not be in the repository.

    Raises:
        SignatureRejected: none with a key of the remote, or there is no such remote or one that verifies
            nothing.
    """
    data, metadata = GLib.Bytes.new(commit), GLib.Bytes.new(detached or b"")
    try:
        verified, _ = repo.signature_verify_commit_data(remote, data, metadata, OSTree.RepoVerifyFlags.NONE)
        reason = "the remote verifies nothing"
    except GLib.Error as error:
        verified, reason = False, one_line(error.message)
    if not verified:
        raise SignatureRejected(
            f"{what} is not signed by the ostree remote {remote}: {reason}",
            hint=f"see: ostree remote gpg-list-keys {remote}",
            scope=remote_scope(remote),
            requirement="ostree-remote-image",
        )
    key, time = _signer(repo, remote, data, detached or b"")
    return Verdict(scope=remote_scope(remote), method="ostree", key=key, time=time)


def _signer(repo: Any, remote: str, data: Any, detached: bytes) -> tuple[str, datetime | None]:
    """Return fingerprint and time of the first valid OpenPGP signature, for show: it decides nothing."""
    entries = GLib.Variant.new_from_bytes(_DICTIONARY, GLib.Bytes.new(detached), False)
    found = entries.lookup_value(_GPG_SIGNATURES, _BYTE_STRINGS)
    signatures = b"".join(map(bytes, found.unpack())) if found else b""
    attributes = OSTree.GpgSignatureAttr
    wanted = [attributes.VALID, attributes.FINGERPRINT, attributes.TIMESTAMP]
    try:
        result = repo.gpg_verify_data(remote, data, GLib.Bytes.new(signatures), None, None, None)
        for place in range(result.count_all()):
            valid, fingerprint, time = result.get(place, wanted).unpack()
            if valid:
                return fingerprint, datetime.fromtimestamp(time, UTC)
    except (GLib.Error, OverflowError, OSError) as error:
        log.debug("%s: who signed is not known: %s", remote, error)
    return "", None
