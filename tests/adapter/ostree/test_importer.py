"""An image's way into a real repository, seen with ostree's own eyes."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    InvalidLayer,
    InvalidManifest,
    NotBootable,
    OutOfSpace,
    Truncated,
)
from bootcd.oci.manifest import Descriptor
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import blob_ref, image_ref
from tests.adapter.ostree.conftest import blobs_of, checkout, ostree, run_import
from tests.support.oci_image import (
    Entry,
    Layer,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    symlink,
    whiteout,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

WAIT_SECS = 60

REFERENCE = "docker://registry.example/os:1"

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"cap_net_raw=ep, as capabilities(7) stores it."

XATTRS = {"user.b": b"2", "user.a": b"\x00\xff", "security.capability": CAPABILITY}

KERNEL = [
    directory("usr"),
    directory("usr/lib"),
    directory("usr/lib/modules"),
    directory("usr/lib/modules/6.1"),
    file("usr/lib/modules/6.1/vmlinuz", b"kernel"),
    file("usr/lib/modules/6.1/initramfs.img", b"initramfs"),
    file("usr/lib/os-release", b"ID=test\nPRETTY_NAME=Test\n"),
    directory("etc"),
    file("etc/hosts", b"127.0.0.1 localhost\n"),
]


def base(*more: Entry, **options: object) -> Layer:
    return make_layer([*KERNEL, *more], **options)  # type: ignore[arg-type]


async def imported(repository: Repository, tmp_path: Path, *layers: Layer) -> Path:
    """Import an image of these layers, have ostree check the repository, check the image out."""
    await run_import(repository, make_image(layers))
    ostree(repository, "fsck")
    return checkout(repository, image_ref(REFERENCE), tmp_path / "tree")


async def test_import_of_every_kind_of_entry_keeps_all_attributes(
    repository: Repository, tmp_path: Path
) -> None:
    tree = await imported(
        repository,
        tmp_path,
        base(
            file("usr/bin/plain", b"x", mode=0o755),
            file("usr/bin/setuid", b"s", mode=0o4755, uid=1, gid=2),
            file("usr/bin/empty", b""),
            file("usr/bin/big", b"0123456789abcdef" * (3 << 16)),
            directory("usr/share/sticky", mode=0o1777, uid=3, gid=4, xattrs={"user.d": b"dir"}),
            file(
                "usr/share/x",
                b"x",
                xattrs={"user.b": b"2", "user.a": b"\x00\xff", "security.capability": CAPABILITY},
            ),
            symlink("usr/bin/link", "../share/x", uid=5, gid=6),
            hardlink("usr/bin/hard", "usr/bin/plain"),
            file("etc/conf.d/ä-non-ascii", b"n"),
            file("usr/share/" + "long-" * 40 + "/" + "name-" * 40, b"l"),
        ),
    )
    assert (tree / "usr/bin/setuid").stat().st_mode & 0o7777 == 0o4755
    assert owner(tree / "usr/bin/setuid") == (1, 2)
    assert (tree / "usr/bin/big").read_bytes() == b"0123456789abcdef" * (3 << 16)
    assert (tree / "usr/bin/empty").read_bytes() == b""
    sticky = (tree / "usr/share/sticky").stat()
    assert (stat.S_IMODE(sticky.st_mode), sticky.st_uid, sticky.st_gid) == (0o1777, 3, 4)
    assert os.getxattr(tree / "usr/share/sticky", "user.d") == b"dir"
    assert os.getxattr(tree / "usr/share/x", "user.a") == b"\x00\xff"
    assert os.getxattr(tree / "usr/share/x", "user.b") == b"2"
    assert os.getxattr(tree / "usr/share/x", "security.capability") == CAPABILITY
    assert (tree / "usr/bin/link").readlink() == Path("../share/x")
    assert owner(tree / "usr/bin/link") == (5, 6)
    assert (tree / "usr/bin/hard").read_bytes() == b"x"
    assert (tree / "usr/etc/conf.d/ä-non-ascii").read_bytes() == b"n"
    assert (tree / "usr/share" / ("long-" * 40) / ("name-" * 40)).read_bytes() == b"l"


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_import_of_each_compression_gives_the_same_tree(
    repository: Repository, tmp_path: Path, compression: str
) -> None:
    tree = await imported(repository, tmp_path, base(compression=compression))
    assert (tree / "usr/etc/hosts").read_bytes() == b"127.0.0.1 localhost\n"


async def test_image_of_docker_media_types_gives_the_same_tree(
    repository: Repository, tmp_path: Path
) -> None:
    await run_import(repository, make_image([base(), base(file("usr/b", b"2"))], docker=True))
    ostree(repository, "fsck")
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert (tree / "usr/etc/hosts").read_bytes() == b"127.0.0.1 localhost\n"
    assert (tree / "usr/b").read_bytes() == b"2"


async def test_hard_links_and_long_names_below_etc_go_with_it(repository: Repository, tmp_path: Path) -> None:
    long = "etc/" + "ä-long-" * 20 + "/" + "ö-name-" * 20
    tree = await imported(
        repository,
        tmp_path,
        base(
            file("etc/first", b"x", mode=0o600),
            hardlink("etc/second", "etc/first"),
            hardlink("./etc/third", "./etc/second"),
            hardlink("usr/share/copy", "etc/first"),
            file(long, b"l"),
            hardlink(f"{long}-too", long),
        ),
    )
    for name in ("usr/etc/first", "usr/etc/second", "usr/etc/third", "usr/share/copy"):
        assert (tree / name).read_bytes() == b"x", name
        assert stat.S_IMODE((tree / name).stat().st_mode) == 0o600, name
    assert (tree / "usr" / long).read_bytes() == b"l"
    assert (tree / "usr" / f"{long}-too").read_bytes() == b"l"
    assert not (tree / "etc").exists()


async def test_whiteouts_hide_what_lower_layers_have(repository: Repository, tmp_path: Path) -> None:
    tree = await imported(
        repository,
        tmp_path,
        base(
            file("usr/a/gone", b"1"),
            file("usr/a/kept", b"1"),
            file("usr/tree/x/y", b"1"),
            file("usr/opaque/old", b"1"),
            file("usr/opaque/sub/old", b"1"),
            file("usr/becomes-dir", b"1"),
            file("usr/becomes-file/x", b"1"),
            file("etc/gone", b"1"),
        ),
        make_layer(
            [
                whiteout("usr/a/gone"),
                whiteout("usr/tree"),
                file("usr/opaque/new", b"2"),
                opaque("usr/opaque"),
                file("usr/becomes-dir/inside", b"2"),
                file("usr/becomes-file", b"2"),
                whiteout("etc/gone"),
                # A layer may remove and bring back in one step.
                whiteout("usr/a/kept"),
                file("usr/a/kept", b"2"),
            ]
        ),
    )
    assert not (tree / "usr/a/gone").exists()
    assert (tree / "usr/a/kept").read_bytes() == b"2"
    assert not (tree / "usr/tree").exists()
    assert os.listdir(tree / "usr/opaque") == ["new"]
    assert (tree / "usr/becomes-dir/inside").read_bytes() == b"2"
    assert (tree / "usr/becomes-file").read_bytes() == b"2"
    assert not (tree / "usr/etc/gone").exists()
    assert not [name for _, _, names in os.walk(tree) for name in names if name.startswith(".wh.")]


async def test_whiteouts_stay_in_the_commit_of_their_layer(repository: Repository, tmp_path: Path) -> None:
    layers = [base(file("usr/x", b"1")), make_layer([whiteout("usr/x")])]
    await imported(repository, tmp_path, *layers)
    listing = ostree(repository, "ls", "-R", blob_ref(layers[1].digest))
    assert "/usr/.wh.x" in listing


async def test_directory_attributes_come_from_the_last_layer_that_lists_it(
    repository: Repository, tmp_path: Path
) -> None:
    tree = await imported(
        repository,
        tmp_path,
        base(directory("usr/listed", mode=0o1777), directory("usr/implied", mode=0o700, uid=7, gid=7)),
        make_layer([directory("usr/listed", mode=0o750), file("usr/implied/file", b"x")]),
    )
    assert stat.S_IMODE((tree / "usr/listed").stat().st_mode) == 0o750
    implied = (tree / "usr/implied").stat()
    assert (stat.S_IMODE(implied.st_mode), implied.st_uid) == (0o700, 7)


async def test_cached_layers_give_the_same_commit_as_fetched_ones(
    repository: Repository, tmp_path: Path
) -> None:
    layers = [
        base(directory("usr/implied", mode=0o700)),
        make_layer([file("usr/implied/file", b"x"), whiteout("etc/hosts")]),
    ]
    image = make_image(layers)
    first = await run_import(repository, image)
    opened: list[str] = []
    progress = ImportProgress()
    second = await run_import(repository, image, open_blob=blobs_of(image, opened=opened), progress=progress)
    assert second.commit == first.commit
    assert opened == []
    assert progress.bytes_cached == sum(len(layer.blob) for layer in layers)


async def test_only_missing_layers_are_fetched(repository: Repository) -> None:
    shared, old, new = base(), make_layer([file("usr/v", b"1")]), make_layer([file("usr/v", b"2")])
    await run_import(repository, make_image([shared, old]))
    opened: list[str] = []
    image = make_image([shared, new])
    result = await run_import(repository, image, open_blob=blobs_of(image, opened=opened))
    assert opened == [new.digest]
    assert result.bytes_fetched == len(new.blob)


async def test_layer_used_twice_is_fetched_once(repository: Repository, tmp_path: Path) -> None:
    layer = make_layer([file("usr/v", b"1")])
    image = make_image([base(), layer, make_layer([whiteout("usr/v")]), layer])
    opened: list[str] = []
    await run_import(repository, image, open_blob=blobs_of(image, opened=opened))
    assert sorted(opened) == sorted({layer.digest for layer in image.layers})
    assert (checkout(repository, image_ref(REFERENCE), tmp_path / "t") / "usr/v").read_bytes() == b"1"


async def test_entries_a_host_cannot_hold_are_left_out(repository: Repository, tmp_path: Path) -> None:
    tree = await imported(
        repository,
        tmp_path,
        base(
            file("run/secret", b"x"),
            file("tmp/x", b"x"),
            directory("proc"),
            file("proc/x", b"x"),
            Entry("usr/fifo", "fifo"),
            Entry("usr/null", "char", device=(1, 3)),
            file("usr/labelled", b"x", xattrs={"security.selinux": b"system_u:object_r:bin_t:s0\0"}),
        ),
    )
    for path in ("run/secret", "tmp/x", "proc/x", "usr/fifo", "usr/null"):
        assert not (tree / path).exists(), path
    assert (tree / "proc").is_dir()
    assert "security.selinux" not in os.listxattr(tree / "usr/labelled")


@pytest.mark.parametrize("content", [b"", b"kept\n"], ids=["empty", "filled"])
async def test_empty_hostname_and_resolv_conf_of_a_container_build_are_dropped(
    repository: Repository, tmp_path: Path, content: bytes
) -> None:
    tree = await imported(
        repository, tmp_path, base(file("etc/hostname", content), file("etc/resolv.conf", content))
    )
    assert (tree / "usr/etc/hostname").exists() is bool(content)
    assert (tree / "usr/etc/resolv.conf").exists() is bool(content)


BROKEN = {
    "parent": [file("usr/../../etc/passwd", b"x")],
    "hardlink-to-nothing": [hardlink("usr/h", "usr/missing")],
    "hardlink-outside": [hardlink("usr/h", "../../../etc/shadow")],
    "name-not-utf-8": [file("etc/\udcff", b"x")],
    "file-as-etc": [file("etc", b"x")],
    "usr-as-link": [symlink("usr", "/tmp")],
}


@pytest.mark.parametrize("entries", BROKEN.values(), ids=BROKEN.keys())
async def test_hostile_layer_is_refused_and_nothing_changes(
    repository: Repository, entries: list[Entry]
) -> None:
    with pytest.raises(InvalidLayer):
        await run_import(repository, make_image([base(), make_layer(entries)]))
    assert_untouched(repository)


def assert_untouched(repository: Repository) -> None:
    assert image_ref(REFERENCE) not in ostree(repository, "refs", "--list").split()
    ostree(repository, "fsck")
    assert not list((repository.path / "tmp").glob("bootcd-stage-*"))


@pytest.mark.parametrize("cut", [1, 100, -1])
async def test_layer_that_ends_early_is_refused(repository: Repository, cut: int) -> None:
    whole = base()
    layer = Layer(whole.blob[:cut], whole.diff_id, whole.compression)
    with pytest.raises((InvalidLayer, DigestMismatch)):
        await run_import(repository, make_image([layer]))
    assert_untouched(repository)


async def test_layer_with_another_content_than_the_config_says_is_refused(repository: Repository) -> None:
    whole, other = base(), base(file("usr/evil", b"x"))
    with pytest.raises(DigestMismatch, match=whole.diff_id):
        await run_import(repository, make_image([Layer(other.blob, whole.diff_id, "gzip")]))
    assert_untouched(repository)


async def test_bomb_is_refused(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootcd.ostree.layer.BOMB_FLOOR_BYTES", 1 << 20)
    layer = make_layer([*KERNEL, file("usr/zeros", bytes(64 << 20))], compression="zstd")
    with pytest.raises(InvalidLayer, match="unpacks to more than"):
        await run_import(repository, make_image([layer]))
    assert_untouched(repository)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (make_image([make_layer([file("usr/x")])]), NotBootable),
        (make_image([base(file("usr/lib/modules/6.2/vmlinuz", b"k"))]), NotBootable),
        (make_image([base()], config_changes={"config": {"Labels": {}}}), NotBootable),
        (make_image([base()], labels={"ostree.final-diffid": "sha256:" + "0" * 64}), InvalidManifest),
    ],
    ids=["no-kernel", "two-kernels", "no-label", "stale-label"],
)
async def test_image_that_would_not_boot_is_refused(
    repository: Repository, image: object, error: type[BootcdError]
) -> None:
    with pytest.raises(error):
        await run_import(repository, image)  # type: ignore[arg-type]
    assert_untouched(repository)


async def test_failing_download_stops_the_import_and_keeps_its_error(repository: Repository) -> None:
    image = make_image([base(), make_layer([file("usr/x", os.urandom(1 << 20))])])
    good = blobs_of(image, chunk=1000)

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        count = 0
        async for chunk in good(layer):
            count += 1
            if layer.digest == image.layers[1].digest and count == 5:
                raise Truncated("the connection was cut", registry="registry.example")
            yield chunk

    with pytest.raises(Truncated, match="the connection was cut"):
        await run_import(repository, image, open_blob=open_blob)
    assert_untouched(repository)
    await run_import(repository, image)


async def test_layer_that_arrives_slowly_does_not_hold_up_the_others(repository: Repository) -> None:
    """Of two side by side, one comes to its end when all others have come to theirs, one after another."""
    image = make_image([base(), *(make_layer([file(f"usr/{n}", os.urandom(2 << 20))]) for n in range(3))])
    slow = image.layers[1].digest
    others = {layer.digest for layer in image.layers} - {slow}
    arrived = asyncio.Event()

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        data = image.blobs[layer.digest]
        yield data[:-10]
        if layer.digest == slow:
            await arrived.wait()
        yield data[-10:]
        others.discard(layer.digest)
        if not others:
            arrived.set()

    async with asyncio.timeout(WAIT_SECS):
        await run_import(repository, image, open_blob=open_blob)


async def test_cancelled_import_leaves_nothing_behind(repository: Repository) -> None:
    image = make_image([base()])
    reached = asyncio.Event()

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        yield image.blobs[layer.digest][:50]
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_import(repository, image, open_blob=open_blob))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_untouched(repository)


async def test_import_that_does_not_fit_says_how_much_is_missing(repository: Repository) -> None:
    ostree(repository, "config", "set", "core.min-free-space-size", "900TB")
    reopened = Repository.open(repository.path)
    with pytest.raises(OutOfSpace) as caught:
        await run_import(reopened, make_image([base()]))
    assert caught.value.fields["needed_bytes"]
    assert_untouched(repository)


async def test_merge_commit_carries_what_bootc_reads(repository: Repository) -> None:
    image = make_image([base()], created="2024-05-06T07:08:09Z")
    result = await run_import(repository, image)
    metadata = repository.commit_metadata(result.commit)
    assert metadata["ostree.manifest-digest"] == image.digest
    assert metadata["ostree.manifest"] == image.manifest.decode()
    assert metadata["ostree.container.image-config"] == image.config.decode()
    shown = ostree(repository, "show", result.commit)
    assert "Date:  2024-05-06 07:08:09 +0000" in shown
    refs = ostree(repository, "refs", "--list").split()
    assert set(refs) == {image_ref(REFERENCE), blob_ref(image.layers[0].digest)}


async def test_file_of_many_chunks_arrives_whole(repository: Repository, tmp_path: Path) -> None:
    content = os.urandom(1 << 16) * (48 << 4)  # 48 MiB
    tree = await imported(
        repository, tmp_path, base(file("usr/large", content, mode=0o600), compression="zstd")
    )
    assert (tree / "usr/large").read_bytes() == content
