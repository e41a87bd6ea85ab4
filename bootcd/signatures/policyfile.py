"""The host's signature policy, from the places podman, skopeo and bootc read it."""

from __future__ import annotations

from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig
from bootcd.oci.trust.policy import MAX_POLICY_BYTES, Policy, parse_policy

POLICY_FILES = ("etc/containers/policy.json", "usr/share/containers/policy.json")
"Below the root; the first that exists is the policy, as for podman run by the system."


def load_policy(root: Path) -> Policy:
    """Read the host's signature policy. Blocks.

    Raises InvalidConfig if it is malformed, cannot be read, or is not there: a host whose policy was lost
    must not take that for consent.
    """
    for name in POLICY_FILES:
        shown = f"/{name}"
        try:
            data = read_bounded(root / name, MAX_POLICY_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidConfig(
                f"the signature policy {shown} cannot be read: {error.strerror}", path=shown
            ) from error
        return parse_policy(data, shown)
    shown = f"/{POLICY_FILES[0]}"
    raise InvalidConfig(
        f"there is no signature policy {shown}, so no image may be let in",
        hint='install containers-common, or write {"default": [{"type": "insecureAcceptAnything"}]} '
        "into it to take images without signatures",
        path=shown,
    )
