"""What a client can ask of the service on this host, so that it shows nothing that cannot work. No I/O.

A kind of job is a feature by its name, and so is an option that not every host can fulfil.
"""

from __future__ import annotations

from bootcd.model.host import HostState
from bootcd.model.job import JobKind
from bootcd.update.machine import State

BOOTC_KINDS = (JobKind.CHECK, JobKind.UPGRADE, JobKind.SWITCH, JobKind.ROLLBACK, JobKind.APPLY)
"What can be done where the bootc command drives the host."
_ALWAYS = ("expect-generation", "inhibit", "job-uuid", "notes", "pause", "schedule-apply")
_OSTREE = ("allow-downgrade", "config-diff", "diff", "expect-digest", "signatures")


def features(backend: str) -> tuple[str, ...]:
    """Return what works on a host that is driven so, in the order of the alphabet."""
    if backend == "bootc":
        return tuple(sorted((*BOOTC_KINDS, *_ALWAYS)))
    return tuple(sorted((*JobKind, *_ALWAYS, *_OSTREE)))


def read_only_reason(state: str, status: HostState) -> str:
    """Say why nothing that is deployed can be changed; empty if it can, or nobody knows yet."""
    if state == State.UNMANAGED:
        return "the host was not booted from an image deployment"
    if status.read_only:
        return "the host's storage is read-only"
    return ""
