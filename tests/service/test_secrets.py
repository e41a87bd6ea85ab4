"""A registry's credential: used for what it is for, and found nowhere else, right or wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from dbus_fast import Message

from tests.support.bus_raw import RawClient
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.host import PERSON, REPOSITORY_NAME, Host
from tests.support.registry import PASSWORD, USER, Registry

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

WRONG = "battery staple"
AUTH_FILE = "/run/ostree/auth.json"


def forms(password: str) -> list[bytes]:
    """What a password could be recognised by."""
    return [password.encode(), login(password).encode(), password.replace(" ", "%20").encode()]


def login(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


SECRETS = forms(PASSWORD) + forms(WRONG)


class Watch:
    """Looks at the command line and environment of every process there is, as fast as it can."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.workers: set[str] = set()
        self.core_limits: dict[str, str] = {}
        "Of core dumps, by worker, as seen last."
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.to_thread(self._look_once)
            await asyncio.sleep(0.02)  # not more of the processor than a worker takes

    def _look_once(self) -> None:
        for directory in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    data = (directory / name).read_bytes()
                except OSError:
                    continue
                if b"bootcd.worker" in data and b"\0run\0" in data:
                    self.workers.add(directory.name)
                    self.core_limits[directory.name] = _core_limit(directory)
                if holds_secret(data):
                    self.found.add(f"{directory.name}/{name}")


def _core_limit(process: Path) -> str:
    try:
        lines = (process / "limits").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split()[5] for line in lines if line.startswith("Max core file size")), "")


def holds_secret(data: bytes) -> bool:
    return any(secret in data for secret in SECRETS)


def files_with_secret(directory: Path) -> list[str]:
    """Return the files below a directory that hold a secret, also in their name."""
    found = []
    for where, _, names in os.walk(directory):
        for name in names:
            path = Path(where, name)
            if path.is_symlink() or not path.is_file():
                continue
            if holds_secret(os.fsencode(name)) or holds_secret(path.read_bytes()):
                found.append(str(path.relative_to(directory)))
    return found


@pytest.fixture
async def private(stack: AsyncExitStack, host: Host, tmp_path: Path) -> FaultProxy:
    """A registry that wants a login, with what the host runs; the host may speak to it in the clear."""
    (tmp_path / "private").mkdir()
    registry = await stack.enter_async_context(Registry(tmp_path / "private", basic_auth=True))
    push = await asyncio.create_subprocess_exec(
        *("skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests"),
        *("--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}", f"oci:{host.images.layout}:v1"),
        f"docker://{registry.host}/{REPOSITORY_NAME}:stable",
    )
    assert await push.wait() == 0
    proxy = await stack.enter_async_context(FaultProxy(registry.url))
    host.machine.path("/run/bootcd-config/20-private.toml").write_text(
        f'[registry]\ninsecure = ["{host.front}", "{proxy.host}"]\n'
    )
    await host.ctl("reload")
    return proxy


VAULT = "/var/lib/vault"
HELPER = f"""\
#!/bin/sh
read -r registry
cat {VAULT}/answer
cat {VAULT}/answer >&2
exit $(cat {VAULT}/status)
"""


@pytest.fixture
def helper(unbooted: Host) -> None:
    """A credential helper in the image, which tells everybody what it knows."""
    path = unbooted.machine.directory / "shim/local/bin/docker-credential-vault"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HELPER)
    path.chmod(0o755)


@pytest.fixture
async def heard(host: Host) -> AsyncIterator[bytearray]:
    """Everything that goes over the bus."""
    assert host.bus is not None
    monitor = await RawClient.connect(host.bus.address, 0)
    serial = monitor.next_serial()
    become = Message(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus.Monitoring",
        "BecomeMonitor",
        signature="asu",
        body=[[], 0],
        serial=serial,
    )
    assert not (await monitor.call(bytes(become._marshall(False)), serial)).error_name
    yield monitor.heard
    await monitor.vanish()


async def test_credential_is_in_no_log_error_answer_file_or_process(
    helper: None, host: Host, private: FaultProxy, heard: bytearray
) -> None:
    image = f"{private.host}/{REPOSITORY_NAME}:stable"
    auth_file = host.machine.path(AUTH_FILE)
    auth_file.parent.mkdir(exist_ok=True)

    def log_in(password: str) -> None:
        auth_file.write_text(json.dumps({"auths": {private.host: {"auth": login(password)}}}))
        auth_file.chmod(0o600)

    watch = Watch()
    printed = ""
    try:
        log_in(WRONG)
        for echo in (
            "",
            f"no user {USER} with password {WRONG!r}",
            "x" * 190 + login(WRONG),
            f"got Authorization: Basic {login(WRONG)}",
        ):
            if echo:
                body = json.dumps({"errors": [{"code": "DENIED", "message": echo}]}).encode()
                private.inject(
                    Fault(),  # the challenge
                    Fault(status=401, body=body, headers={"WWW-Authenticate": 'Basic realm="x"'}),
                    method="GET",
                )
            done = await host.ctl("switch", image, check=False)
            assert done.returncode != 0
            printed += done.stdout + done.stderr
        log_in(PASSWORD)
        done = await host.ctl("switch", image)
        printed += done.stdout + done.stderr
        auth_file.write_text(json.dumps({"credHelpers": {private.host: "vault"}}))
        vault = host.machine.path(VAULT)
        vault.mkdir()
        for secret, status in ((WRONG, 1), (WRONG, 0), (PASSWORD, 0)):
            answer = {"ServerURL": private.host, "Username": USER, "Secret": secret}
            (vault / "answer").write_text(json.dumps(answer))
            (vault / "status").write_text(str(status))
            asked = len(private.requests)
            done = await host.ctl("check", check=False)
            assert (done.returncode == 77) == (secret == PASSWORD), done.stderr
            logins = {seen.headers.get("Authorization", "none") for seen in private.requests[asked:]}
            assert (f"Basic {login(secret)}" in logins) == (status == 0)
            printed += done.stdout + done.stderr
        for command in ("status", "history", "jobs"):
            for form in ([], ["--json"]):
                done = await host.ctl(command, *form, user=PERSON)
                printed += done.stdout + done.stderr
    finally:
        await watch.stop()

    assert (await host.status())["staged"]["image"]["imageDigest"] == host.images.digest("v1")
    assert any(login(PASSWORD) in seen.headers.get("Authorization", "") for seen in private.requests)
    assert any(login(WRONG) in seen.headers.get("Authorization", "") for seen in private.requests)
    assert len([seen for seen in private.requests if seen.fault and seen.fault.status == 401]) == 3
    assert "does not accept the credential" in printed
    assert "docker-credential-vault" in printed
    assert len(watch.workers) >= 2
    assert "0" in watch.core_limits.values()
    assert b"org.bootcd1.Manager" in heard
    assert b"does not accept the credential" in heard

    assert not holds_secret(printed.encode())
    assert not holds_secret(bytes(heard))
    assert watch.found == set()
    for place in ("/var/lib/bootcd", "/run", "/boot", "/etc"):
        left = files_with_secret(host.machine.path(place))
        assert [name for name in left if not name.endswith("ostree/auth.json")] == [], place
    logs = [path for path in host.machine.directory.glob("*.log") if holds_secret(path.read_bytes())]
    assert logs == []
    assert host.log.stat().st_size > 0
