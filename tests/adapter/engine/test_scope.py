"""What a host's policy is said to let in, by how the host follows its image."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.engine.scope import tracked_policy
from bootcd.engine.trust import Trust
from bootcd.host.clock import SystemClock
from bootcd.model.errors import AccessDenied
from bootcd.model.job import WorkerSettings
from bootcd.ostreefmt.origin import parse_tracked_image

ANYTHING = '{"default": [{"type": "insecureAcceptAnything"}]}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (policy := tmp_path / "etc/containers/policy.json").parent.mkdir(parents=True)
    policy.write_text(ANYTHING)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "verifies"),
    [
        ("ostree-remote-image:vendor:docker://q.example/os:1", True),
        ("ostree-remote-registry:vendor:q.example/os:1", True),
        ("ostree-unverified-registry:q.example/os:1", False),
    ],
)
def test_nothing_unsigned_comes_in_where_an_ostree_remote_has_to_sign(
    root: Path, reference: str, verifies: bool
) -> None:
    tracked = parse_tracked_image(reference)
    assert tracked_policy(root, tracked).verifies is verifies
    trust = Trust(WorkerSettings(containers_root=str(root)), SystemClock())
    if verifies:
        trust.require_possible(tracked, verified_only=True)
    else:
        with pytest.raises(AccessDenied, match="unsigned"):
            trust.require_possible(tracked, verified_only=True)
