"""containers-policy.json(5), as far as telling whether an image may come unsigned.

Until signatures can be verified, an image the host's policy wants signed has to be refused: this module
finds out which those are.
"""

from __future__ import annotations

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import ImageReference
from bootcd.oci.strictjson import parse_object


def accepts_unsigned(policy: bytes, reference: ImageReference) -> bool:
    """Whether the policy takes the image from its registry without a signature.

    The requirements of the most specific scope count: the reference itself, its repository, each
    namespace above it, its registry, `*.domain` wildcards, then the transport's default, then the default.

    Raises:
        InvalidConfig: the policy is malformed; nothing may be accepted then.
    """
    scopes = _requirements(policy, "docker")
    kinds = scopes[next(scope for scope in _scopes(reference) if scope in scopes)]
    return bool(kinds) and all(kind == "insecureAcceptAnything" for kind in kinds)


def accepts_all_unsigned(policy: bytes, transport: str) -> bool:
    """Whether the policy takes whatever comes by a transport other than the registry without a signature.

    Not by scope: one that wants signatures keeps every image of the transport out.

    Raises:
        InvalidConfig: as above.
    """
    scopes = dict(_requirements(policy, transport))
    default = scopes.pop(None)
    wanted = [*scopes.values(), *([] if "" in scopes else [default])]
    return all(kinds and all(kind == "insecureAcceptAnything" for kind in kinds) for kinds in wanted)


def _requirements(policy: bytes, transport: str) -> dict[str | None, list[str]]:
    """Return the kinds of requirement of each scope of a transport; None is the policy's default."""
    try:
        document = parse_object(policy, what="the policy", limit_bytes=len(policy), error=InvalidConfig)
        # A member of a wrong name may have been meant to forbid.
        if not document.keys() <= {"default", "transports"}:
            raise InvalidConfig("the policy has a member nobody knows")
        scopes = {None: document["default"], **document.get("transports", {}).get(transport, {})}
        if not all(isinstance(requirements, list) for requirements in scopes.values()):
            raise InvalidConfig("the policy has a scope without a list of requirements")
        return {scope: [one["type"] for one in requirements] for scope, requirements in scopes.items()}
    except (InvalidConfig, KeyError, TypeError, AttributeError) as error:
        raise InvalidConfig(
            "the signature policy /etc/containers/policy.json is malformed",
            hint="see containers-policy.json(5)",
            path="/etc/containers/policy.json",
        ) from error


def _scopes(reference: ImageReference) -> list[str | None]:
    """Return the scopes an image is in, the most specific first; None is the policy's default."""
    name = reference.name
    # With a digest the tag means nothing, so no scope can be about it.
    scopes: list[str | None] = [str(reference.canonical), name]
    while "/" in name:
        name = name.rpartition("/")[0]
        scopes.append(name)
    host = reference.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        scopes.append(f"*.{host}")
    return [*scopes, "", None]
