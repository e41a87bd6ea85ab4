"""The host's own files about registries, followed by the whole service."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.support.faultproxy import Fault, FaultProxy
from tests.support.host import REPOSITORY_NAME, Host

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

IMAGE = f"os.example.com/{REPOSITORY_NAME}:stable"

MIRRORS = """
[[registry]]
prefix = "os.example.com"
location = "{registry}"
insecure = true

[[registry.mirror]]
location = "{mirror}"
insecure = true
"""


async def test_image_from_mirrors_keeps_its_own_name(stack: AsyncExitStack, host: Host) -> None:
    mirror = await stack.enter_async_context(FaultProxy(host.registry.url))
    registry = await stack.enter_async_context(FaultProxy(host.registry.url))
    conf = host.machine.path("/etc/containers/registries.conf")
    conf.parent.mkdir(parents=True, exist_ok=True)

    # Refused at once, before there is a job: nobody may be asked.
    jobs = len(await host.history())
    conf.write_text('[[registry]]\nlocation = "os.example.com"\nblocked = true\n')
    refused = await host.ctl("switch", IMAGE, check=False)
    assert refused.returncode == 4
    assert "blocks" in refused.stderr
    conf.write_text("[[registry")
    refused = await host.ctl("switch", IMAGE, check=False)
    assert "/etc/containers/registries.conf" in refused.stderr
    assert len(await host.history()) == jobs

    # The mirror has what the name stands for, and fails in the middle of a layer for good.
    conf.write_text(MIRRORS.format(registry=registry.host, mirror=mirror.host))
    await host.publish("v2")
    layer = sorted(host.layers("v2") - host.layers("v1"))[0]
    mirror.inject(Fault(cut_after=1000), Fault(status=404), path=layer)
    await host.ctl("switch", IMAGE)
    staged = (await host.status())["staged"]["image"]
    assert staged["image"]["image"] == IMAGE
    assert staged["imageDigest"] == host.images.digest("v2")
    assert mirror.seen("/manifests/")
    assert not registry.seen("/manifests/")
    (rest, *_) = registry.seen(layer)
    assert rest.headers["Range"].startswith("bytes=")
    assert f"going on with {registry.host}" in _worker_logs(host)


def _worker_logs(host: Host) -> str:
    return "".join(log.read_text() for log in host.machine.path("/var/lib/bootcd/jobs").glob("*/log"))
