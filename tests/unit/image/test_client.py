"""The client that images are sent with: by what it speaks to a registry."""

from __future__ import annotations

import pytest
import requests

from bootcd.image.client import Client
from bootcd.image.repository import Repository
from bootcd.oci.reference import parse_reference


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take the addresses that are asked, and ask nobody."""
    urls: list[str] = []

    def note(client: Client, *_login: str) -> None:
        urls.append(f"{client.prefix}://{client.hostname}")
        if client.prefix == "https":
            with pytest.raises(requests.exceptions.InvalidSchema):
                client.session.get("http://registry.invalid/v2/")

    monkeypatch.setattr(Client, "find_login", note)
    return urls


@pytest.mark.parametrize(("plain_http", "scheme"), [(False, "https"), (True, "http")])
async def test_registry_of_which_no_file_speaks_is_asked_by_tls_unless_plain_http_is_said(
    asked: list[str], plain_http: bool, scheme: str
) -> None:
    reference = parse_reference("registry.invalid/os:latest")
    with await Repository.open(reference, plain_http=plain_http):
        assert asked == [f"{scheme}://registry.invalid"]
