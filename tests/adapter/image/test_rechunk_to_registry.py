"""Images rechunked to a real registry: sent once, with its login, and named when all of it is there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bootcd.image import push
from bootcd.image.__main__ import main
from bootcd.image.client import Content
from bootcd.image.repository import Repository
from bootcd.oci.reference import parse_reference
from tests.adapter.image.test_rechunk import manifest_of, versions
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_layout import write_layout
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.token_server import TokenServer

pytestmark = pytest.mark.usefixtures("nobody_is_logged_in")

NAME = "example/os"
LAYERS = 11
"Nine packages, the initial RAM disk, and what belongs to no package."


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'source', {'1': versions(), '2': versions(changed='p4')})}"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def rechunk(
    spool: Path, *words: str, errors: io.StringIO | None = None
) -> subprocess.CompletedProcess[str]:
    output, errors = io.StringIO(), errors or io.StringIO()
    command = ["rechunk", "--level=1", "--json", f"--spool-dir={spool}", *words]
    with redirect_stdout(output), redirect_stderr(errors):
        status = await asyncio.to_thread(main, command)
    assert list(spool.iterdir()) == []
    return subprocess.CompletedProcess(words, status, output.getvalue(), errors.getvalue())


async def test_image_is_sent_and_the_next_one_without_what_is_there(
    tmp_path: Path, spool: Path, source: str, proxy: FaultProxy
) -> None:
    target = f"docker://{proxy.host}/{NAME}"
    first = json.loads((await rechunk(spool, "--plain-http", f"{source}:1", f"{target}:1")).stdout)
    assert first["sent"] == first["after"]
    assert first["after"]["layers"] == LAYERS
    assert "/manifests/1" in proxy.seen(method="PUT")[-1].path
    # What was sent is what a layout gets.
    local = json.loads((await rechunk(spool, f"{source}:1", f"oci:{tmp_path}/out:1")).stdout)
    assert (local["digest"], local["sent"]) == (first["digest"], None)

    proxy.forget()
    again = json.loads((await rechunk(spool, "--plain-http", f"{source}:1", f"{target}:1")).stdout)
    assert again["sent"] == {"layers": 0, "bytes": 0}
    assert [seen.path for seen in proxy.seen(method="PUT")] == [f"/v2/{NAME}/manifests/1"]

    words = ["--plain-http", f"--previous={target}:1", f"{source}:2", f"{target}:2"]
    second = json.loads((await rechunk(spool, *words)).stdout)
    assert second["sent"] == second["upgrade"]["after"]
    assert second["sent"]["layers"] == 1
    # And what is in a registry is taken from there as well.
    words = ["--plain-http", f"--previous={target}:1", f"{target}:2", f"oci:{tmp_path}/out:2"]
    assert json.loads((await rechunk(spool, *words)).stdout)["after"] == second["after"]


async def test_layers_of_the_older_version_are_taken_from_its_repository(
    spool: Path, source: str, proxy: FaultProxy
) -> None:
    older = f"docker://{proxy.host}/other/os:1"
    told = await rechunk(spool, "--plain-http", f"{source}:1", older, errors=Terminal())
    assert "Sending " in told.stderr
    proxy.forget()
    words = ["--plain-http", f"--previous={older}", f"{source}:2", f"docker://{proxy.host}/{NAME}:2"]
    done = json.loads((await rechunk(spool, *words)).stdout)
    assert done["sent"]["layers"] == 1
    # The layer that changed, and the config.
    assert len(proxy.seen("/blobs/uploads/", "PUT")) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
async def test_push_that_was_ended_goes_on_where_it_was(
    spool: Path, source: str, registry: Registry, proxy: FaultProxy, number: signal.Signals
) -> None:
    words = ["--plain-http", f"{source}:1", f"docker://{proxy.host}/{NAME}:1"]
    done = 4
    proxy.inject(*[Fault()] * done, Fault(silent=True), path="/blobs/uploads/", method="PUT", always=True)
    command = [sys.executable, "-m", "bootcd.image", "rechunk", "--level=1", f"--spool-dir={spool}", *words]
    process = await asyncio.create_subprocess_exec(*command)
    async with asyncio.timeout(50):
        while len(proxy.seen("/blobs/uploads/", "PUT")) < done + 1:
            await proxy.wait_for_requests(len(proxy.requests) + 1)
        # That a request has come does not say that it is over.
        while await asyncio.to_thread(registry.blobs_kept, NAME) < done:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
    process.send_signal(number)
    ended = asyncio.create_task(process.wait())
    async with asyncio.timeout(50):
        while not ended.done():
            # Also what was sent after the signal, by a thread that had not heard of it.
            proxy.release()
            await asyncio.wait([ended], timeout=0.05)
    status = ended.result()
    assert not proxy.seen("/manifests/")
    proxy.forget()
    if number == signal.SIGTERM:
        assert status == 128 + number
    else:
        for left in spool.iterdir():
            shutil.rmtree(left)
    assert list(spool.iterdir()) == []

    report = json.loads((await rechunk(spool, *words)).stdout)
    assert report["sent"]["layers"] <= LAYERS - done
    assert len(proxy.seen("/blobs/uploads/", "PUT")) == report["sent"]["layers"] + 1
    assert await asyncio.to_thread(registry.blob_path(report["digest"]).exists)


async def test_blob_is_sent_again_when_the_connection_breaks_or_the_registry_fails(
    spool: Path, source: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "_PAUSES_SECS", (0.0, 0.0))
    words = ["--plain-http", f"{source}:1", f"docker://{proxy.host}/{NAME}:1"]
    proxy.inject(Fault(drop=True), Fault(502), path="/blobs/uploads/", method="PUT")
    assert (await rechunk(spool, *words)).returncode == 0
    proxy.forget()
    proxy.inject(Fault(502), path=f"/{NAME}/blobs/sha256:", method="HEAD", always=True)
    proxy.inject(Fault(502), path="/blobs/uploads/", method="PUT", always=True)
    failed = await rechunk(spool, *words)
    assert failed.returncode == 1
    assert "answered 502 for blob sha256:" in failed.stderr
    assert not proxy.seen("/manifests/")


async def test_what_a_registry_refuses_is_told_before_the_work(
    spool: Path, source: str, registry: Registry, proxy: FaultProxy
) -> None:
    denied = b'{"errors": [{"code": "DENIED", "message": "not yours"}]}'
    proxy.inject(Fault(403, denied, {"WWW-Authenticate": "Basic"}), path="/uploads/", always=True)
    for words, said in (
        (("--plain-http", f"docker://127.0.0.1:1/{NAME}:1"), "cannot be reached"),
        ((f"docker://{registry.host}/{NAME}:1",), "does not speak TLS"),
        (("--plain-http", f"docker://{proxy.host}/{NAME}:1"), "does not let"),
        ((f"--authfile={spool}/none", f"docker://{registry.host}/{NAME}:1"), "there is no file"),
        ((f"docker://{registry.host}/{NAME}@sha256:{'0' * 64}",), "name a tag"),
    ):
        *options, target = words
        done = await rechunk(spool, *options, "oci:/nonexistent:1", target)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("kind", ["basic", "token"])
async def test_login_and_certificate_are_taken_from_files(
    tmp_path: Path, spool: Path, source: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Certificate.authority(tmp_path)
    certificate = authority.issue(tmp_path)
    (tmp_path / "registry").mkdir()
    async with (
        TokenServer(authority, accounts={USER: PASSWORD}, certificate=certificate) as tokens,
        Registry(
            tmp_path / "registry",
            certificate=certificate,
            authority=authority,
            basic_auth=kind == "basic",
            tokens=tokens if kind == "token" else None,
        ) as registry,
    ):
        target = f"docker://{registry.host}/{NAME}:1"
        words = [f"--ca-file={authority.path}", f"{source}:1", target]
        refused = await rechunk(spool, *words)
        assert refused.returncode == 1
        assert "--authfile" in refused.stderr
        login = tmp_path / "auth.json"
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        login.write_text(json.dumps({"auths": {registry.host: {"auth": secret}}}))
        done = await rechunk(spool, f"--authfile={login}", *words)
        assert (done.returncode, done.stderr) == (0, "")
        # Found where podman says it is, and good to read with.
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(login))
        options = [f"--ca-file={authority.path}", f"--previous={target}"]
        again = await rechunk(spool, *options, target, f"oci:{tmp_path}/out:1")
        assert again.returncode == 0
        digests = {layer["digest"] for layer in manifest_of(tmp_path / "out")["layers"]}
        assert all(registry.keeps(NAME, digest) for digest in digests)
        for said in (done.stdout, refused.stderr):
            assert PASSWORD not in said
            assert secret not in said


async def test_login_is_not_sent_in_plain_by_order_of_a_registry_with_tls(
    tmp_path: Path, spool: Path, source: str
) -> None:
    authority = Certificate.authority(tmp_path)
    (tmp_path / "registry").mkdir()
    async with (
        TokenServer(authority, accounts={USER: PASSWORD}) as tokens,
        Registry(
            tmp_path / "registry",
            certificate=authority.issue(tmp_path),
            authority=authority,
            tokens=tokens,
        ) as registry,
    ):
        login = tmp_path / "auth.json"
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        login.write_text(json.dumps({"auths": {registry.host: {"auth": secret}}}))
        options = [f"--ca-file={authority.path}", f"--authfile={login}"]
        done = await rechunk(spool, *options, f"{source}:1", f"docker://{registry.host}/{NAME}:1")
        assert done.returncode == 1
        assert tokens.requests == []


async def test_memory_does_not_grow_with_a_blob(tmp_path: Path, registry: Registry) -> None:
    size = 48 << 20
    path = tmp_path / "blob"
    with path.open("wb") as file:
        file.truncate(size)
    digest = f"sha256:{hashlib.sha256(bytes(size)).hexdigest()}"
    reference = parse_reference(f"{registry.host}/{NAME}:1")
    with await Repository.open(reference, plain_http=True) as repository:
        tracemalloc.start()
        try:
            assert await asyncio.to_thread(repository.put_blob, digest, Content(path, size))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < size // 4
        assert not await asyncio.to_thread(repository.put_blob, digest, Content(path, size))
