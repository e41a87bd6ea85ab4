"""The status document, byte for byte, and its schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeRemote,
    OstreeStatus,
    UsrOverlay,
)
from tests.support.json_schema import violations

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/host-v1.schema.json").read_text())

DIGEST = "sha256:" + "0a" * 32
COMMIT = "b1" * 32

NOT_BOOTED = (
    '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","metadata":{"name":"host"},'
    '"spec":{"bootOrder":"default","image":null},"status":{"booted":null,"readOnly":false,'
    '"rollback":null,"rollbackQueued":false,"staged":null,"type":null,"usrOverlay":null}}'
)


def reference(**changes: Any) -> ImageReferenceStatus:
    return ImageReferenceStatus(**{"image": "quay.io/example/ös:1", "transport": "registry"} | changes)


def entry(image: ImageStatus | None = None, **changes: Any) -> BootEntry:
    ostree = OstreeStatus(stateroot="default", checksum=COMMIT, deploy_serial=3)
    return BootEntry(image=image, ostree=ostree, **changes)


def image(**changes: Any) -> ImageStatus:
    fields = {"image": reference(), "image_digest": DIGEST, "architecture": "amd64"}
    return ImageStatus(**fields | changes)


FULL = Host(
    spec=HostSpec(image=reference(), boot_order="rollback"),
    status=HostState(
        staged=entry(image(version="2 „neu“", timestamp="2026-01-02T03:04:05.600Z"), download_only=True),
        booted=entry(image(image=reference(signature=OstreeRemote(ostree_remote="fedora")))),
        rollback=entry(incompatible=True, pinned=True),
        other_deployments=(entry(), entry(soft_reboot_capable=True, cached_update=image())),
        rollback_queued=True,
        type="bootcHost",
        usr_overlay=UsrOverlay(access_mode="readWrite", persistence="transient"),
        read_only=True,
    ),
)


def test_document_of_a_host_that_is_not_booted_is_what_bootc_prints() -> None:
    assert Host().to_json() == NOT_BOOTED


def test_document_of_an_entry_has_every_key_in_canonical_order() -> None:
    status = image(
        image=reference(signature=OstreeRemote(ostree_remote="fedora")),
        version="2 „neu“",
        timestamp="2026-01-02T03:04:05.600Z",
    )
    host = Host(spec=HostSpec(image=status.image), status=HostState(booted=entry(status), type="bootcHost"))

    assert host.to_json() == (
        '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","metadata":{"name":"host"},'
        '"spec":{"bootOrder":"default","image":{"image":"quay.io/example/ös:1",'
        '"signature":{"ostreeRemote":"fedora"},"transport":"registry"}},'
        '"status":{"booted":{"cachedUpdate":null,"composefs":null,"downloadOnly":false,'
        '"image":{"architecture":"amd64","image":{"image":"quay.io/example/ös:1",'
        '"signature":{"ostreeRemote":"fedora"},"transport":"registry"},'
        f'"imageDigest":"{DIGEST}","timestamp":"2026-01-02T03:04:05.600Z","version":"2 „neu“"}},'
        '"incompatible":false,'
        f'"ostree":{{"checksum":"{COMMIT}","deploySerial":3,"stateroot":"default"}},'
        '"pinned":false,"softRebootCapable":false,"store":"ostreeContainer"},'
        '"readOnly":false,"rollback":null,"rollbackQueued":false,"staged":null,"type":"bootcHost",'
        '"usrOverlay":null}}'
    )


def test_document_of_an_unsigned_image_has_no_signature_and_nulls_for_what_is_unknown() -> None:
    document = json.loads(Host(status=HostState(booted=entry(image()))).to_json())

    assert document["status"]["booted"]["image"] == {
        "architecture": "amd64",
        "image": {"image": "quay.io/example/ös:1", "transport": "registry"},
        "imageDigest": DIGEST,
        "timestamp": None,
        "version": None,
    }


@pytest.mark.parametrize("policy", ["containerPolicy", "insecure"])
def test_document_of_a_signature_by_policy_is_its_name(policy: str) -> None:
    document = json.loads(Host(spec=HostSpec(image=reference(signature=policy))).to_json())

    assert document["spec"]["image"]["signature"] == policy


def test_document_lists_other_deployments_only_if_there_are_any() -> None:
    assert "otherDeployments" not in json.loads(Host().to_json())["status"]
    assert len(json.loads(FULL.to_json())["status"]["otherDeployments"]) == 2


@pytest.mark.parametrize("host", [Host(), FULL], ids=["empty", "full"])
def test_document_is_valid_by_the_schema_and_read_back_the_same(host: Host) -> None:
    text = host.to_json()

    assert violations(json.loads(text), SCHEMA) == []
    assert Host.model_validate_json(text) == host
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_document_has_every_property_of_the_schema() -> None:
    """A property the model lacks would be missing in every document and never be noticed."""
    document = json.loads(FULL.to_json())
    status, entries = document["status"], SCHEMA["$defs"]["BootEntry"]["properties"]

    assert status.keys() == SCHEMA["$defs"]["HostStatus"]["properties"].keys()
    assert document["spec"].keys() == SCHEMA["$defs"]["HostSpec"]["properties"].keys()
    for found in (status["booted"], status["staged"], status["rollback"], *status["otherDeployments"]):
        assert found.keys() == entries.keys()
    assert status["staged"]["image"].keys() == SCHEMA["$defs"]["ImageStatus"]["properties"].keys()
    assert status["booted"]["ostree"].keys() == SCHEMA["$defs"]["BootEntryOstree"]["properties"].keys()


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FULL.to_json())
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda d: d.pop("kind"), id="kind missing"),
        pytest.param(lambda d: d.update(more=1), id="unknown member"),
        pytest.param(lambda d: d["spec"].update(bootOrder="other"), id="boot order"),
        pytest.param(lambda d: d["status"].update(rollbackQueued=None), id="null flag"),
        pytest.param(lambda d: d["status"]["booted"].pop("pinned"), id="pinned missing"),
        pytest.param(lambda d: d["status"]["booted"]["ostree"].update(checksum="x"), id="checksum"),
        pytest.param(lambda d: d["status"]["booted"]["ostree"].update(deploySerial=True), id="serial"),
        pytest.param(lambda d: d["status"]["staged"]["image"].update(timestamp="2026-01-02"), id="time"),
        pytest.param(lambda d: d["spec"]["image"].update(signature={"remote": "x"}), id="signature"),
        pytest.param(lambda d: d["status"]["otherDeployments"].append({}), id="empty entry"),
    ],
)
def test_schema_refuses_what_is_no_host(change: Callable[[dict[str, Any]], None]) -> None:
    assert violations(broken(change), SCHEMA) != []


def test_document_of_bootc_with_metadata_is_understood() -> None:
    text = NOT_BOOTED.replace('"name":"host"', '"labels":{"a":"b"},"name":"host","namespace":"x"')

    assert Host.model_validate_json(text).to_json() == text


def test_deployments_are_in_order_of_their_roles() -> None:
    status = FULL.status

    assert status.deployments == (status.staged, status.booted, status.rollback, *status.other_deployments)
    assert status.deployments[0].id == f"{COMMIT}.3"
    assert HostState().deployments == ()
