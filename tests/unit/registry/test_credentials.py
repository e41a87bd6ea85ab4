from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.model.errors import InvalidConfig, RegistryAuthRequired
from bootcd.oci.authfile import Credential
from bootcd.registry.credentials import load_credentials


def auth_json(**logins: str) -> str:
    auths = {host: {"auth": base64.b64encode(login.encode()).decode()} for host, login in logins.items()}
    return json.dumps({"auths": auths})


async def test_credentials_first_existing_file_is_the_only_one(tmp_path: Path) -> None:
    second, third = tmp_path / "second.json", tmp_path / "third.json"
    second.write_text(auth_json(one="a:b"))
    third.write_text(auth_json(one="c:d", two="e:f"))
    lookup = load_credentials([str(tmp_path / "first.json"), str(second), str(third)])
    assert await lookup("one", "os/base") == Credential("a", "b")
    assert await lookup("two", "os/base") is None


async def test_credentials_no_file_gives_none(tmp_path: Path) -> None:
    assert await load_credentials([str(tmp_path / "none"), str(tmp_path / "none/below")])("one", "os") is None
    assert await load_credentials([])("one", "os") is None


async def test_credentials_are_read_at_the_first_lookup_and_once(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    lookup = load_credentials([str(path)])
    path.write_text(auth_json(one="a:b"))
    assert await lookup("one", "os") == Credential("a", "b")
    path.write_text("{}")
    assert await lookup("one", "os") == Credential("a", "b")


def _too_long(path: Path) -> None:
    path.write_bytes(b"{}" + b" " * (1 << 20))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.write_text("no json"), id="no-json"),
        pytest.param(_too_long, id="too-long"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(Path.mkdir, id="directory"),
    ],
)
async def test_credentials_unusable_file_is_a_config_error_naming_it(tmp_path: Path, make: object) -> None:
    path = tmp_path / "auth.json"
    assert callable(make)
    make(path)
    with pytest.raises(InvalidConfig) as caught:
        await load_credentials([str(path)])("one", "os")
    assert caught.value.fields["path"] == str(path)


SECRET = "helper's horse"


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write a helper program; it notes what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(name: str, script: str) -> None:
        path = tmp_path / f"docker-credential-{name}"
        note = f'echo "$* $(cat)" >>{tmp_path}/asked\n'
        path.write_text(f"#!/bin/sh\n{note}{script}\n")
        path.chmod(0o755)

    return write


def answer(user: str) -> str:
    return f"cat <<'END'\n{json.dumps({'ServerURL': 'x', 'Username': user, 'Secret': SECRET})}\nEND"


def auth_file(tmp_path: Path, **members: object) -> str:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps(members))
    return str(path)


LOGINS = {"one": {"auth": base64.b64encode(b"a:b").decode()}}
NOT_FOUND = "echo credentials not found in native keychain; exit 1"


async def test_helper_of_a_registry_is_asked_for_it_and_counts_before_entries(
    tmp_path: Path, helper: Callable[..., None]
) -> None:
    helper("vault", answer("me"))
    lookup = load_credentials([auth_file(tmp_path, auths=LOGINS, credHelpers={"one": "vault"})])
    assert await lookup("one", "os/base") == Credential("me", SECRET)
    assert await lookup("two", "os/base") is None
    assert (tmp_path / "asked").read_text() == "get one\n"
    # What it gives may be good for minutes only.
    await lookup("one", "os/base")
    assert (tmp_path / "asked").read_text() == "get one\n" * 2


async def test_helper_that_gives_a_token_gives_no_password(
    tmp_path: Path, helper: Callable[..., None]
) -> None:
    helper("vault", answer("<token>"))
    lookup = load_credentials([auth_file(tmp_path, credHelpers={"one": "vault"})])
    assert await lookup("one", "os") == Credential(identity_token=SECRET)


async def test_helper_of_a_registry_that_knows_none_hides_entries_and_the_store_does_not(
    tmp_path: Path, helper: Callable[..., None]
) -> None:
    helper("vault", NOT_FOUND)
    lookup = load_credentials([auth_file(tmp_path, auths=LOGINS, credHelpers={"one": "vault"})])
    assert await lookup("one", "os") is None
    lookup = load_credentials([auth_file(tmp_path, auths=LOGINS, credsStore="vault")])
    assert await lookup("one", "os") == Credential("a", "b")
    assert (tmp_path / "asked").read_text() == "get one\n" * 2


async def test_helpers_of_all_registries_are_asked_in_their_order(
    tmp_path: Path, helper: Callable[..., None]
) -> None:
    helper("first", NOT_FOUND)
    helper("second", answer("second"))
    file = auth_file(tmp_path, auths=LOGINS)
    assert await load_credentials([file], ["first", "second"])("one", "os") == Credential("second", SECRET)
    order = ["first", "containers-auth.json", "second"]
    assert await load_credentials([file], order)("one", "os") == Credential("a", "b")
    assert await load_credentials([file], order)("two", "os") == Credential("second", SECRET)
    assert await load_credentials([], order)("two", "os") is None


async def test_helper_that_fails_is_passed_over_if_another_knows(
    tmp_path: Path, helper: Callable[..., None]
) -> None:
    helper("broken", "exit 3")
    helper("good", answer("me"))
    file = auth_file(tmp_path)
    assert await load_credentials([file], ["broken", "good"])("one", "os") == Credential("me", SECRET)
    with pytest.raises(RegistryAuthRequired, match="status 3"):
        await load_credentials([file], ["broken"])("one", "os")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("exec sleep 1000", "longer", id="hangs"),
        pytest.param(f"echo {SECRET!r}; echo {SECRET!r} >&2; exit 1", "status 1", id="fails"),
        pytest.param(f"echo {SECRET!r}", "no credential", id="no-json"),
        pytest.param("echo '{}'", "no credential", id="empty"),
        pytest.param("""echo '{"Username": 1, "Secret": 2}'""", "no credential", id="wrong-types"),
        pytest.param("""echo '{"Username": "me", "Secret": ""}'""", "no credential", id="no-secret"),
        pytest.param("exec head -c 1000000 /dev/zero", "credential", id="prints-without-end"),
    ],
)
async def test_helper_that_misbehaves_is_a_typed_error_that_shows_nothing_of_it(
    tmp_path: Path,
    helper: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    script: str,
    reason: str,
) -> None:
    helper("vault", script)
    file = auth_file(tmp_path, credHelpers={"one": "vault"})
    with caplog.at_level("DEBUG"), pytest.raises(RegistryAuthRequired, match=reason) as caught:
        await load_credentials([file], deadline_secs=0.5)("one", "os")
    shown = f"{caught.value.info().model_dump_json()} {caught.value.__cause__} {caplog.text}"
    assert "docker-credential-vault" in shown
    assert SECRET not in shown


async def test_helper_that_is_not_installed_is_named(tmp_path: Path) -> None:
    file = auth_file(tmp_path, credHelpers={"one": "nowhere"})
    with pytest.raises(RegistryAuthRequired, match="docker-credential-nowhere"):
        await load_credentials([file])("one", "os")
