from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from bootcd.model.errors import InvalidConfig
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
