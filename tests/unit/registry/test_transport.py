from __future__ import annotations

import pytest
from yarl import URL

from bootcd.model.errors import InvalidConfig
from bootcd.registry.transport import _proxy_for

_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_NAMES, *(name.upper() for name in _NAMES)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "url", "proxy", "authorization"),
    [
        pytest.param({}, "https://quay.io/", None, "", id="none"),
        pytest.param(
            {"https_proxy": "http://p:3128"}, "https://quay.io/", "http://p:3128", "", id="of-scheme"
        ),
        pytest.param({"HTTPS_PROXY": "p:3128"}, "https://quay.io/", "http://p:3128", "", id="without-scheme"),
        pytest.param({"https_proxy": "http://p:3128"}, "http://quay.io/", None, "", id="of-other-scheme"),
        pytest.param({"all_proxy": "http://p:3128"}, "http://quay.io/", "http://p:3128", "", id="of-all"),
        pytest.param(
            {"https_proxy": "http://p:3128", "no_proxy": "quay.io"},
            "https://cdn.quay.io/",
            None,
            "",
            id="excepted",
        ),
        pytest.param(
            {"http_proxy": "http://p:3128", "no_proxy": "h:5000"},
            "http://h:5000/",
            None,
            "",
            id="excepted-port",
        ),
        pytest.param(
            {"http_proxy": "http://p:3128", "no_proxy": "h:5000"},
            "http://h:80/",
            "http://p:3128",
            "",
            id="other-port",
        ),
        pytest.param(
            {"https_proxy": "http://me:s%40cret@p:3128"},
            "https://quay.io/",
            "http://p:3128",
            "Basic bWU6c0BjcmV0",
            id="with-login",
        ),
    ],
)
def test_proxy_environment_is_followed(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    url: str,
    proxy: str | None,
    authorization: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _proxy_for(URL(url)) == (proxy and URL(proxy), authorization)


@pytest.mark.parametrize(
    "value", ["socks5://p:1080", "http://[::1", "http://"], ids=["socks", "broken", "no-host"]
)
def test_proxy_that_cannot_be_used_is_a_config_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(InvalidConfig, match="https"):
        _proxy_for(URL("https://quay.io/"))
