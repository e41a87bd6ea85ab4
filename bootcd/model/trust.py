"""How an image was found trustworthy: what is kept with its deployment and shown to people."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

Method = Literal["none", "gpg", "key", "fulcio", "pki", "ostree"]


class Verdict(BaseModel):
    """Why an image was let in. `none`: the policy accepts it without a signature."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    scope: str
    "What of the policy counted: transport and scope, `default`, or the ostree remote."
    method: Method = "none"
    key: str = ""
    "Fingerprint: of the OpenPGP key, or SHA-256 of the public key's DER form."
    signer: str = ""
    "Whom a certificate names."
    identity: str = ""
    "The image name that was signed."
    time: AwareDatetime | None = None
    "When it was signed: a log's word where there is one, else the signer's."

    @property
    def verified(self) -> bool:
        return self.method != "none"


def parse_verdict(text: str) -> Verdict | None:
    """Read the verdict a commit holds; None if it holds none that is known here."""
    try:
        return Verdict.model_validate_json(text)
    except ValidationError:
        return None


class TrustPolicy(BaseModel):
    """What the policy says of the tracked image now, before anything is fetched."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    scope: str = ""
    verifies: bool = False
    "No image passes this scope without a signature."
    problem: str = ""
    "Why no image passes at all, such as a malformed policy."
