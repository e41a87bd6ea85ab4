"""What is on the host, in the shape `bootc status --format-version=1` prints.

The document is `org.containers.bootc/v1` `BootcHost`. Its JSON form is RFC 8785 (sorted keys, no
spaces, UTF-8 unescaped, no newline at the end), with unset optional fields present as null,
except `otherDeployments`, `annotations`, `labels`, `namespace` and `signature`, which are left out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Document(BaseModel):
    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class OstreeRemote(_Document):
    ostree_remote: str


class ImageReferenceStatus(_Document):
    image: str
    transport: str
    signature: OstreeRemote | Literal["containerPolicy", "insecure"] | None = None


class ImageStatus(_Document):
    image: ImageReferenceStatus
    version: str | None = None
    timestamp: str | None = None
    image_digest: str
    architecture: str

    @property
    def created(self) -> datetime | None:
        """When the image was made, None if it does not say so."""
        try:
            made = datetime.fromisoformat(self.timestamp or "")
        except ValueError:
            return None
        return made if made.tzinfo else made.replace(tzinfo=UTC)


class OstreeStatus(_Document):
    stateroot: str
    checksum: str
    deploy_serial: int


class UsrOverlay(_Document):
    access_mode: Literal["readOnly", "readWrite"]
    persistence: Literal["transient", "persistent"]


class BootEntry(_Document):
    """One deployment."""

    image: ImageStatus | None = None
    cached_update: ImageStatus | None = None
    incompatible: bool = False
    pinned: bool = False
    soft_reboot_capable: bool = False
    download_only: bool = False
    store: Literal["ostreeContainer"] | None = "ostreeContainer"
    ostree: OstreeStatus | None = None
    composefs: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """`<checksum>.<serial>`, or a composefs image's digest; unique on the host, stable for its life."""
        if self.ostree is None:
            return str((self.composefs or {}).get("verity", ""))
        return f"{self.ostree.checksum}.{self.ostree.deploy_serial}"


class HostSpec(_Document):
    image: ImageReferenceStatus | None = None
    boot_order: Literal["default", "rollback"] = "default"


class HostState(_Document):
    staged: BootEntry | None = None
    booted: BootEntry | None = None
    rollback: BootEntry | None = None
    other_deployments: tuple[BootEntry, ...] = ()
    rollback_queued: bool = False
    type: Literal["bootcHost"] | None = None
    usr_overlay: UsrOverlay | None = None
    read_only: bool = False

    @property
    def deployments(self) -> tuple[BootEntry, ...]:
        """All of them: staged, booted, rollback, then the others in boot order."""
        roles = (self.staged, self.booted, self.rollback)
        return tuple(entry for entry in roles if entry) + self.other_deployments


class Metadata(_Document):
    name: str = "host"
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    namespace: str | None = None


class Host(_Document):
    api_version: Literal["org.containers.bootc/v1"] = "org.containers.bootc/v1"
    kind: Literal["BootcHost"] = "BootcHost"
    metadata: Metadata = Metadata()
    spec: HostSpec = HostSpec()
    status: HostState = Field(default=HostState())

    def to_json(self) -> str:
        """Return the canonical form, byte for byte what `bootc status --json` prints."""
        document = self.model_dump(mode="json", by_alias=True)
        _drop_absent(document)
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


_OMITTED_WHEN_EMPTY = ("otherDeployments", "signature", "annotations", "labels", "namespace")


def _drop_absent(node: Any) -> None:
    if isinstance(node, dict):
        for key in _OMITTED_WHEN_EMPTY:
            if key in node and not node[key]:
                del node[key]
        for value in node.values():
            _drop_absent(value)
    elif isinstance(node, list):
        for value in node:
            _drop_absent(value)
