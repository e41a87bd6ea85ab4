"""A booted host that lets in what its signature policy wants, and changes nothing for anything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bootcd.model.job import JobKind, JobRequest, JobState, Outcome, WorkerSettings
from bootcd.model.report import HostReport
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.host import PYTHON, run_worker, worker_command
from tests.support.machine import Machine
from tests.support.oci_image import Image, directory, file, make_image, make_layer, symlink
from tests.support.registry import Registry
from tests.support.signing import attach, new_key, payload, public_pem, simple

pytestmark = [pytest.mark.machine, pytest.mark.timeout(180)]

KEY, OTHER = new_key(), new_key()
ACCEPT = [{"type": "insecureAcceptAnything"}]


def version(number: int) -> Image:
    system = [
        directory("etc"),
        file("usr/lib/os-release", b"ID=test\n"),
        file("usr/lib/modules/6.1/vmlinuz", b"kernel"),
        file("usr/lib/modules/6.1/initramfs.img", b"initramfs"),
        *(directory(name) for name in ("boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var")),
        *(symlink(name, f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")),
        symlink("ostree", "sysroot/ostree"),
    ]
    return make_image([make_layer(system), make_layer([file("usr/lib/version", str(number).encode())])])


@dataclass
class Site:
    machine: Machine
    registry: Registry
    proxy: FaultProxy

    @property
    def image(self) -> str:
        return f"{self.proxy.host}/os:1"

    def policy(self, rules: Any) -> None:
        containers = self.machine.path("/etc/containers")
        (containers / "registries.d").mkdir(parents=True, exist_ok=True)
        (containers / "key.pub").write_bytes(public_pem(KEY))
        (containers / "registries.d/site.yaml").write_text("default-docker: {use-sigstore-attachments: true}")
        document = {"default": [{"type": "reject"}], "transports": {"docker": {self.proxy.host: rules}}}
        text = rules if isinstance(rules, str) else json.dumps(document)
        (containers / "policy.json").write_text(text)

    async def sign(self, image: Image, key: Any = KEY, name: str = "os:1") -> None:
        await attach(
            self.registry, "os", image.digest, simple(payload(image.digest, f"{self.proxy.host}/{name}"), key)
        )

    async def run(self, kind: JobKind, *, retries: int = 0, **options: Any) -> Outcome:
        """Run a worker on the host, as the daemon does."""
        settings = WorkerSettings(insecure_registries=frozenset({self.proxy.host}), retries=retries)
        request = JobRequest(uuid=str(uuid4()), kind=kind, settings=settings, **options)
        inside = Path("/run/jobs") / request.uuid
        job = self.machine.path(str(inside))
        job.mkdir(parents=True)
        (job / "request.json").write_text(request.model_dump_json())
        process = await self.machine.popen(worker_command(inside), stderr=asyncio.subprocess.DEVNULL)
        await process.wait()
        return Outcome.model_validate_json((job / "outcome.json").read_bytes())

    async def report(self) -> HostReport:
        done = await self.machine.run([str(PYTHON), "-m", "bootcd.worker", "inspect"])
        return HostReport.model_validate_json(done.stdout)

    def state(self) -> dict[str, bytes]:
        """Return what a job that is refused must not change: refs, deployments, what boots next."""
        roots = [self.machine.repo / "refs", self.machine.sysroot / "boot/loader/entries"]
        found = {str(path): path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}
        staged = self.machine.path("/run/ostree/staged-deployment")
        return found | {"staged": staged.read_bytes() if staged.exists() else b""}

    def asked_for(self, digest: str) -> bool:
        return any(digest in seen.path for seen in self.proxy.requests)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as opened:
        (tmp_path / "registry").mkdir()
        registry = await opened.enter_async_context(Registry(tmp_path / "registry"))
        proxy = await opened.enter_async_context(FaultProxy(registry.url))
        machine = await Machine.create(tmp_path / "machine", binds=[PYTHON.parent.parent])
        await opened.enter_async_context(machine)
        site = Site(machine, registry, proxy)
        await registry.push("os", "1", version(1))
        first = await run_worker(
            tmp_path, JobKind.SWITCH, image=site.image, sysroot=machine.sysroot, registry=proxy.host
        )
        assert first.error is None
        await machine.boot()
        yield site


async def test_upgrade_takes_what_is_signed_and_refuses_the_rest_untouched(site: Site) -> None:
    rules = [{"type": "sigstoreSigned", "keyPath": "/etc/containers/key.pub"}]
    site.policy(rules)
    second = version(2)
    await site.registry.push("os", "1", second)
    before = site.state()

    async def refused(name: str, **fields: str) -> None:
        outcome = await site.run(JobKind.UPGRADE)
        assert outcome.error is not None
        assert outcome.error.name == name, outcome.error
        assert fields.items() <= outcome.error.fields.items()
        assert not outcome.changed
        assert site.state() == before

    denied = {"scope": f"docker {site.proxy.host}", "requirement": "sigstoreSigned"}
    await refused("SignatureRejected", **denied)
    await site.sign(second, OTHER)
    await refused("SignatureRejected", **denied)
    await site.sign(second, name="elsewhere:1")
    await refused("SignatureRejected", **denied)
    await site.sign(second)
    site.policy('{"default": [{"type": "reject"}], "extra": 1}')
    await refused("InvalidConfig", path="/etc/containers/policy.json")
    site.policy(rules)
    assert not site.asked_for(second.layers[1].digest)

    blob = site.registry.blob_path(second.layers[1].digest)
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    await refused("DigestMismatch")
    blob.write_bytes(good)

    assert (await site.report()).trust.model_dump() == {
        "scope": f"docker {site.proxy.host}",
        "verifies": True,
        "problem": "",
    }
    checked = await site.run(JobKind.CHECK)
    assert checked.update is not None
    assert checked.update.trust is not None
    assert checked.update.trust.verified
    done = await site.run(JobKind.UPGRADE, verified_only=True)
    assert (done.state, done.changed) == (JobState.DONE, True), done
    report = await site.report()
    staged, booted = report.host.status.staged, report.host.status.booted
    assert staged is not None
    assert booted is not None
    kept = report.deployments[staged.id].trust
    assert kept is not None
    assert (kept.method, kept.identity) == ("key", site.image)
    unsigned = report.deployments[booted.id].trust
    assert unsigned is not None
    assert not unsigned.verified

    # What was signed once says nothing about what comes next.
    await site.registry.push("os", "1", version(3))
    before = site.state()
    await refused("SignatureRejected", **denied)


async def test_caller_allowed_verified_upgrades_only_gets_no_other(site: Site) -> None:
    site.policy(ACCEPT)
    await site.registry.push("os", "1", version(2))
    before = site.state()
    outcome = await site.run(JobKind.UPGRADE, verified_only=True)
    assert outcome.error is not None
    assert outcome.error.name == "AccessDenied"
    assert site.state() == before
    assert not (await site.report()).trust.verifies
    assert (await site.run(JobKind.UPGRADE)).changed


async def test_policy_that_turns_to_accept_anything_during_an_upgrade_gives_its_caller_no_more(
    site: Site,
) -> None:
    site.policy([{"type": "sigstoreSigned", "keyPath": "/etc/containers/key.pub"}])
    second = version(2)
    await site.registry.push("os", "1", second)
    before = site.state()
    # The first question comes after the policy was asked; it is answered once the policy is another one.
    site.proxy.forget()
    site.proxy.inject(Fault(silent=True), path="/manifests/")
    upgrade = asyncio.create_task(site.run(JobKind.UPGRADE, verified_only=True, retries=2))
    await site.proxy.wait_for("/manifests/")
    site.policy(ACCEPT)
    site.proxy.release()
    outcome = await upgrade
    assert outcome.error is not None
    assert (outcome.error.name, outcome.changed) == ("AccessDenied", False)
    assert site.state() == before
    assert not site.asked_for(second.layers[1].digest)
    assert (await site.run(JobKind.UPGRADE)).changed


async def test_enforced_signature_stays_with_the_host(site: Site) -> None:
    second, third = version(2), version(3)
    site.policy(ACCEPT)
    await site.registry.push("os", "1", second)
    await site.sign(second)
    enforced = {"image": site.image, "enforce_container_sigpolicy": True}
    refused = await site.run(JobKind.SWITCH, **enforced)
    assert refused.error is not None
    assert refused.error.fields["requirement"] == "insecureAcceptAnything"

    signed = [{"type": "sigstoreSigned", "keyPath": "/etc/containers/key.pub"}]
    site.policy(signed)
    assert (await site.run(JobKind.SWITCH, **enforced)).changed
    staged = (await site.report()).host.status.staged
    assert staged is not None
    assert staged.image is not None
    assert staged.image.image.signature == "containerPolicy"

    site.policy(ACCEPT)
    await site.registry.push("os", "1", third)
    refused = await site.run(JobKind.UPGRADE)
    assert refused.error is not None
    assert "accepts anything" in refused.error.message
    site.policy(signed)
    await site.sign(third)
    assert (await site.run(JobKind.UPGRADE)).changed
    staged = (await site.report()).host.status.staged
    assert staged is not None
    assert staged.image is not None
    assert staged.image.image.signature == "containerPolicy"
    assert staged.image.image_digest == third.digest
