"""Images made from an ostree commit that a key of an ostree remote has to have signed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.model.errors import SignatureRejected
from bootcd.model.trust import Verdict
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.importer import Importer, ImportResult
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.metadata import TRUST
from bootcd.ostreefmt.refs import image_ref
from tests.adapter.ostree.conftest import NOW, blobs_of, image_of, ostree, run_import
from tests.adapter.ostree.test_chunked import Source
from tests.support.chunked_image import find_object, object_entry
from tests.support.oci_image import Image, file, make_image, make_layer
from tests.support.signing import Gpg

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

REFERENCE = "docker://registry.example/os:1"
UNSIGNED = Verdict(scope="default")
SIGNED = Verdict(scope="docker registry.example", method="key", key="abc")


@pytest.fixture
async def keyring(tmp_path: Path) -> AsyncIterator[Gpg]:
    async with Gpg(tmp_path / "gpg") as made:
        await made.make_key("right")
        await made.make_key("wrong")
        yield made


@pytest.fixture
async def signed(keyring: Gpg, tmp_path: Path) -> Image:
    return await made_by("right", keyring, Source(tmp_path))


async def made_by(name: str, keyring: Gpg, source: Source) -> Image:
    key = await keyring.fingerprint(name)
    return source.encapsulate(f"--gpg-sign={key}", f"--gpg-homedir={keyring.home}").image()


async def trust(repository: Repository, keyring: Gpg, tmp_path: Path, *, verify: bool = True) -> None:
    (tmp_path / "key.gpg").write_bytes(await keyring.export("right", armor=False))
    options = [
        "--set=gpg-verify=true" if verify else "--no-gpg-verify",
        f"--gpg-import={tmp_path / 'key.gpg'}",
    ]
    command = [
        "ostree",
        f"--repo={repository.path}",
        "remote",
        "add",
        *options,
        "vendor",
        "https://vendor.invalid",
    ]
    subprocess.run(command, check=True)
    repository.repo.reload_config(None)


async def take(repository: Repository, image: Image, verdict: Verdict | None = None) -> ImportResult:
    importer = Importer(repository, parallel=2, memory_bytes=16 << 20, now=NOW)
    wanted = replace(image_of(image, REFERENCE), remote="vendor", verdict=verdict)
    return await importer.run(wanted, blobs_of(image), ImportProgress())


async def refused(repository: Repository, image: Image) -> None:
    with pytest.raises(SignatureRejected, match="ostree remote vendor"):
        await take(repository, image)
    assert repository.resolve(image_ref(REFERENCE)) is None
    ostree(repository, "fsck")


async def test_commit_signed_with_a_key_of_the_remote_is_taken(
    repository: Repository, keyring: Gpg, signed: Image, tmp_path: Path
) -> None:
    await trust(repository, keyring, tmp_path)
    result = await take(repository, signed, UNSIGNED)
    assert repository.resolve(image_ref(REFERENCE)) == result.commit
    assert result.verdict is not None
    assert result.verdict.verified
    assert result.verdict.scope == "ostree remote vendor"
    assert result.verdict.key == await keyring.fingerprint("right")
    stored = ostree(repository, "show", f"--print-metadata-key={TRUST}", result.commit)
    assert result.verdict.key in stored


async def test_signature_of_the_whole_image_counts_for_more(
    repository: Repository, keyring: Gpg, signed: Image, tmp_path: Path
) -> None:
    await trust(repository, keyring, tmp_path)
    assert (await take(repository, signed, SIGNED)).verdict == SIGNED


async def test_layers_on_top_of_the_commit_have_to_be_signed_otherwise(
    repository: Repository, keyring: Gpg, tmp_path: Path
) -> None:
    await trust(repository, keyring, tmp_path)
    key = await keyring.fingerprint("right")
    chunked = Source(tmp_path).encapsulate(f"--gpg-sign={key}", f"--gpg-homedir={keyring.home}")
    derived = chunked.image(derived=[make_layer([file("usr/bin/added", b"added")])])
    await refused(repository, derived)
    assert (await take(repository, derived, SIGNED)).verdict == SIGNED


async def test_commit_in_the_layer_cache_is_verified_too(
    repository: Repository, keyring: Gpg, tmp_path: Path
) -> None:
    wrong = await made_by("wrong", keyring, Source(tmp_path))
    await run_import(repository, wrong, reference="docker://registry.example/other:1")
    await trust(repository, keyring, tmp_path)
    await refused(repository, wrong)


async def test_commit_signed_with_another_key_is_refused(
    repository: Repository, keyring: Gpg, tmp_path: Path
) -> None:
    await trust(repository, keyring, tmp_path)
    await refused(repository, await made_by("wrong", keyring, Source(tmp_path)))


async def test_commit_without_a_signature_is_refused(
    repository: Repository, keyring: Gpg, tmp_path: Path
) -> None:
    await trust(repository, keyring, tmp_path)
    await refused(repository, Source(tmp_path).encapsulate().image())


async def test_signature_of_another_commit_is_refused(
    repository: Repository, keyring: Gpg, tmp_path: Path
) -> None:
    source = Source(tmp_path)
    key = await keyring.fingerprint("right")
    genuine = source.encapsulate(f"--gpg-sign={key}", f"--gpg-homedir={keyring.home}")
    signature = genuine.layers[0][find_object(genuine.layers[0], "commitmeta")].content
    source.write("usr/bin/tool", b"not what was signed")
    forged = source.encapsulate()
    place = find_object(forged.layers[0], "commit") + 1
    forged.layers[0].insert(place, object_entry(forged.commit, "commitmeta", signature))
    await trust(repository, keyring, tmp_path)
    await refused(repository, forged.image())


@pytest.mark.parametrize("known", [False, True], ids=["unknown remote", "remote without verification"])
async def test_remote_that_verifies_nothing_lets_nothing_in(
    repository: Repository, keyring: Gpg, signed: Image, tmp_path: Path, known: bool
) -> None:
    if known:
        await trust(repository, keyring, tmp_path, verify=False)
    await refused(repository, signed)


async def test_image_without_a_commit_is_refused_before_anything_is_fetched(repository: Repository) -> None:
    image = make_image([make_layer([file("usr/bin/tool", b"")])])
    opened: list[str] = []
    importer = Importer(repository, parallel=2, memory_bytes=16 << 20, now=NOW)
    wanted = replace(image_of(image, REFERENCE), remote="vendor")
    with pytest.raises(SignatureRejected, match="holds no ostree commit"):
        await importer.run(wanted, blobs_of(image, opened=opened), ImportProgress())
    assert opened == []
