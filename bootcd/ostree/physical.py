"""SELinux labels of what lies beside the deployments: the physical root, /boot, ostree's own directories.

The files of a deployment get their labels on import, its /etc and /var from libostree when it is deployed.
All that is left of a new file system has none. `bootc install` labels the same.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from bootcd.ostree.libostree import host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostree.sepolicy import Policy, read_policy_of

LABEL = "security.selinux"
_OBJECTS = "ostree/repo/objects"
_OF_OTHERS = re.compile(rf"{_OBJECTS}/.*|ostree/deploy/[^/]+/(?:var|deploy/[^/]+\.[0-9]+)")
"Labels of objects are part of what their checksums are of."


def label_physical_root(commit: str, root: Path, deployment: Path, added: Sequence[str]) -> bool:
    """Label a new system root by the policy of what is deployed in it; False if it has none. Blocks.

    Args:
        added: paths in the deployment of what came there after it was made.
    Raises BackendFailed, and NotBootable for a policy that cannot be loaded.
    """
    policy = read_policy_of(Repository.open(root / "ostree/repo"), commit)
    if policy is None:
        return False
    with host_errors("label the system root", path=str(root)):
        for path, name in _beside_deployments(root):
            _label(policy, path, name)
        for name in added:
            if os.path.lexists(deployment / name):
                _label(policy, deployment / name, name)
    return True


def _beside_deployments(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield paths, and what the policy knows them by."""
    yield root, ""
    pending = [root]
    while pending:
        for entry in os.scandir(pending.pop()):
            path = Path(entry.path)
            name = str(path.relative_to(root))
            # What is mounted below may have no attributes, as the EFI system partition.
            if _OF_OTHERS.fullmatch(name) or (name != "boot" and os.path.ismount(path)):
                continue
            yield path, name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)


def _label(policy: Policy, path: Path, name: str) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        return  # a kernel in /boot that is an object by another name
    label = policy.label(name, stat.S_IFMT(status.st_mode))
    if label is not None:
        os.setxattr(path, LABEL, label, follow_symlinks=False)
