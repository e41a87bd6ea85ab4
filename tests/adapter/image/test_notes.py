"""Release notes pushed by the real command to a real registry, and found as a check finds them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bootcd.engine.notes import release_notes
from bootcd.engine.source import open_source
from bootcd.image.__main__ import main
from bootcd.model.job import WorkerSettings
from bootcd.oci.notes import ARTIFACT_TYPE, MAX_NOTES_BYTES
from bootcd.ostreefmt.origin import TrackedImage
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image, Index, file, make_image, make_index, make_layer
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.token_server import TokenServer

pytestmark = pytest.mark.usefixtures("nobody_is_logged_in")

NAME = "example/os"
TEXT = "# Version 2\n\n- faster\n- \x1b[31mred\x1b[0m\n"
SHOWN = "# Version 2\n\n- faster\n- [31mred[0m"
COMMAND = ["notes", "push"]
IMAGE = make_image([make_layer([file("usr/a", b"1")])])


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.md"
    path.write_text(TEXT)
    return path


async def push(*words: str | Path) -> subprocess.CompletedProcess[str]:
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        status = await asyncio.to_thread(main, [*COMMAND, *map(str, words)])
    return subprocess.CompletedProcess(words, status, output.getvalue(), errors.getvalue())


async def attach(host: str, notes: Path, tag: str = "1") -> str:
    done = await push("--plain-http", f"{host}/{NAME}:{tag}", notes)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()[-1]


async def find(host: str, tag: str = "1") -> str:
    settings = WorkerSettings(insecure_registries=frozenset({host}), retries=0)
    async with open_source(TrackedImage.registry(f"{host}/{NAME}:{tag}"), settings) as source:
        return await release_notes(source, await source.resolve(architecture="amd64"))


@pytest.mark.parametrize(
    "image", [IMAGE, make_index([make_image([], architecture="arm64"), IMAGE])], ids=["image", "index"]
)
async def test_notes_pushed_to_an_image_or_index_are_found_by_its_tag(
    registry: Registry, notes: Path, image: Image | Index
) -> None:
    await registry.push(NAME, "1", image)
    assert await find(registry.host) == ""
    await attach(registry.host, notes)
    assert await find(registry.host) == SHOWN


async def test_notes_pushed_again_replace_the_first_and_leave_other_referrers(
    registry: Registry, notes: Path
) -> None:
    await registry.push(NAME, "1", IMAGE)
    await attach(registry.host, notes)
    notes.write_text("second")
    await attach(registry.host, notes)
    assert await find(registry.host) == "second"
    tag = IMAGE.digest.replace(":", "-")
    reference = f"docker://{registry.host}/{NAME}:{tag}"
    listed = await asyncio.to_thread(
        subprocess.check_output, ["skopeo", "inspect", "--raw", "--tls-verify=false", reference]
    )
    entries = json.loads(listed)["manifests"]
    assert [entry["artifactType"] for entry in entries] == [ARTIFACT_TYPE] * 2


async def test_registry_with_the_referrers_api_is_asked_for_it_and_gets_no_tag(
    registry: Registry, proxy: FaultProxy, notes: Path
) -> None:
    await registry.push(NAME, "1", IMAGE)
    # What such a registry answers: the registry here is older.
    proxy.inject(
        Fault(headers={"OCI-Subject": IMAGE.digest}), path="/manifests/sha256:", method="PUT", always=True
    )
    digest = await attach(proxy.host, notes)
    assert await find(registry.host) == ""
    data = await asyncio.to_thread(registry.blob_path(digest).read_bytes)
    manifest = json.loads(data)
    entry = {
        "mediaType": manifest["mediaType"],
        "digest": digest,
        "size": len(data),
        "artifactType": manifest["artifactType"],
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    proxy.inject(Fault(200, index), path=f"/referrers/{IMAGE.digest}", always=True)
    assert await find(proxy.host) == SHOWN


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(403),
        Fault(200, b"{"),
        Fault(200, b'{"manifests": [{"artifactType": 1}]}'),
        Fault(200, b"<html>", {"Content-Type": "text/html"}),
        Fault(drop=True),
    ],
    ids=["500", "403", "no-json", "no-index", "web-page", "dropped"],
)
async def test_notes_that_cannot_be_read_are_none(
    registry: Registry, proxy: FaultProxy, notes: Path, fault: Fault
) -> None:
    await registry.push(NAME, "1", IMAGE)
    await attach(registry.host, notes)
    assert await find(proxy.host) == SHOWN
    proxy.inject(fault, path="/referrers/", always=True)
    assert await find(proxy.host) == ""


async def test_notes_other_than_their_digest_says_are_none(registry: Registry, notes: Path) -> None:
    await registry.push(NAME, "1", IMAGE)
    path = registry.blob_path(await attach(registry.host, notes))
    await asyncio.to_thread(path.write_bytes, path.read_bytes().replace(b"text/markdown", b"text/markdowm"))
    assert await find(registry.host) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * (MAX_NOTES_BYTES + 1), "at most 64 KiB"),
        (b"\xff", "is not UTF-8 text"),
        (b" \n", "says nothing"),
        (None, "No such file"),
    ],
    ids=["large", "binary", "empty", "missing"],
)
async def test_file_that_is_no_text_is_refused_before_anything(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "notes.md"
    if content is not None:
        path.write_bytes(content)
    done = await push("--plain-http", "127.0.0.1:1/example/os:1", path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


async def test_failures_of_the_registry_are_one_sentence(registry: Registry, notes: Path) -> None:
    for arguments, words in (
        (("--plain-http", f"{registry.host}/{NAME}:none"), "answered 404"),
        (("--plain-http", f"127.0.0.1:1/{NAME}:1"), "cannot be reached"),
        ((f"{registry.host}/{NAME}:1",), "does not speak TLS"),
        (("os",), "does not say which registry"),
    ):
        done = await push(*arguments, notes)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["basic", "token"])
async def test_login_and_certificate_are_taken_from_files(tmp_path: Path, notes: Path, kind: str) -> None:
    authority = Certificate.authority(tmp_path)
    certificate = authority.issue(tmp_path)
    directory = tmp_path / "registry"
    directory.mkdir()
    async with (
        TokenServer(authority, accounts={USER: PASSWORD}, certificate=certificate) as tokens,
        Registry(
            directory,
            certificate=certificate,
            authority=authority,
            basic_auth=kind == "basic",
            tokens=tokens if kind == "token" else None,
        ) as registry,
    ):
        await registry.push(NAME, "1", IMAGE)
        words = [f"{registry.host}/{NAME}:1", notes, "--ca-file", authority.path]
        refused = await push(*words)
        assert refused.returncode == 1
        assert "--authfile" in refused.stderr
        login = tmp_path / "auth.json"
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        login.write_text(json.dumps({"auths": {registry.host: {"auth": secret}}}))
        done = await push(*words, "--authfile", login)
        assert (done.returncode, done.stderr) == (0, "")
        for said in (done.stdout, refused.stderr):
            assert PASSWORD not in said
            assert secret not in said
