import pytest

from bootcd.bootc.command import Bootc
from bootcd.engine.bootc import BootcEngine
from bootcd.model.host import HostState
from bootcd.model.job import JobKind
from bootcd.update.features import features, read_only_reason


def test_features_of_a_host_bootc_drives_are_the_jobs_it_can_do() -> None:
    able = {kind.value for kind in BootcEngine(Bootc())._verbs}
    assert {*features("bootc")} & {*JobKind} == able
    assert not {"allow-downgrade", "expect-digest", "signatures", "diff"} & {*features("bootc")}


def test_features_of_other_hosts_are_every_job_and_in_order() -> None:
    found = features("ostree")
    assert {*JobKind} <= {*found}
    assert list(found) == sorted({*found})
    assert {*features("bootc")} < {*found}


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        ("idle", HostState(), ""),
        ("idle", HostState(read_only=True), "the host's storage is read-only"),
        ("unknown", HostState(), ""),
        ("unmanaged", HostState(), "the host was not booted from an image deployment"),
    ],
    ids=["writable", "read-only", "unknown", "unmanaged"],
)
def test_read_only_reason_says_why_nothing_can_be_changed(state: str, status: HostState, reason: str) -> None:
    assert read_only_reason(state, status) == reason
