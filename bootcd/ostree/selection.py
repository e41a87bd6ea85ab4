"""Which deployment a person means: by role, by the number `ostree admin status` shows, or by id.

A number is only good until the next change, so whoever chooses keeps the deployment's id.
"""

from __future__ import annotations

import re
from typing import Any

from bootcd.model.errors import InvalidArguments, NoSuchDeployment
from bootcd.ostree.view import SysrootView, deployment_id

ROLES = ("booted", "staged", "rollback")
_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}\.\d{1,4}", re.ASCII)
_HINT = "see what there is: bootcctl status, ostree admin status"


def find_deployment(sysroot: SysrootView, name: str) -> Any:
    """Return the deployment a name means.

    Raises:
        InvalidArguments: it is no such name.
        NoSuchDeployment: there is none.
        NotBootcSystem: a role was named, and the system was not booted from a deployment.
    """
    if name in ROLES:
        booted = sysroot.require_booted()
        roles = {"booted": booted, "staged": sysroot.staged, "rollback": sysroot.rollback_target()}
        found = [roles[name]] if roles[name] is not None else []
    elif _NUMBER.fullmatch(name):
        found = sysroot.deployments[int(name) :][:1]
    elif _ID.fullmatch(name):
        found = [d for d in sysroot.deployments if deployment_id(d) == name]
    else:
        raise InvalidArguments(
            f"{name[:80]!r} names no deployment", hint=f"name it by {', '.join(ROLES)}, number or id"
        )
    if not found:
        what = f"{name} deployment" if name in ROLES else f"deployment {name}"
        raise NoSuchDeployment(f"there is no {what} on this host", hint=_HINT, deployment=name)
    return found[0]
