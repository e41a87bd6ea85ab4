"""The report of a look at the host."""

from __future__ import annotations

from datetime import UTC, datetime

from bootcd.model.host import Host, HostState
from bootcd.model.report import DeploymentDetails, HostReport
from bootcd.model.trust import TrustPolicy, Verdict, parse_verdict


def test_report_holds_the_document_byte_for_byte() -> None:
    host = Host(status=HostState(read_only=True))
    report = HostReport(host=host, deployments={"b.0": DeploymentDetails(), "a.0": DeploymentDetails()})
    text = report.to_json()
    assert f'"host":{host.to_json()},"trust":' in text
    assert text.index('"a.0"') < text.index('"b.0"')


def test_report_is_read_back_as_it_was() -> None:
    verdict = Verdict(scope="docker quay.io", method="gpg", key="AB", time=datetime(2026, 1, 2, tzinfo=UTC))
    details = DeploymentDetails(kernel_arguments=("quiet", 'dyndbg="file a.c +p"', "ü=1"), trust=verdict)
    trust = TrustPolicy(scope="default", verifies=True)
    report = HostReport(host=Host(), deployments={"a.0": details}, trust=trust)
    assert HostReport.model_validate_json(report.to_json()) == report


def test_verdict_of_a_commit_that_is_none_known_here_is_none() -> None:
    verdict = Verdict(scope="default")
    assert parse_verdict(verdict.model_dump_json()) == verdict
    for text in ("", "null", "{}", '{"scope": "x", "more": 1}', '{"scope": "x", "method": "magic"}'):
        assert parse_verdict(text) is None
