"""What a look at the host finds: the document bootc prints, and what that document has no place for.

`bootcd-worker inspect` prints it as one line of JSON, keys sorted; `host` in it is the canonical form of
the document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from bootcd.model.host import Host
from bootcd.model.trust import TrustPolicy, Verdict


class DeploymentDetails(BaseModel):
    """What is known of one deployment beside its `BootEntry`."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    kernel_arguments: tuple[str, ...] = ()
    "In the order of its boot entry, without `ostree=`, which libostree sets."
    trust: Verdict | None = None
    "Why its image was let in; None if another program did that."


class HostReport(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    host: Host = Host()
    deployments: Mapping[str, DeploymentDetails] = {}
    "By id, see `BootEntry.id`."
    trust: TrustPolicy = TrustPolicy()
    "What the signature policy says of the image the host tracks."

    def to_json(self) -> str:
        details = {id: item.model_dump(mode="json") for id, item in self.deployments.items()}
        text = json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        trust = json.dumps(self.trust.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f'{{"deployments":{text},"host":{self.host.to_json()},"trust":{trust}}}'
