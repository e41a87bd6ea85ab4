"""The same policy and signatures, judged here and by the real skopeo: one table, equal verdicts.

Signatures are made by gpg, skopeo and cosign, and by hand where a log or an authority would be needed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.x509.oid import ExtendedKeyUsageOID

from bootcd.engine.source import open_source
from bootcd.engine.trust import Trust, look_up
from bootcd.host.clock import SystemClock
from bootcd.model.errors import InvalidConfig, SignatureRejected
from bootcd.model.job import WorkerSettings
from bootcd.model.trust import Verdict
from bootcd.oci.trust.policy import AcceptAnything
from bootcd.ostreefmt.origin import parse_tracked_image
from bootcd.signatures.policyfile import load_policy
from tests.support.oci_image import Image, file, make_image, make_index, make_layer
from tests.support.registry import Registry
from tests.support.signing import (
    COSIGN,
    SKOPEO,
    Gpg,
    Issuer,
    Log,
    atomic_payload,
    attach,
    bundle,
    certificate_pem,
    new_key,
    payload,
    public_pem,
    refer,
    run,
    simple,
    statement,
    succeed,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

EMAIL, ISSUER = "signer@example.org", "https://login.example.org"
ACCEPT: list[Any] = [{"type": "insecureAcceptAnything"}]
REJECT: list[Any] = [{"type": "reject"}]
REPOSITORY = {"type": "matchRepository"}


@dataclass
class Lab:
    """A registry full of signed images, and the keys to judge them by."""

    directory: Path
    registry: Registry
    digests: dict[str, str]

    @property
    def host(self) -> str:
        return self.registry.host

    def key(self, name: str) -> str:
        return str(self.directory / "keys" / name)

    def data(self, name: str) -> str:
        return base64.b64encode((self.directory / "keys" / name).read_bytes()).decode()

    def write(self, root: Path, policy: bytes) -> None:
        """Make `root` a host with this policy, where signatures are where the lab keeps them."""
        (root / "etc/containers/registries.d").mkdir(parents=True, exist_ok=True)
        (root / "etc/containers/policy.json").write_bytes(policy)
        storage = f"docker:\n  {self.host}:\n    lookaside: file://{self.directory}/lookaside\n"
        storage += "    use-sigstore-attachments: true\n"
        storage += f"  {self.host}/os/quiet:\n    use-sigstore-attachments: false\n"
        (root / "etc/containers/registries.d/lab.yaml").write_text(storage)

    async def ours(
        self, image: str, root: Path, *, origin: str = "ostree-unverified-image", **settings_: Any
    ) -> Verdict:
        settings = WorkerSettings(
            containers_root=str(root), insecure_registries=frozenset({self.host}), retries=0, **settings_
        )
        tracked = parse_tracked_image(f"{origin}:docker://{image}")
        async with open_source(tracked, settings) as source:
            resolved = await source.resolve(architecture="amd64")
            return await Trust(settings, SystemClock()).judge(tracked, source, resolved)

    async def skopeo(self, image: str, root: Path) -> tuple[bool, str]:
        code, output = await run(
            *(SKOPEO, "--policy", root / "etc/containers/policy.json"),
            *("--registries.d", root / "etc/containers/registries.d", "--override-arch", "amd64"),
            *("copy", "--quiet", "--src-tls-verify=false", f"docker://{image}", f"dir:{root}/out"),
        )
        return code == 0, output


def image_of(text: str) -> Image:
    return make_image([make_layer([file("usr/text", text.encode())])])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    for name in ("registry", "keys", "lookaside", "home"):
        (directory / name).mkdir()
    async with AsyncExitStack() as opened:
        registry = await opened.enter_async_context(Registry(directory / "registry"))
        gpg = await opened.enter_async_context(Gpg(directory / "gnupg"))
        lab = Lab(directory, registry, {})
        await _sign_with_gpg(lab, gpg)
        await _sign_with_cosign(lab)
        await _sign_by_hand(lab)
        yield lab


async def _push(lab: Lab, repository: str, tag: str = "v1", text: str = "") -> str:
    digest = await lab.registry.push(repository, tag, image_of(text or repository))
    lab.digests[repository] = digest
    return digest


def _lookaside(lab: Lab, repository: str, digest: str, number: int, message: bytes) -> None:
    directory = lab.directory / "lookaside" / f"{repository}@{digest.replace(':', '=')}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"signature-{number}").write_bytes(message)


async def _sign_with_gpg(lab: Lab, gpg: Gpg) -> None:
    keys = lab.directory / "keys"
    await gpg.make_key("good")
    await gpg.make_key("other")
    await gpg.make_key("revoked")
    old = "20200101T000000"
    await gpg.make_key("expired", at=old, expires="1y")
    # What skopeo itself signs and puts where registries.d says.
    lab.write(lab.directory / "signing", b"")
    await _push(lab, "os/gpg", "plain")
    await succeed(
        *(
            SKOPEO,
            "--insecure-policy",
            "--registries.d",
            lab.directory / "signing/etc/containers/registries.d",
        ),
        *("copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"),
        *("--sign-by", await gpg.fingerprint("good")),
        *(f"docker://{lab.host}/os/gpg:plain", f"docker://{lab.host}/os/gpg:v1"),
        env={"GNUPGHOME": str(gpg.home)},
    )
    for name in ("expired", "revoked"):
        digest = await _push(lab, f"os/{name}")
        content = atomic_payload(digest, f"{lab.host}/os/{name}:v1")
        at = "20200601T000000" if name == "expired" else ""
        _lookaside(lab, f"os/{name}", digest, 1, await gpg.sign(name, content, at=at))
    await gpg.revoke("revoked")
    for repository, claimed, of in (
        ("os/gpgmoved", "os/elsewhere:v1", ""),
        ("os/gpgtag", "os/gpgtag:v2", ""),
        ("os/gpgdigest", "os/gpgdigest:v1", "sha256:" + "0" * 64),
    ):
        digest = await _push(lab, repository)
        content = atomic_payload(of or digest, f"{lab.host}/{claimed}")
        _lookaside(lab, repository, digest, 1, await gpg.sign("good", content))
    # A file that is no signature, beside one that would count.
    digest = await _push(lab, "os/future")
    content = atomic_payload(digest, f"{lab.host}/os/future:v1")
    _lookaside(lab, "os/future", digest, 1, await gpg.sign("good", content))
    _lookaside(lab, "os/future", digest, 2, b"\0of a form to come\n")
    # The first signature is of somebody else, the second says nothing, the third counts.
    digest = await _push(lab, "os/third")
    content = atomic_payload(digest, f"{lab.host}/os/third:v1")
    for number, message in enumerate(
        (await gpg.sign("other", content), await gpg.sign("good", b"{}"), await gpg.sign("good", content))
    ):
        _lookaside(lab, "os/third", digest, number + 1, message)
    digest = await _push(lab, "os/gpgjunk")
    for number, junk in enumerate(
        (b"", content, await gpg.sign("good", b"{}"), await gpg.sign("good", content + b"x"))
    ):
        _lookaside(lab, "os/gpgjunk", digest, number + 1, junk)
    for name in ("good", "other", "revoked", "expired"):
        (keys / f"{name}.asc").write_bytes(await gpg.export(name))
    (keys / "good.gpg").write_bytes(await gpg.export("good", armor=False))
    (keys / "both.asc").write_bytes(await gpg.export("good", "other"))
    (keys / "empty.asc").write_bytes(b"")


async def _sign_with_cosign(lab: Lab) -> None:
    keys = lab.directory / "keys"
    env = {
        "COSIGN_PASSWORD": "",
        "COSIGN_EXPERIMENTAL": "1",
        "HOME": str(lab.directory / "home"),
        "DOCKER_CONFIG": str(lab.directory),
    }
    await succeed(COSIGN, "generate-key-pair", "--output-key-prefix", keys / "cosign", env=env)

    async def sign(repository: str, *options: str) -> None:
        await succeed(
            *(COSIGN, "sign", "--key", keys / "cosign.key", "--use-signing-config=false"),
            *("--tlog-upload=false", "--allow-http-registry", "--yes", *options),
            f"{lab.host}/{repository}@{lab.digests[repository]}",
            env=env,
        )

    old = "--new-bundle-format=false"
    for repository in ("os/cosign", "os/quiet"):
        await _push(lab, repository)
        await sign(repository, old)
    await _push(lab, "os/named")
    await sign("os/named", old, f"--sign-container-identity={lab.host}/os/named:v1")
    await _push(lab, "os/bundle")
    await sign("os/bundle")
    await _push(lab, "os/bundlenamed")
    await sign("os/bundlenamed", "-a", f"docker-reference={lab.host}/os/bundlenamed:v1")
    await _push(lab, "os/referred")
    await sign("os/referred", old, "--registry-referrers-mode=oci-1-1")
    # An image published for two platforms; only the index is signed, or only the image inside.
    for repository in ("os/index", "os/instance"):
        parts = [image_of(repository), make_image([make_layer([])], architecture="arm64")]
        index = make_index(parts)
        await lab.registry.push(repository, "v1", index)
        lab.digests[repository] = index.digest if repository == "os/index" else parts[0].digest
        await sign(repository, old)


async def _sign_by_hand(lab: Lab) -> None:
    keys = lab.directory / "keys"
    now = datetime.now(UTC)
    key, log, other_log = new_key(), Log(), Log()
    root, stranger = Issuer("root"), Issuer("stranger")
    between = Issuer("between", above=root, path_length=0)
    (keys / "key.pub").write_bytes(public_pem(key))
    (keys / "log.pub").write_bytes(public_pem(log.key))
    (keys / "otherlog.pub").write_bytes(public_pem(other_log.key))
    (keys / "root.pem").write_bytes(certificate_pem(root.certificate))
    (keys / "stranger.pem").write_bytes(certificate_pem(stranger.certificate))
    (keys / "between.pem").write_bytes(certificate_pem(between.certificate))
    (keys / "broken.pub").write_bytes(b"no key\n")

    async def put(repository: str, make: Any, *, claimed: str = "", of: str = "") -> None:
        digest = await _push(lab, repository)
        content = payload(of or digest, claimed or f"{lab.host}/{repository}:v1")
        made = make(content)
        await attach(lab.registry, repository, digest, *(made if isinstance(made, list) else [made]))

    await _push(lab, "os/unsigned")
    for kind in ("rsa", "ed25519", "p384"):
        its = new_key(kind)
        (keys / f"{kind}.pub").write_bytes(public_pem(its))
        await put(f"os/{kind}", lambda content, its=its: simple(content, its))
    await put("os/key", lambda content: simple(content, key))
    await put("os/moved", lambda content: simple(content, key), claimed=f"{lab.host}/os/key:v1")
    await put("os/tampered", lambda content: simple(content, key), of="sha256:" + "1" * 64)
    await put("os/forged", lambda content: replace(simple(content, key), content=content + b" "))
    await put("os/unannotated", lambda content: replace(simple(content, key), annotations={}))
    await put("os/second", lambda content: [simple(content, new_key()), simple(content, key)])
    await put("os/logged", lambda content: simple(content, key, log=log))
    await put("os/otherlogged", lambda content: simple(content, key, log=other_log))
    await put(
        "os/otherentry",
        lambda content: replace(
            simple(content, key),
            annotations=simple(content, key).annotations
            | {
                "dev.sigstore.cosign/bundle": simple(b"other", key, log=log).annotations[
                    "dev.sigstore.cosign/bundle"
                ]
            },
        ),
    )
    who: dict[str, Any] = {"email": EMAIL, "oidc_issuer": ISSUER}
    ago = now - timedelta(days=2)
    fulcio = root.signer(key, at=ago, **who)
    await put("os/fulcio", lambda content: simple(content, key, certificate=fulcio, log=log, at=ago))
    await put("os/late", lambda content: simple(content, key, certificate=fulcio, log=log, at=now))
    await put("os/nolog", lambda content: simple(content, key, certificate=fulcio))
    chained = between.signer(key, at=now, **who)
    await put(
        "os/chained",
        lambda content: simple(
            content, key, certificate=chained, chain=[between.certificate, root.certificate], log=log
        ),
    )
    somebody = root.signer(key, at=now, email="somebody@example.org", oidc_issuer=ISSUER)
    await put("os/somebody", lambda content: simple(content, key, certificate=somebody, log=log))
    server = root.signer(key, at=now, usage=ExtendedKeyUsageOID.SERVER_AUTH, **who)
    await put("os/server", lambda content: simple(content, key, certificate=server, log=log))
    second = root.signer(key, at=now, email=EMAIL, issuer_v2=ISSUER)
    await put("os/issuerv2", lambda content: simple(content, key, certificate=second, log=log))
    twofold = root.signer(key, at=now, email=EMAIL, oidc_issuer=ISSUER, issuer_v2="https://else.example")
    await put("os/twofold", lambda content: simple(content, key, certificate=twofold, log=log))
    another = root.signer(new_key(), at=now, **who)
    await put("os/notitskey", lambda content: simple(content, key, certificate=another, log=log))
    host = root.signer(key, at=now, email=EMAIL, host="*.build.example.org")
    await put("os/pki", lambda content: simple(content, key, certificate=host))
    await put(
        "os/pkichain",
        lambda content: simple(content, key, certificate=between.signer(key, at=now, email=EMAIL)),
    )
    await put(
        "os/pkiold", lambda content: simple(content, key, certificate=root.signer(key, at=ago, email=EMAIL))
    )


def by_gpg(lab: Lab, key: str = "good.asc", identity: Any = None, **members: Any) -> list[Any]:
    requirement = {"type": "signedBy", "keyType": "GPGKeys"} | (members or {"keyPath": lab.key(key)})
    return [requirement | ({"signedIdentity": identity} if identity else {})]


def by_key(lab: Lab, key: str = "key.pub", identity: Any = None, **members: Any) -> list[Any]:
    requirement = {"type": "sigstoreSigned"} | ({} if "keyPaths" in members else {"keyPath": lab.key(key)})
    return [requirement | members | ({"signedIdentity": identity} if identity else {})]


def by_fulcio(lab: Lab, ca: str = "root.pem", email: str = EMAIL, issuer: str = ISSUER) -> list[Any]:
    fulcio = {"caPath": lab.key(ca), "oidcIssuer": issuer, "subjectEmail": email}
    return [{"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyPath": lab.key("log.pub")}]


def by_pki(lab: Lab, ca: str = "root.pem", **members: Any) -> list[Any]:
    pki = {"caRootsPath": lab.key(ca)} | (members or {"subjectEmail": EMAIL})
    return [{"type": "sigstoreSigned", "pki": pki}]


def cases(lab: Lab) -> dict[str, tuple[str, Any, bool]]:
    """Return image, requirements or scopes of its registry, and whether it is let in, by what is tried."""
    host = lab.host
    exact = {"type": "matchExact"}
    gpg_digest = f"os/gpg@{lab.digests['os/gpg']}"
    to = lambda prefix, signed: {"type": "remapIdentity", "prefix": prefix, "signedPrefix": signed}  # noqa: E731
    return {
        "anything": ("os/unsigned:v1", ACCEPT, True),
        "rejected": ("os/gpg:v1", REJECT, False),
        "anything and nothing": ("os/unsigned:v1", ACCEPT + REJECT, False),
        "most specific scope": (
            "os/unsigned:v1",
            {f"{host}/os/unsigned": ACCEPT, f"{host}/os": REJECT},
            True,
        ),
        "tag is more specific": ("os/unsigned:v1", {f"{host}/os/unsigned:v1": REJECT, host: ACCEPT}, False),
        "namespace": ("os/unsigned:v1", {f"{host}/os": ACCEPT}, True),
        "beside the scope": ("os/unsigned:v1", {f"{host}/o": ACCEPT}, False),
        "wild card": ("os/unsigned:v1", {"*.0.0.1": ACCEPT}, True),
        "wild card with port": ("os/unsigned:v1", {"*.0.0.1:5000": ACCEPT}, False),
        "transport": ("os/unsigned:v1", {"": ACCEPT}, True),
        "signed by skopeo": ("os/gpg:v1", by_gpg(lab), True),
        "signed by skopeo, binary key": ("os/gpg:v1", by_gpg(lab, "good.gpg"), True),
        "key data": ("os/gpg:v1", by_gpg(lab, keyData=lab.data("good.asc")), True),
        "key paths": ("os/gpg:v1", by_gpg(lab, keyPaths=[lab.key("other.asc"), lab.key("good.asc")]), True),
        "no key paths": ("os/gpg:v1", by_gpg(lab, keyPaths=[]), False),
        "several keys in a file": ("os/gpg:v1", by_gpg(lab, "both.asc"), True),
        "wrong key": ("os/gpg:v1", by_gpg(lab, "other.asc"), False),
        "key file missing": ("os/gpg:v1", by_gpg(lab, "missing.asc"), False),
        "key file empty": ("os/gpg:v1", by_gpg(lab, "empty.asc"), False),
        "unsigned": ("os/unsigned:v1", by_gpg(lab), False),
        "expired key": ("os/expired:v1", by_gpg(lab, "expired.asc"), False),
        "revoked key": ("os/revoked:v1", by_gpg(lab, "revoked.asc"), False),
        "third signature": ("os/third:v1", by_gpg(lab), True),
        "junk for signatures": ("os/gpgjunk:v1", by_gpg(lab), False),
        "signature of an unknown form": ("os/future:v1", by_gpg(lab), False),
        "other repository": ("os/gpgmoved:v1", by_gpg(lab), False),
        "other tag": ("os/gpgtag:v1", by_gpg(lab), False),
        "other tag, repository matches": ("os/gpgtag:v1", by_gpg(lab, identity=REPOSITORY), True),
        "other digest": ("os/gpgdigest:v1", by_gpg(lab), False),
        "two requirements": ("os/gpg:v1", by_gpg(lab) + by_gpg(lab, "both.asc"), True),
        "second requirement fails": ("os/gpg:v1", by_gpg(lab) + by_gpg(lab, "other.asc"), False),
        "signed and anything": ("os/gpg:v1", by_gpg(lab) + ACCEPT, True),
        "unsigned and anything": ("os/unsigned:v1", ACCEPT + by_gpg(lab), False),
        "by digest": (gpg_digest, by_gpg(lab), True),
        "by digest, exactly": (gpg_digest, by_gpg(lab, identity=exact), False),
        "exactly": ("os/gpg:v1", by_gpg(lab, identity=exact), True),
        "exact reference": (
            "os/gpgmoved:v1",
            by_gpg(lab, identity={"type": "exactReference", "dockerReference": f"{host}/os/elsewhere:v1"}),
            True,
        ),
        "another exact reference": (
            "os/gpg:v1",
            by_gpg(lab, identity={"type": "exactReference", "dockerReference": f"{host}/os/gpg:v2"}),
            False,
        ),
        "exact repository": (
            "os/gpgmoved:v1",
            by_gpg(lab, identity={"type": "exactRepository", "dockerRepository": f"{host}/os/elsewhere"}),
            True,
        ),
        "remapped": (
            "os/gpgmoved:v1",
            by_gpg(lab, identity=to(f"{host}/os/gpgmoved", f"{host}/os/elsewhere")),
            True,
        ),
        "remapped namespace": ("os/gpg:v1", by_gpg(lab, identity=to(f"{host}/os", "vendor.example")), False),
        "remapped elsewhere": (
            "os/gpg:v1",
            by_gpg(lab, identity=to("vendor.example", "other.example")),
            True,
        ),
        "type of key nobody has": (
            "os/gpg:v1",
            [by_gpg(lab)[0] | {"keyType": "signedByGPGKeys"}],
            False,
        ),
        "base layer": ("os/gpg:v1", [{"type": "signedBaseLayer", "baseLayerIdentity": exact}], False),
        "cosign": ("os/cosign:v1", by_key(lab, "cosign.pub", REPOSITORY), True),
        "cosign, name without tag": ("os/cosign:v1", by_key(lab, "cosign.pub"), False),
        "cosign, named": ("os/named:v1", by_key(lab, "cosign.pub"), True),
        "cosign, not looked for": ("os/quiet:v1", by_key(lab, "cosign.pub", REPOSITORY), False),
        "cosign, wrong key": ("os/cosign:v1", by_key(lab, "key.pub", REPOSITORY), False),
        "cosign, gpg wanted": ("os/cosign:v1", by_gpg(lab), False),
        "gpg, cosign wanted": ("os/gpg:v1", by_key(lab), False),
        "cosign, index signed": ("os/index:v1", by_key(lab, "cosign.pub", REPOSITORY), False),
        "cosign, image of index signed": ("os/instance:v1", by_key(lab, "cosign.pub", REPOSITORY), True),
        "sigstore key": ("os/key:v1", by_key(lab), True),
        "sigstore keys": ("os/key:v1", by_key(lab, keyPaths=[lab.key("rsa.pub"), lab.key("key.pub")]), True),
        "sigstore key no key": ("os/key:v1", by_key(lab, "broken.pub"), False),
        "rsa": ("os/rsa:v1", by_key(lab, "rsa.pub"), True),
        "ed25519": ("os/ed25519:v1", by_key(lab, "ed25519.pub"), True),
        "p384": ("os/p384:v1", by_key(lab, "p384.pub"), True),
        "moved to another repository": ("os/moved:v1", by_key(lab), False),
        "moved to another image": ("os/tampered:v1", by_key(lab), False),
        "forged content": ("os/forged:v1", by_key(lab), False),
        "signature stripped": ("os/unannotated:v1", by_key(lab), False),
        "second counts": ("os/second:v1", by_key(lab), True),
        "logged": ("os/logged:v1", by_key(lab, rekorPublicKeyPath=lab.key("log.pub")), True),
        "logged, not asked for": ("os/logged:v1", by_key(lab), True),
        "not logged": ("os/key:v1", by_key(lab, rekorPublicKeyPath=lab.key("log.pub")), False),
        "logged elsewhere": ("os/otherlogged:v1", by_key(lab, rekorPublicKeyPath=lab.key("log.pub")), False),
        "either log": (
            "os/otherlogged:v1",
            by_key(lab, rekorPublicKeyPaths=[lab.key("log.pub"), lab.key("otherlog.pub")]),
            True,
        ),
        "another's entry": ("os/otherentry:v1", by_key(lab, rekorPublicKeyPath=lab.key("log.pub")), False),
        "fulcio, certificate of then": ("os/fulcio:v1", by_fulcio(lab), True),
        "fulcio, signed too late": ("os/late:v1", by_fulcio(lab), False),
        "fulcio, not logged": ("os/nolog:v1", by_fulcio(lab), False),
        "fulcio, other authority": ("os/fulcio:v1", by_fulcio(lab, "stranger.pem"), False),
        "fulcio, chain": ("os/chained:v1", by_fulcio(lab), True),
        "fulcio, somebody else": ("os/somebody:v1", by_fulcio(lab), False),
        "fulcio, other login": ("os/fulcio:v1", by_fulcio(lab, issuer="https://else.example.org"), False),
        "fulcio, certificate of a server": ("os/server:v1", by_fulcio(lab), False),
        "fulcio, login in new form": ("os/issuerv2:v1", by_fulcio(lab), True),
        "fulcio, two logins": ("os/twofold:v1", by_fulcio(lab), False),
        "fulcio, not its key": ("os/notitskey:v1", by_fulcio(lab), False),
        "pki": ("os/pki:v1", by_pki(lab), True),
        "pki, host": ("os/pki:v1", by_pki(lab, subjectHostname="one.build.example.org"), True),
        "pki, other host": ("os/pki:v1", by_pki(lab, subjectHostname="a.b.build.example.org"), False),
        "pki, host and other address": (
            "os/pki:v1",
            by_pki(lab, subjectHostname="one.build.example.org", subjectEmail="x@example.org"),
            False,
        ),
        "pki, intermediate missing": ("os/pkichain:v1", by_pki(lab), False),
        "pki, intermediate in policy": (
            "os/pkichain:v1",
            by_pki(lab, caIntermediatesPath=lab.key("between.pem"), subjectEmail=EMAIL),
            True,
        ),
        "pki, certificate of yesterday": ("os/pkiold:v1", by_pki(lab), False),
    }


async def test_verdicts_are_those_of_skopeo(lab: Lab, tmp_path: Path) -> None:
    different = {}
    few = asyncio.Semaphore(3)

    async def compare(name: str, number: int, image: str, rules: Any, wanted: bool) -> None:
        scopes = rules if isinstance(rules, dict) else {lab.host: rules}
        root = tmp_path / str(number)
        lab.write(root, json.dumps({"default": REJECT, "transports": {"docker": scopes}}).encode())
        async with few:
            try:
                await lab.ours(f"{lab.host}/{image}", root)
                ours, words = True, ""
            except SignatureRejected as error:
                ours, words = False, error.message
            theirs, output = await lab.skopeo(f"{lab.host}/{image}", root)
        if not ours == theirs == wanted:
            different[name] = (wanted, ours, words, theirs, output)

    table = cases(lab)
    assert len(table) >= 40
    async with asyncio.TaskGroup() as group:
        for number, (name, (image, rules, wanted)) in enumerate(table.items()):
            group.create_task(compare(name, number, image, rules, wanted))
    assert not different


def _scoped(transport: str, scope: str) -> bytes:
    return json.dumps({"default": REJECT, "transports": {transport: {scope: REJECT}}}).encode()


def _signed(**members: Any) -> bytes:
    return json.dumps({"default": [members]}).encode()


def _identity(**members: Any) -> bytes:
    return _signed(type="signedBy", keyType="GPGKeys", keyPath="/a", signedIdentity=members)


_FULCIO = {"caData": "YQ==", "oidcIssuer": "a", "subjectEmail": "b"}
_PKI = {"caRootsData": "YQ==", "subjectEmail": "b"}

MALFORMED = {
    "empty": b"",
    "no default": b'{"transports": {}}',
    "unknown member": b'{"default": [{"type": "insecureAcceptAnything"}], "transport": {}}',
    "unknown type": _signed(type="accept"),
    "unknown member of a requirement": _signed(type="reject", reason="x"),
    "no requirements": b'{"default": []}',
    "twice": b'{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
    "no keys": _signed(type="signedBy", keyType="GPGKeys"),
    "unknown type of keys": _signed(type="signedBy", keyType="SSHKeys", keyPath="/a"),
    "two kinds of keys": _signed(type="sigstoreSigned", keyPath="/a", keyData="YQ=="),
    "keys not base64": _signed(type="sigstoreSigned", keyData="%"),
    "fulcio without log": _signed(type="sigstoreSigned", fulcio=_FULCIO),
    "pki with log": _signed(type="sigstoreSigned", rekorPublicKeyData="YQ==", pki=_PKI),
    "pki of nobody": _signed(type="sigstoreSigned", pki={"caRootsData": "YQ=="}),
    "unknown identity": _identity(type="matchAny"),
    "exact reference to nothing": _identity(type="exactReference", dockerReference="quay.io/a"),
    "prefix that is none": _identity(type="remapIdentity", prefix="quay.io/", signedPrefix="quay.io"),
    "relative directory": _scoped("dir", "a/b"),
    "scope of an archive": _scoped("docker-archive", "/a"),
    "store that is none": _scoped("containers-storage", "quay.io/a"),
}


@pytest.mark.parametrize("name", [*MALFORMED, "missing"])
async def test_malformed_or_missing_policy_lets_nothing_in(lab: Lab, tmp_path: Path, name: str) -> None:
    lab.write(tmp_path, MALFORMED.get(name, b""))
    if name == "missing":
        (tmp_path / "etc/containers/policy.json").unlink()
    image = f"{lab.host}/os/unsigned:v1"
    with pytest.raises(InvalidConfig) as caught:
        await lab.ours(image, tmp_path)
    assert caught.value.fields["path"] == "/etc/containers/policy.json"
    assert caught.value.hint
    assert not (await lab.skopeo(image, tmp_path))[0]


@pytest.mark.parametrize(
    ("transport", "scope", "let_in"),
    [
        ("dir", "/DIRECTORY/image", True),
        ("dir", "/DIRECTORY", True),
        ("dir", "", True),
        ("dir", "/DIRECTORY/ima", False),
        ("oci", "/DIRECTORY/image", True),
        ("oci", "/DIRECTORY", True),
        ("oci", "/DIRECTORY/image:v1", False),
        ("docker", "", False),
    ],
)
async def test_scopes_of_local_images_are_those_of_skopeo(
    lab: Lab, tmp_path: Path, transport: str, scope: str, let_in: bool
) -> None:
    kind = "oci" if transport == "oci" else "dir"
    place = tmp_path / "real"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    source = f"docker://{lab.host}/os/unsigned:v1"
    name = f"{tmp_path}/link/image" + (":v1" if kind == "oci" else "")
    await succeed(SKOPEO, "--insecure-policy", "copy", "--src-tls-verify=false", source, f"{kind}:{name}")
    rules = {transport: {scope.replace("/DIRECTORY", str(place)): ACCEPT}}
    lab.write(tmp_path, json.dumps({"default": REJECT, "transports": rules}).encode())
    policy = look_up(load_policy(tmp_path), parse_tracked_image(f"ostree-unverified-image:{kind}:{name}"))
    code, output = await run(
        *(SKOPEO, "--policy", tmp_path / "etc/containers/policy.json", "copy", "--quiet"),
        *(f"{kind}:{name}", f"dir:{tmp_path}/out"),
    )
    assert (code == 0) is let_in, output
    assert all(isinstance(requirement, AcceptAnything) for requirement in policy.requirements) is let_in


@pytest.mark.parametrize("kind", ["gpg", "cosign"])
async def test_signatures_kept_in_a_directory_count_as_for_skopeo(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    identity = {"type": "exactRepository", "dockerRepository": f"{lab.host}/os/{kind}"}
    rules = by_gpg(lab, identity=identity) if kind == "gpg" else by_key(lab, "cosign.pub", identity)
    document = {"default": REJECT, "transports": {"dir": {"": rules}, "docker": {"": ACCEPT}}}
    lab.write(tmp_path, json.dumps(document).encode())
    configured = (
        *("--policy", tmp_path / "etc/containers/policy.json"),
        *("--registries.d", tmp_path / "etc/containers/registries.d"),
    )
    source = f"docker://{lab.host}/os/{kind}:v1"
    await succeed(SKOPEO, *configured, "copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/image")
    tracked = parse_tracked_image(f"ostree-unverified-image:dir:{tmp_path}/image")
    settings = WorkerSettings(containers_root=str(tmp_path))

    async def ours() -> Verdict:
        async with open_source(tracked, settings) as opened:
            resolved = await opened.resolve(architecture="amd64")
            return await Trust(settings, SystemClock()).judge(tracked, opened, resolved)

    assert (await ours()).identity.startswith(f"{lab.host}/os/{kind}")
    assert (await run(SKOPEO, *configured, "copy", f"dir:{tmp_path}/image", f"dir:{tmp_path}/out"))[0] == 0
    (tmp_path / "image/signature-1").unlink()
    with pytest.raises(SignatureRejected, match="no signature"):
        await ours()
    assert (await run(SKOPEO, *configured, "copy", f"dir:{tmp_path}/image", f"dir:{tmp_path}/out"))[0] != 0


async def judge(lab: Lab, root: Path, image: str, rules: list[Any], **options: Any) -> Verdict:
    document = {"default": REJECT, "transports": {"docker": {lab.host: rules}}}
    lab.write(root, json.dumps(document).encode())
    return await lab.ours(f"{lab.host}/{image}:v1", root, **options)


async def test_verdict_says_who_signed_what_and_when(lab: Lab, tmp_path: Path) -> None:
    verdict = await judge(lab, tmp_path, "os/gpg", by_gpg(lab))
    assert (verdict.method, verdict.identity) == ("gpg", f"{lab.host}/os/gpg:v1")
    assert verdict.scope == f"docker {lab.host}"
    assert len(verdict.key) == 40
    assert verdict.time is not None
    assert datetime.now(UTC) - verdict.time < timedelta(minutes=10)

    verdict = await judge(lab, tmp_path, "os/fulcio", by_fulcio(lab))
    assert (verdict.method, verdict.signer) == ("fulcio", EMAIL)
    assert verdict.time is not None
    assert datetime.now(UTC) - verdict.time > timedelta(days=1)
    assert verdict.verified

    verdict = await judge(lab, tmp_path, "os/unsigned", ACCEPT)
    assert verdict == Verdict(scope=f"docker {lab.host}")
    assert not verdict.verified


async def test_rejection_says_which_scope_and_requirement_denied(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(SignatureRejected) as caught:
        await judge(lab, tmp_path, "os/gpgmoved", ACCEPT + by_gpg(lab))
    error = caught.value
    assert error.fields["scope"] == f"docker {lab.host}"
    assert error.fields["requirement"] == "signedBy"
    assert f"{lab.host}/os/elsewhere:v1" in error.message


# What skopeo does not read yet: signatures attached as OCI 1.1 referrers.


async def test_simple_signature_attached_as_referrer_counts(lab: Lab, tmp_path: Path) -> None:
    verdict = await judge(lab, tmp_path, "os/referred", by_key(lab, "cosign.pub", REPOSITORY))
    assert verdict.identity == f"{lab.host}/os/referred"


async def test_bundle_of_cosign_that_names_the_image_counts(lab: Lab, tmp_path: Path) -> None:
    verdict = await judge(lab, tmp_path, "os/bundlenamed", by_key(lab, "cosign.pub"))
    assert (verdict.method, verdict.identity) == ("key", f"{lab.host}/os/bundlenamed:v1")
    with pytest.raises(SignatureRejected, match="none of the policy's keys"):
        await judge(lab, tmp_path, "os/bundlenamed", by_key(lab))
    elsewhere = {"type": "exactRepository", "dockerRepository": "vendor.example/os"}
    with pytest.raises(SignatureRejected, match="not what exactRepository"):
        await judge(lab, tmp_path, "os/bundlenamed", by_key(lab, "cosign.pub", elsewhere))


async def test_bundle_of_cosign_that_names_no_image_counts_only_where_the_host_says_so(
    lab: Lab, tmp_path: Path
) -> None:
    rules = by_key(lab, "cosign.pub", REPOSITORY)
    with pytest.raises(SignatureRejected, match="names no image") as caught:
        await judge(lab, tmp_path, "os/bundle", rules)
    assert "accept-unnamed-signatures" in caught.value.hint
    assert (await judge(lab, tmp_path, "os/bundle", rules, accept_unnamed_signatures=True)).identity == ""
    with pytest.raises(SignatureRejected, match="none of the policy's keys"):
        await judge(lab, tmp_path, "os/bundle", by_key(lab), accept_unnamed_signatures=True)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
async def test_bundle_by_a_key_of_any_kind_counts(lab: Lab, tmp_path: Path, kind: str) -> None:
    key, repository = new_key(kind), f"os/bundle-{kind}"
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    digest = await _push(lab, repository)
    await refer(
        lab.registry, repository, digest, bundle(statement(digest, f"{lab.host}/{repository}:v1"), key)
    )
    rules = [{"type": "sigstoreSigned", "keyPath": str(tmp_path / "key.pub")}]
    assert (await judge(lab, tmp_path, repository, rules)).method == "key"


async def test_bundle_with_certificate_counts_when_log_and_authority_vouch(lab: Lab, tmp_path: Path) -> None:
    key, root, log, now = new_key(), Issuer("bundle root"), Log(), datetime.now(UTC)
    (lab.directory / "keys/bundleroot.pem").write_bytes(certificate_pem(root.certificate))
    (lab.directory / "keys/bundlelog.pub").write_bytes(public_pem(log.key))
    digest = await _push(lab, "os/bundlefulcio")
    content = statement(digest, f"{lab.host}/os/bundlefulcio:v1")
    certificate = root.signer(key, email=EMAIL, oidc_issuer=ISSUER, at=now)
    rules = by_fulcio(lab, "bundleroot.pem")
    rules[0]["rekorPublicKeyPath"] = lab.key("bundlelog.pub")
    signed = bundle(content, key, certificate=certificate, log=log, at=now)
    await refer(lab.registry, "os/bundlefulcio", digest, signed)
    assert (await judge(lab, tmp_path, "os/bundlefulcio", rules)).signer == EMAIL

    late = bundle(content, key, certificate=certificate, log=log, at=now + timedelta(days=1))
    await refer(lab.registry, "os/bundlefulcio", digest, late)
    with pytest.raises(SignatureRejected, match="not valid when it signed"):
        await judge(lab, tmp_path, "os/bundlefulcio", rules)

    await refer(lab.registry, "os/bundlefulcio", digest, bundle(content, key, certificate=certificate))
    with pytest.raises(SignatureRejected, match="without the promise of a log"):
        await judge(lab, tmp_path, "os/bundlefulcio", rules)


async def test_attestation_by_the_right_key_is_no_signature(lab: Lab, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "key.pub").write_bytes(public_pem(key))
    rules = [{"type": "sigstoreSigned", "keyPath": str(tmp_path / "key.pub")}]
    digest = await _push(lab, "os/attested")
    name = f"{lab.host}/os/attested:v1"
    attested = statement(digest, name, "https://slsa.dev/provenance/v1")
    await refer(lab.registry, "os/attested", digest, bundle(attested, key))
    with pytest.raises(SignatureRejected, match="attests something else"):
        await judge(lab, tmp_path, "os/attested", rules)
    other = bundle(statement("sha256:" + "0" * 64, name), key)
    await refer(lab.registry, "os/attested", digest, other, bundle(attested, key))
    with pytest.raises(SignatureRejected, match="of another manifest"):
        await judge(lab, tmp_path, "os/attested", rules)


async def test_enforced_origin_refuses_a_scope_that_accepts_anything(lab: Lab, tmp_path: Path) -> None:
    signed = "ostree-image-signed"
    with pytest.raises(SignatureRejected, match="accepts anything") as caught:
        await judge(lab, tmp_path, "os/gpg", ACCEPT, origin=signed)
    assert caught.value.fields["requirement"] == "insecureAcceptAnything"
    assert (await judge(lab, tmp_path, "os/gpg", by_gpg(lab), origin=signed)).verified
