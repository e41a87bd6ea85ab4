"""The report of a look at the host."""

from __future__ import annotations

from bootcd.model.host import Host, HostState
from bootcd.model.report import DeploymentDetails, HostReport


def test_report_holds_the_document_byte_for_byte() -> None:
    host = Host(status=HostState(read_only=True))
    report = HostReport(host=host, deployments={"b.0": DeploymentDetails(), "a.0": DeploymentDetails()})
    text = report.to_json()
    assert text.endswith(f'"host":{host.to_json()}}}')
    assert text.index('"a.0"') < text.index('"b.0"')


def test_report_is_read_back_as_it_was() -> None:
    details = DeploymentDetails(kernel_arguments=("quiet", 'dyndbg="file a.c +p"', "ü=1"))
    report = HostReport(host=Host(), deployments={"a.0": details})
    assert HostReport.model_validate_json(report.to_json()) == report
