"""The same registries files, the same image: whom does skopeo ask, whom do we, and does it end well.

Every host name leads through a forward proxy to docker-registry on loopback. `good` speaks TLS with a
certificate that is accepted, `bad` with one that is not, `plain` no TLS at all, and `down` not at all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from bootcd.model.errors import BootcdError, InvalidConfig, RegistryBlocked
from bootcd.oci.reference import parse_reference
from bootcd.oci.registries import RegistriesConf, parse_registries
from bootcd.registry.certificates import Certificates
from bootcd.registry.client import RegistryClient
from bootcd.registry.credentials import load_credentials
from tests.support.certificate import Certificate
from tests.support.internet import Internet
from tests.support.oci_image import file, make_image, make_layer
from tests.support.registry import Registry

IMAGE = make_image([make_layer([file("usr/x", b"x")])])
REPOSITORIES = ("os/base", "mirror/os/base", "mirror/base", "library/base")
HOSTS = {
    "good": ("example.com", "a.example.com", "b.a.example.com", "mirror.test", "second.test", "docker.io"),
    "bad": ("bad.test",),
    "plain": ("plain.test",),
}


@dataclass(frozen=True)
class Case:
    conf: str
    contacts: list[str]
    "Who is asked, in this order."
    served: bool = True
    image: str = "example.com/os/base:1"
    drop_ins: tuple[str, ...] = ()
    error: type[BootcdError] | None = None
    "Ours, where nobody may be asked."


def registry(prefix: str = "", location: str = "", *more: str, mirrors: tuple[str, ...] = ()) -> str:
    lines = ["[[registry]]"]
    lines += [f'prefix = "{prefix}"'] if prefix else []
    lines += [f'location = "{location}"'] if location else []
    return "\n".join([*lines, *more, *mirrors, ""])


def mirror(location: str, *more: str) -> str:
    return "\n".join(["[[registry.mirror]]", f'location = "{location}"', *more])


DIGEST_ONLY, TAG_ONLY = 'pull-from-mirror = "digest-only"', 'pull-from-mirror = "tag-only"'
ALL_BY_DIGEST_ONLY = "mirror-by-digest-only = true"
BY_DIGEST = f"example.com/os/base@{IMAGE.digest}"
BLOCKED, INSECURE = "blocked = true", "insecure = true"

CASES = {
    "nothing-said": Case("", ["example.com"]),
    "another-registry": Case(registry("other.test", "mirror.test"), ["example.com"]),
    "rewritten-host": Case(registry("example.com", "mirror.test"), ["mirror.test"]),
    "rewritten-namespace": Case(registry("example.com/os", "mirror.test/mirror"), ["mirror.test"]),
    "rewritten-to-nothing": Case(registry("example.com", "mirror.test/none"), ["mirror.test"], False),
    "rewritten-repository": Case(
        registry("example.com/os/base", "mirror.test/mirror/base"), ["mirror.test"]
    ),
    "prefix-of-a-part-of-a-name": Case(registry("example.com/o", "mirror.test"), ["example.com"]),
    "prefix-with-a-tag-is-for-no-name": Case(
        registry("example.com/os/base:1", "mirror.test/os/base:1"), ["example.com"]
    ),
    "prefix-with-a-slash-at-the-end": Case(registry("example.com/", "mirror.test/"), ["mirror.test"]),
    "location-alone": Case(registry("", "example.com", BLOCKED), [], False, error=RegistryBlocked),
    "longest-prefix": Case(
        registry("example.com", "second.test") + registry("example.com/os", "mirror.test/os"),
        ["mirror.test"],
    ),
    "longest-prefix-first": Case(
        registry("example.com/os", "mirror.test/os") + registry("example.com", "second.test"),
        ["mirror.test"],
    ),
    "same-prefix-twice": Case(
        registry("example.com", "mirror.test") + registry("example.com", "second.test"), ["mirror.test"]
    ),
    "contradiction": Case(
        registry("a.test", "example.com") + registry("b.test", "example.com", INSECURE),
        [],
        False,
        error=InvalidConfig,
    ),
    "wildcard": Case(
        registry("*.example.com", "mirror.test"), ["mirror.test"], image="a.example.com/os/base:1"
    ),
    "wildcard-deep": Case(
        registry("*.example.com", "mirror.test"), ["mirror.test"], image="b.a.example.com/os/base:1"
    ),
    "wildcard-not-the-domain-itself": Case(registry("*.example.com", "mirror.test"), ["example.com"]),
    "wildcard-without-location": Case(
        registry("*.example.com", "", mirrors=(mirror("mirror.test"),)),
        ["mirror.test"],
        image="a.example.com/os/base:1",
    ),
    "wildcard-blocked": Case(
        registry("*.example.com", "", BLOCKED),
        [],
        False,
        image="a.example.com/os/base:1",
        error=RegistryBlocked,
    ),
    "wildcard-against-longer": Case(
        registry("*.example.com", "", BLOCKED) + registry("a.example.com/os", "a.example.com/os"),
        ["a.example.com"],
        image="a.example.com/os/base:1",
    ),
    "wildcard-with-path": Case(
        registry("*.example.com/os", "mirror.test"), [], False, error=InvalidConfig
    ),
    "blocked": Case(registry("example.com", "example.com", BLOCKED), [], False, error=RegistryBlocked),
    "blocked-namespace": Case(
        registry("example.com/os", "example.com/os", BLOCKED), [], False, error=RegistryBlocked
    ),
    "blocked-other-namespace": Case(
        registry("example.com/other", "example.com/other", BLOCKED), ["example.com"]
    ),
    "blocked-with-a-mirror": Case(
        registry("example.com", "example.com", BLOCKED, mirrors=(mirror("mirror.test"),)), ["mirror.test"]
    ),
    "blocked-and-rewritten": Case(registry("example.com", "mirror.test", BLOCKED), ["mirror.test"]),
    "blocked-location": Case(
        registry("example.com", "mirror.test") + registry("mirror.test", "mirror.test", BLOCKED),
        [],
        False,
        error=InvalidConfig,
    ),
    "blocked-location-by-wildcard": Case(
        registry("example.com", "b.a.example.com") + registry("*.example.com", "", BLOCKED),
        [],
        False,
        error=RegistryBlocked,
    ),
    "blocked-mirror-is-passed-over": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test"),))
        + registry("mirror.test", "mirror.test", BLOCKED),
        ["example.com"],
    ),
    "blocked-in-capitals": Case(
        registry("example.com", "example.com", "Blocked = true"), [], False, error=RegistryBlocked
    ),
    "blocked-as-text": Case(
        registry("example.com", "example.com", 'blocked = "true"'), [], False, error=InvalidConfig
    ),
    "mirrors-first-has-it": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test"), mirror("second.test"))),
        ["mirror.test"],
    ),
    "mirror-down": Case(
        registry("example.com", "example.com", mirrors=(mirror("down.test"), mirror("second.test"))),
        ["down.test", "second.test"],
    ),
    "mirror-without-the-image": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test/none"),)),
        ["mirror.test", "example.com"],
    ),
    "mirrors-all-down": Case(
        registry("example.com", "down.test", mirrors=(mirror("down.test/a"), mirror("bad.test"))),
        ["down.test", "bad.test", "down.test"],
        False,
    ),
    "mirror-with-a-slash-at-the-end": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test/"),)),
        [],
        False,
        error=InvalidConfig,
    ),
    "mirror-without-location": Case(
        registry("example.com", "example.com", mirrors=("[[registry.mirror]]",)),
        [],
        False,
        error=InvalidConfig,
    ),
    "mirror-digest-only-by-tag": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test", DIGEST_ONLY),)),
        ["example.com"],
    ),
    "mirror-digest-only-by-digest": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test", DIGEST_ONLY),)),
        ["mirror.test"],
        image=BY_DIGEST,
    ),
    "mirror-tag-only-by-digest": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test", TAG_ONLY),)),
        ["example.com"],
        image=BY_DIGEST,
    ),
    "mirror-all-by-digest": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test", 'pull-from-mirror = "all"'),)),
        ["mirror.test"],
        image=BY_DIGEST,
    ),
    "mirror-of-an-unknown-kind": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test", 'pull-from-mirror = "now"'),)),
        [],
        False,
        error=InvalidConfig,
    ),
    "mirror-kind-on-the-registry": Case(
        registry("example.com", "example.com", 'pull-from-mirror = "all"'), [], False, error=InvalidConfig
    ),
    "mirrors-by-digest-only-by-tag": Case(
        registry("example.com", "example.com", ALL_BY_DIGEST_ONLY, mirrors=(mirror("mirror.test"),)),
        ["example.com"],
    ),
    "mirrors-by-digest-only-by-digest": Case(
        registry("example.com", "example.com", ALL_BY_DIGEST_ONLY, mirrors=(mirror("mirror.test"),)),
        ["mirror.test"],
        image=BY_DIGEST,
    ),
    "mirrors-by-digest-only-and-a-kind": Case(
        registry(
            "example.com",
            "example.com",
            ALL_BY_DIGEST_ONLY,
            mirrors=(mirror("mirror.test", 'pull-from-mirror = "all"'),),
        ),
        [],
        False,
        error=InvalidConfig,
    ),
    "certificate-not-accepted": Case("", ["bad.test"], False, image="bad.test/os/base:1"),
    "certificate-not-accepted-insecure": Case(
        registry("", "bad.test", INSECURE), ["bad.test"], image="bad.test/os/base:1"
    ),
    "plain": Case("", ["plain.test"], False, image="plain.test/os/base:1"),
    "plain-insecure": Case(
        registry("", "plain.test", INSECURE), ["plain.test"], image="plain.test/os/base:1"
    ),
    "insecure-mirror": Case(
        registry("example.com", "example.com", mirrors=(mirror("plain.test", INSECURE),)), ["plain.test"]
    ),
    "insecure-registry-has-secure-mirror": Case(
        registry("example.com", "example.com", INSECURE, mirrors=(mirror("bad.test"),)),
        ["bad.test", "example.com"],
    ),
    "insecure-mirror-of-its-own-entry-only": Case(
        registry("example.com", "bad.test") + registry("other.test", "other.test", INSECURE),
        ["bad.test"],
        False,
    ),
    "docker-hub": Case(
        registry("docker.io/library", "mirror.test/library"), ["mirror.test"], image="docker.io/base:1"
    ),
    "location-is-a-url": Case(
        registry("example.com", "https://mirror.test"), [], False, error=InvalidConfig
    ),
    "location-without-a-host": Case(registry("example.com", "mirror"), [], False, error=InvalidConfig),
    "no-location": Case(registry("example.com"), [], False, error=InvalidConfig),
    "no-toml": Case("[[registry", [], False, error=InvalidConfig),
    "unknown-keys": Case('future = 1\n[[registry]]\nlocation = "mirror.test"\nnew = "x"\n', ["example.com"]),
    "search-registries-of-no-form": Case(
        'unqualified-search-registries = ["a b"]', [], False, error=InvalidConfig
    ),
    "short-name-mode-unknown": Case('short-name-mode = "sometimes"', [], False, error=InvalidConfig),
    "version-1-block": Case(
        '[registries.block]\nregistries = ["example.com"]\n', [], False, error=RegistryBlocked
    ),
    "version-1-insecure": Case(
        '[registries.insecure]\nregistries = ["plain.test"]\n', ["plain.test"], image="plain.test/os/base:1"
    ),
    "version-1-and-2": Case(
        registry("example.com", "mirror.test") + '[registries.block]\nregistries = ["a.test"]\n',
        [],
        False,
        error=InvalidConfig,
    ),
    "drop-in-adds": Case("", ["mirror.test"], drop_ins=(registry("example.com", "mirror.test"),)),
    "drop-in-replaces-the-whole-entry": Case(
        registry("example.com", "example.com", mirrors=(mirror("mirror.test"),)),
        ["second.test"],
        drop_ins=(registry("example.com", "second.test"),),
    ),
    "drop-in-later-wins": Case(
        "",
        ["second.test"],
        drop_ins=(registry("example.com", "mirror.test"), registry("example.com", "second.test")),
    ),
    "drop-in-of-version-1": Case(
        "",
        [],
        False,
        drop_ins=('[registries.block]\nregistries = ["a.test"]\n',),
        error=InvalidConfig,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    hosts: dict[str, str]
    plain: dict[str, str]
    authority: Certificate


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    directory = tmp_path_factory.mktemp("ground")
    authority = Certificate.authority(directory)
    stranger = Certificate.authority(directory, name="stranger")
    async with AsyncExitStack() as stack:
        started: dict[str, Registry] = {}
        for kind, signer in (("good", authority), ("bad", stranger), ("plain", None)):
            (directory / kind).mkdir()
            certificate = signer and signer.issue(directory / kind, hosts=HOSTS[kind])
            one = Registry(directory / kind, certificate=certificate, authority=signer)
            started[kind] = await stack.enter_async_context(one)
            for repository in REPOSITORIES:
                await started[kind].push(repository, "1", IMAGE)
        yield Ground(
            {host: started[kind].host for kind in ("good", "bad", "plain") for host in HOSTS[kind]},
            {host: started["plain"].host for host in HOSTS["plain"]},
            authority,
        )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_registries_file_gives_the_verdict_of_skopeo(
    case: Case, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Internet(ground.hosts, ground.plain) as internet:
        served = await _skopeo(case, internet, ground, tmp_path)
        by_skopeo = internet.contacts.copy()
        internet.contacts.clear()
        error = await _ours(case, internet, ground, monkeypatch)
        by_us = internet.contacts

    assert (served, by_skopeo) == (case.served, case.contacts)
    assert (error is None, by_us) == (case.served, case.contacts)
    if not case.contacts:
        assert type(error) is case.error


async def _skopeo(case: Case, internet: Internet, ground: Ground, home: Path) -> bool:
    containers = home / ".config/containers"
    (containers / "registries.conf.d").mkdir(parents=True)
    (containers / "registries.conf").write_text(case.conf)
    for number, text in enumerate(case.drop_ins):
        (containers / f"registries.conf.d/{number}.conf").write_text(text)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HTTP_PROXY": internet.url,
        "HTTPS_PROXY": internet.url,
        "SSL_CERT_FILE": str(ground.authority.path),
    }
    process = await asyncio.create_subprocess_exec(
        *("skopeo", "inspect", "--raw", "--no-creds", f"docker://{case.image}"),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


async def _ours(
    case: Case, internet: Internet, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> BootcdError | None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, internet.url)
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    reference = parse_reference(case.image)
    try:
        conf = RegistriesConf().updated(parse_registries(case.conf.encode(), "registries.conf"))
        for text in case.drop_ins:
            conf = conf.updated(parse_registries(text.encode(), "drop-in.conf", drop_in=True))
        async with RegistryClient(
            sources=conf.sources,
            credentials=load_credentials(()),
            certificates=Certificates(str(ground.authority.path)),
            user_agent="bootcd/test",
            retries=0,
        ) as client:
            assert (await client.manifest(reference, reference.digest)).digest == IMAGE.digest
    except BootcdError as error:
        return error
    return None
