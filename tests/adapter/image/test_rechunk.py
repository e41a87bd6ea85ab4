"""Images rechunked by the real command: the same system in other layers, and less to download."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bootcd.image import rechunk as rechunking
from bootcd.image.__main__ import main
from bootcd.image.layout import LayoutWriter
from bootcd.image.rechunk import COMPONENTS
from bootcd.oci.chunked import FRAME_HEADER_BYTES, Table, layer_layout
from bootcd.oci.resolve import digest_of
from bootcd.ostree.libostree import OSTree
from bootcd.ostreefmt.refs import image_ref
from tests.adapter.ostree.conftest import checkout, new_repository, ostree, run_import
from tests.support import oci_image
from tests.support.image_layout import OsImages
from tests.support.oci_image import (
    Entry,
    Image,
    directory,
    file,
    hardlink,
    make_image,
    make_index,
    make_layer,
    opaque,
    symlink,
    whiteout,
)
from tests.support.oci_layout import REF_NAME, blob_path, write_layout
from tests.support.registry import Registry
from tests.support.tree import Tree, deployed, differences, flatten, scan_tree

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
LONG = "/".join(["n" * 200, "m" * 200])
INFO = "var/lib/dpkg/info"
BASE = [
    *(directory(name) for name in ("usr", "usr/bin", "usr/lib", "usr/lib/modules", "usr/lib/modules/6.1")),
    file("usr/lib/modules/6.1/vmlinuz", b"kernel"),
    file("usr/lib/modules/6.1/initramfs.img", b"initramfs"),
    file("usr/lib/os-release", b"ID=test\n"),
    directory("etc"),
    directory("var"),
    directory("dev"),
    symlink("bin", "usr/bin"),
]


def database(packages: Mapping[str, Iterable[str]], sources: Mapping[str, str] | None = None) -> list[Entry]:
    """Return what dpkg knows of packages and their files."""
    status = ""
    entries = []
    for name, paths in packages.items():
        source = f"Source: {sources[name]}\n" if sources and name in sources else ""
        status += f"Package: {name}\nStatus: install ok installed\n{source}Version: 1\n\n"
        listed = "".join(f"/{path}\n" for path in paths)
        entries.append(file(f"{INFO}/{name}.list", f"/.\n{listed}".encode()))
    return [directory(INFO), file("var/lib/dpkg/status", status.encode()), *entries]


def rechunk(tmp_path: Path, source: str, target: str, *options: str, status: int = 0) -> None:
    assert main(["rechunk", "--level=1", f"--spool-dir={tmp_path}", *options, source, target]) == status


def manifest_of(layout: Path, tag: str = "1") -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    (digest,) = {entry["digest"] for entry in index["manifests"] if entry["annotations"].get(REF_NAME) == tag}
    return dict(json.loads(blob_path(layout, digest).read_text()))


def config_of(layout: Path, tag: str = "1") -> dict[str, Any]:
    return dict(json.loads(blob_path(layout, manifest_of(layout, tag)["config"]["digest"]).read_text()))


def archives(layout: Path, tag: str = "1") -> list[tarfile.TarFile]:
    """Open the layers, each of which has to have the digests that manifest and config say."""
    opened = []
    layers, diff_ids = manifest_of(layout, tag)["layers"], config_of(layout, tag)["rootfs"]["diff_ids"]
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        blob = blob_path(layout, layer["digest"]).read_bytes()
        assert (len(blob), digest_of(blob)) == (layer["size"], layer["digest"])
        plain = unpacked(blob)
        assert digest_of(plain) == diff_id
        opened.append(tarfile.TarFile(fileobj=io.BytesIO(plain)))
    return opened


def unpacked(blob: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob), read_across_frames=True)
    return bytes(reader.read())


def components(layout: Path, tag: str = "1") -> list[list[str] | None]:
    return [
        json.loads(layer["annotations"][COMPONENTS]) if COMPONENTS in layer["annotations"] else None
        for layer in manifest_of(layout, tag)["layers"]
    ]


def as_image(layout: Path, tag: str = "1") -> Image:
    """Read an image to have it imported."""
    manifest = manifest_of(layout, tag)
    diff_ids = config_of(layout, tag)["rootfs"]["diff_ids"]
    layers = tuple(
        oci_image.Layer(blob_path(layout, layer["digest"]).read_bytes(), diff_id, "zstd")
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    )
    data = json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()
    config = blob_path(layout, manifest["config"]["digest"]).read_bytes()
    return Image(data, config, layers, manifest["mediaType"], {"architecture": "amd64", "os": "linux"})


def odd_image() -> Image:
    """Return an image with all that layers can do to each other."""
    tool = ["bin/tool", "usr/bin/tool-link", "usr/lib/tool", "usr/lib/tool/data"]
    layers = [
        [*BASE, *database({"tool": tool, "other": ["usr/bin/other"]}, {"other": "other-source"})],
        [
            file("usr/bin/tool", b"t" * 3000, mode=0o4755, uid=1, gid=2),
            hardlink("usr/bin/tool-link", "usr/bin/tool"),
            file("usr/bin/other", b"o", xattrs={"user.b": b"2", "user.a": b"\x00\xff"}),
            directory("usr/lib/tool", mode=0o2711, uid=7, gid=8, xattrs={"user.d": b"dir"}),
            file("usr/lib/tool/data", b"d", xattrs={"security.capability": CAPABILITY}),
            directory("usr/lib/gone"),
            file("usr/lib/gone/inner", b"x"),
            directory("usr/lib/opaque"),
            file("usr/lib/opaque/hidden", b"x"),
            file("usr/lib/shape", b"becomes a directory"),
            directory("usr/lib/other-shape"),
            file("usr/lib/other-shape/inner", b"x"),
            directory("usr/lib/sticky", mode=0o1777),
        ],
        [
            whiteout("usr/lib/gone"),
            directory("usr/lib/opaque", mode=0o700),
            file("usr/lib/opaque/seen", b"s"),
            opaque("usr/lib/opaque"),
            directory("usr/lib/shape"),
            file("usr/lib/shape/inner", b"i"),
            file("usr/lib/other-shape", b"was a directory"),
            hardlink("usr/lib/third-name", "usr/bin/tool"),
            directory(f"usr/lib/{'n' * 200}"),
            file(f"usr/lib/{LONG}", b"long"),
            file("usr/lib/größe 日本\n", b"odd"),
            file("usr/lib/large-owner", b"u", uid=3_000_000_000, gid=5),
            Entry("dev/null", "char", device=(1, 3), mode=0o666),
            Entry("dev/pipe", "fifo"),
            symlink("usr/lib/dangling", "/nowhere/" + "x" * 150, uid=5),
            file("usr/lib/implied/parent", b"p"),
        ],
    ]
    return make_image([make_layer(entries) for entries in layers], labels={"version": "1", "x": "y"})


def test_rechunked_image_is_the_same_tree(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    wanted, found = flatten(source, "1"), flatten(tmp_path / "out", "1")
    assert "usr/lib/gone" not in wanted
    assert wanted["usr/lib/third-name"].inode == wanted["usr/bin/tool"].inode
    assert differences(wanted, found) == []
    # Nothing has become one file that was two.
    assert differences(found, wanted) == []


def test_rechunked_layers_hold_packages_and_what_belongs_to_none(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert components(tmp_path / "out") == [["(initramfs)"], ["other-source"], ["tool"], None]
    _, other, tool, rest = archives(tmp_path / "out")
    assert [m.name for m in other if not m.isdir()] == ["usr/bin/other", f"{INFO}/other.list"]
    files = {m.name: m for m in tool if not m.isdir()}
    # All names of one file are in one layer, also those of no package.
    assert files.keys() == {
        *("usr/bin/tool", "usr/bin/tool-link", "usr/lib/third-name", "usr/lib/tool/data", f"{INFO}/tool.list")
    }
    assert files["usr/bin/tool-link"].linkname == "usr/bin/tool"
    # Directories on the way are as they are in the image.
    assert tool.getmember("usr/lib/tool").mode == 0o2711
    null = rest.getmember("dev/null")
    assert (null.type, null.devmajor, null.devminor) == (tarfile.CHRTYPE, 1, 3)
    assert rest.getmember("dev/pipe").type == tarfile.FIFOTYPE
    assert "usr/lib/sticky" in rest.getnames()
    for archive in (other, tool, rest):
        names = archive.getnames()
        assert names == sorted(names)
        assert {(m.uname, m.gname) for m in archive} == {("", "")}


def test_config_keeps_labels_and_history(tmp_path: Path) -> None:
    image = odd_image()
    source = write_layout(tmp_path / "source", {"1": image})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    before, after = json.loads(image.config), config_of(tmp_path / "out")
    same = before.keys() - {"rootfs", "history"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    steps = after["history"]
    assert [step["created_by"] for step in steps if step.get("empty_layer")] == ["step 0", "step 1", "step 2"]
    assert sum(not step.get("empty_layer") for step in steps) == len(after["rootfs"]["diff_ids"]) == 4


def test_rechunking_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    for name in ("one", "two"):
        (tmp_path / f"spool-{name}").mkdir()
        rechunk(tmp_path / f"spool-{name}", f"oci:{source}:1", f"oci:{tmp_path}/{name}:1")
    one, two = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files(tmp_path / name)}
        for name in ("one", "two")
    )
    assert one == two
    for name in ("one", "two"):
        rechunk(tmp_path, f"oci:{tmp_path}/{name}:1", f"oci-archive:{tmp_path}/{name}.tar:1")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("compression", ["zstd:chunked", "zstd", "gzip"])
def test_compression_is_the_one_asked_for(tmp_path: Path, compression: str) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1", f"--compression={compression}")
    layers = manifest_of(tmp_path / "out")["layers"]
    assert {layer["mediaType"].rpartition("+")[2] for layer in layers} == {compression.partition(":")[0]}
    tables = [layer_layout(layer.get("annotations", {}), layer["size"]) for layer in layers]
    assert all(tables) if compression == "zstd:chunked" else not any(tables)
    assert differences(flatten(source, "1"), flatten(tmp_path / "out", "1")) == []


def test_image_of_other_build_times_shares_every_layer(tmp_path: Path) -> None:
    image = odd_image()
    write_layout(tmp_path / "old", {"1": image})
    rechunk(tmp_path, f"oci:{tmp_path}/old:1", f"oci:{tmp_path}/out:1")
    # The same file, made again at another time with the same content.
    later = 1_800_000_000
    again = [
        file("usr/lib/tool/data", b"d", xattrs={"security.capability": CAPABILITY}, mtime=later),
        directory("usr/lib/tool", mode=0o2711, uid=7, gid=8, xattrs={"user.d": b"dir"}, mtime=later),
    ]
    labels = {"version": "2"}
    write_layout(tmp_path / "new", {"1": make_image([*image.layers, make_layer(again)], labels=labels)})
    previous = f"--previous=oci:{tmp_path}/out:1"
    rechunk(tmp_path, f"oci:{tmp_path}/new:1", f"oci:{tmp_path}/out:2", previous)
    assert manifest_of(tmp_path / "out", "2")["layers"] == manifest_of(tmp_path / "out", "1")["layers"]


def test_archive_written_is_read_by_skopeo(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    rechunk(tmp_path, f"oci:{source}:1", f"oci-archive:{tmp_path}/out.tar:1")
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests"]
    subprocess.run(
        [*command, f"oci-archive:{tmp_path}/out.tar:1", f"oci:{tmp_path}/copied:1"],
        check=True,
        capture_output=True,
    )
    assert differences(flatten(source, "1"), flatten(tmp_path / "copied", "1")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "out.tar", "source"]


async def test_image_of_a_registry_is_taken(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        await registry.push("os", "1", odd_image())
        await asyncio.to_thread(
            rechunk, tmp_path, f"{registry.host}/os:1", f"oci:{tmp_path}/out:1", "--plain-http"
        )
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    assert differences(flatten(source, "1"), flatten(tmp_path / "out", "1")) == []


def test_image_of_another_platform_is_taken_when_asked_for(tmp_path: Path) -> None:
    images = [make_image([make_layer(BASE)], architecture=name) for name in ("amd64", "s390x")]
    source = write_layout(tmp_path / "source", {"1": make_index(images)})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1", "--arch=s390x")
    assert config_of(tmp_path / "out")["architecture"] == "s390x"


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    large = 96 << 20
    layer = make_layer([*BASE, file("usr/lib/large", bytes(large))], compression="zstd")
    source = write_layout(tmp_path / "source", {"1": make_image([layer])})
    del layer
    tracemalloc.start()
    try:
        rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < large // 2


def test_second_writer_is_turned_away_and_leftovers_of_a_killed_one_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    with LayoutWriter(tmp_path / "out"):
        rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1", status=1)
    assert "another program is writing" in capsys.readouterr().err
    (tmp_path / "out/blobs/sha256/.killed.new").touch()
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert not (tmp_path / "out/blobs/sha256/.killed.new").exists()


def test_layout_that_is_there_keeps_its_other_images(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    for tag in ("1", "2", "1"):
        rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:{tag}")
    entries = json.loads((tmp_path / "out/index.json").read_text())["manifests"]
    assert sorted(entry["annotations"][REF_NAME] for entry in entries) == ["1", "2"]
    assert [path.name for path in files(tmp_path / "out") if path.name.startswith(".")] == []


def versions(*, changed: str = "", packages: int = 9) -> Image:
    """Return an image in one layer, as a build from nothing makes it; one package may be another version."""
    owned = {f"p{n}": [f"usr/lib/p{n}/a", f"usr/lib/p{n}/b"] for n in range(packages)}
    entries = [*BASE, *database(owned)]
    for name, paths in owned.items():
        entries.append(directory(f"usr/lib/{name}"))
        entries += [file(path, _noise(f"{path} {name == changed}")) for path in paths]
    return make_image([make_layer(entries)])


def _noise(seed: str) -> bytes:
    return random.Random(seed).randbytes(20_000)


def test_upgrade_downloads_the_layer_of_the_package_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_layout(tmp_path / "source", {"1": versions(), "2": versions(changed="p4", packages=10)})
    out = tmp_path / "out"
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{out}:1", "--max-layers=6")
    capsys.readouterr()
    previous = f"--previous=oci:{out}:1"
    rechunk(tmp_path, f"oci:{source}:2", f"oci:{out}:2", "--max-layers=6", "--json", previous)
    report = json.loads(capsys.readouterr().out)
    old, new = components(out, "1"), components(out, "2")
    assert len(old) == len(new) == 6
    for before, after in zip(old[:-1], new[:-1], strict=True):
        assert before is not None
        assert after is not None
        assert set(after) - set(before) in (set(), {"p9"})
    held = {layer["digest"] for layer in manifest_of(out, "1")["layers"]}
    fetched = [layer for layer in manifest_of(out, "2")["layers"] if layer["digest"] not in held]
    # That of p4, that of the new package, and what no package owns.
    assert len(fetched) <= 3
    assert report["upgrade"]["after"] == {"layers": len(fetched), "bytes": sum(x["size"] for x in fetched)}
    assert report["upgrade"]["by_files"] == {"layers": len(fetched), "bytes": by_files(out, "1", "2")}
    assert report["upgrade"]["by_files"]["bytes"] < 0.9 * report["upgrade"]["after"]["bytes"]
    assert report["upgrade"]["previous_is_rechunked"]
    assert report["upgrade"]["after"]["bytes"] < 0.7 * report["before"]["bytes"]
    assert (report["database"], report["components"]) == ("dpkg", 10)


def by_files(layout: Path, old: str, new: str) -> int:
    """Count what the tables of contents of new layers say has to be fetched, and the tables themselves."""
    held = {layer["digest"] for layer in manifest_of(layout, old)["layers"]}
    known = {
        digest_of(archive.extractfile(member).read())  # type: ignore[union-attr]
        for archive in archives(layout, old)
        for member in archive
        if member.isfile()
    }
    count = 0
    for layer in manifest_of(layout, new)["layers"]:
        if layer["digest"] not in held:
            place = layer_layout(layer["annotations"], layer["size"])
            assert place is not None
            assert place.tar_split is not None
            count += place.table.size + place.tar_split.size + 2 * FRAME_HEADER_BYTES
            blob = blob_path(layout, layer["digest"]).read_bytes()
            table = Table([unpacked(blob[place.table.offset : place.table.end])], data_end=place.data_end)
            for entry in table:
                if entry.digest and entry.digest not in known:
                    known.add(entry.digest)
                    count += entry.end_offset - entry.offset
    return count


def test_upgrade_from_an_image_that_was_not_rechunked_says_what_it_takes_and_what_comes_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_layout(tmp_path / "source", {"1": versions(), "2": versions(changed="p4")})
    previous = f"--previous=oci:{source}:1"
    rechunk(tmp_path, f"oci:{source}:2", f"oci:{tmp_path}/out:2", "--json", previous)
    report = json.loads(capsys.readouterr().out)
    upgrade = report["upgrade"]
    assert not upgrade["previous_is_rechunked"]
    assert upgrade["before"] == report["before"]
    assert upgrade["after"] == report["after"]
    # What it says of an older image rechunked likewise is what comes of doing so.
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    held = {layer["digest"] for layer in manifest_of(tmp_path / "out", "1")["layers"]}
    fetched = [x for x in manifest_of(tmp_path / "out", "2")["layers"] if x["digest"] not in held]
    assert upgrade["aligned"] == {"layers": len(fetched), "bytes": sum(x["size"] for x in fetched)}
    assert len(fetched) == 1


def test_changes_of_older_versions_keep_busy_packages_apart(tmp_path: Path) -> None:
    images = {str(n): versions(changed="p4" if n % 2 else "") for n in range(4)}
    source = write_layout(tmp_path / "source", images)
    older = [f"--previous=oci:{source}:{n}" for n in range(3)]
    rechunk(tmp_path, f"oci:{source}:3", f"oci:{tmp_path}/out:3", "--max-layers=4", *older)
    assert ["p4"] in components(tmp_path / "out", "3")


def test_image_without_a_package_database_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_layout(tmp_path / "source", {"1": make_image([make_layer(BASE)])})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert "no package database" in capsys.readouterr().out
    assert components(tmp_path / "out") == [None]
    assert differences(flatten(source, "1"), flatten(tmp_path / "out", "1")) == []


def test_large_files_of_no_package_are_apart_but_for_databases(tmp_path: Path) -> None:
    large = bytes(1 << 20)
    entries = [
        *BASE,
        *database({"tool": ["usr/bin/tool"]}),
        file("usr/bin/tool", b"t"),
        file("usr/lib/hwdb.bin", large),
        file("usr/share/factory/var/lib/dpkg/status", large),
        file("var/cache/packages", large),
    ]
    source = write_layout(tmp_path / "source", {"1": make_image([make_layer(entries)])})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert components(tmp_path / "out") == [["(initramfs)"], ["/usr/lib/hwdb.bin"], ["tool"], None]
    assert differences(flatten(source, "1"), flatten(tmp_path / "out", "1")) == []


def test_layers_whose_tables_no_host_reads_are_counted_as_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_layout(tmp_path / "source", {"1": versions(), "2": versions(changed="p4")})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert "fetched whole" not in capsys.readouterr().out
    monkeypatch.setattr(rechunking, "MAX_TABLES_BYTES", 100)
    options = [f"--previous=oci:{tmp_path}/out:1", f"oci:{source}:2", f"oci:{tmp_path}/out:2"]
    rechunk(tmp_path, options[1], options[2], options[0])
    assert "fetched whole" in capsys.readouterr().out
    rechunk(tmp_path, options[1], options[2], options[0], "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["whole"] == report["after"]
    assert report["upgrade"]["by_files"] == report["upgrade"]["after"]


def test_rpm_database_is_read_by_rpm(tmp_path: Path) -> None:
    work = tmp_path / "rpm"
    for name in ("alpha", "beta"):
        root = work / "root"
        (root / "usr/share").mkdir(parents=True, exist_ok=True)
        (root / f"usr/share/{name}").write_text(name)
        spec = work / f"{name}.spec"
        spec.write_text(
            f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n"
            f"%description\n%install\nmkdir -p %{{buildroot}}/usr/share\ncp {root}/usr/share/{name} "
            f"%{{buildroot}}/usr/share/{name}\n%files\n/usr/share/{name}\n"
        )
        build = ["rpmbuild", "--quiet", "-bb", f"--define=_topdir {work}", str(spec)]
        subprocess.run(build, check=True, capture_output=True)
    packages = [str(path) for path in (work / "RPMS/noarch").iterdir()]
    install = ["rpm", f"--dbpath={work}/db", "-i", "--justdb", "--nodeps", "--noscripts", *packages]
    subprocess.run(install, check=True, capture_output=True)
    held = [file(f"usr/share/rpm/{p.name}", p.read_bytes()) for p in (work / "db").iterdir() if p.is_file()]
    entries = [*BASE, *held, file("usr/share/alpha", b"alpha"), file("usr/share/beta", b"beta")]
    source = write_layout(tmp_path / "source", {"1": make_image([make_layer(entries)])})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert components(tmp_path / "out") == [["(initramfs)"], ["alpha"], ["beta"], None]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([hardlink("usr/a", "usr/nothing")], "hard link"),
        ([file("usr/x/../../../a")], "outside its root"),
        ([file("usr/bin"), file("usr/bin/a")], "no directory"),
    ],
    ids=["link-to-nothing", "outside", "below-a-file"],
)
def test_layer_out_of_order_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: list[Entry], words: str
) -> None:
    source = write_layout(tmp_path / "source", {"1": make_image([make_layer(entries)])})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1", status=1)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_layout(tmp_path / "source", {"1": odd_image()})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:2")
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert shown[1].startswith("Reading layer 1 of 3 of oci:")
    assert shown[-2:] == ["Writing layers: 4 of 4", ""]


def test_directory_for_the_files_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_layout(tmp_path / "source", {"1": make_image([make_layer(BASE)])})
    rechunk(tmp_path / "nowhere", f"oci:{source}:1", f"oci:{tmp_path}/out:1", status=2)
    assert f"{tmp_path}/nowhere" in capsys.readouterr().err


def test_image_made_from_an_ostree_commit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = make_layer(BASE)
    image = make_image([layer], labels={"ostree.final-diffid": layer.diff_id})
    source = write_layout(tmp_path / "source", {"1": image})
    rechunk(tmp_path, f"oci:{source}:1", f"oci:{tmp_path}/out:1", status=1)
    assert "made from an ostree commit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--max-layers=0", "oci:x:1", "oci:y:1"],
        ["--level=20", "oci:x:1", "oci:y:1"],
        ["oci:x:1", "quay.io/example/os:1"],
        ["oci:x:1"],
    ],
    ids=["layers", "level", "destination", "too-few"],
)
def test_command_line_that_cannot_be_taken_ends_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["rechunk", *words])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert "bootcd-image" in capsys.readouterr().err


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")
def test_operating_system_passes_skopeo_is_imported_and_upgrades_for_less(
    os_images: OsImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second version as a build from nothing makes it, in one layer, of which hosts have to fetch all."""
    source, built, out = tmp_path / "source", tmp_path / "built", tmp_path / "out"
    _smaller_system(os_images, source)
    rechunk(tmp_path, f"oci:{source}:v1", f"oci:{out}:v1")
    rechunk(tmp_path, f"oci:{source}:v2", f"oci:{built}:v2", "--max-layers=1")
    capsys.readouterr()
    rechunk(tmp_path, f"oci:{built}:v2", f"oci:{out}:v2", "--json", f"--previous=oci:{out}:v1")
    upgrade = json.loads(capsys.readouterr().out)["upgrade"]
    held = {layer["digest"] for layer in manifest_of(out, "v1")["layers"]}
    fetched = sum(x["size"] for x in manifest_of(out, "v2")["layers"] if x["digest"] not in held)
    assert upgrade["after"]["bytes"] == fetched
    assert fetched < 0.25 * upgrade["before"]["bytes"]
    assert len(manifest_of(out, "v2")["layers"]) <= 64

    copied = tmp_path / "copied"
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests"]
    subprocess.run([*command, f"oci:{out}:v2", f"oci:{copied}:v2"], check=True, capture_output=True)
    assert manifest_of(copied, "v2") == manifest_of(out, "v2")

    wanted = flatten(source, "v2")
    repository = new_repository(tmp_path / "repo")
    asyncio.run(run_import(repository, as_image(copied, "v2")))
    ostree(repository, "fsck")
    found = scan_tree(checkout(repository, image_ref("docker://registry.example/os:1"), tmp_path / "tree"))
    expected = deployed(wanted, factory_var=not OSTree.check_version(2024, 3))
    assert differences(expected, found) == []


def _smaller_system(images: OsImages, target: Path) -> None:
    """Write two versions of the test system that have a kernel in name only, no base and no documentation.

    A tenth of the bytes is left. A package database is added, which the test system has none of.
    """
    layers = {tag: _layers_of(images.layout, tag)[3:] for tag in ("v1", "v2")}
    write_layout(target, {"v1": make_image(layers["v1"])})
    modules = f"usr/lib/modules/{images.kernel}"
    kernel = [directory(modules), file(f"{modules}/vmlinuz"), file(f"{modules}/initramfs.img", b"1")]
    bottom = make_layer([*BASE[:4], *kernel, *database(_packages(flatten(target, "v1")))])
    write_layout(target, {tag: make_image([bottom, *above]) for tag, above in layers.items()})


def _layers_of(layout: Path, tag: str) -> list[oci_image.Layer]:
    manifest, diff_ids = manifest_of(layout, tag), config_of(layout, tag)["rootfs"]["diff_ids"]
    compressions: dict[str, oci_image.Compression] = {"gzip": "gzip", "zstd": "zstd"}
    return [
        oci_image.Layer(
            blob_path(layout, layer["digest"]).read_bytes(),
            diff_id,
            compressions.get(layer["mediaType"].rpartition("+")[2], "none"),
        )
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    ]


def _packages(tree: Tree) -> dict[str, list[str]]:
    """Make packages of programs and of directories, by what their names begin with."""
    found: dict[str, list[str]] = {}
    for path in tree:
        parts = path.split("/")
        # What is made at installation belongs to no package.
        if parts[0] == "usr" and len(parts) > 2 and parts[-1] != "initramfs.img":
            words = "-".join(parts[1 : 4 if len(parts) > 4 else 3]).lower()
            name = "".join(c for c in words if c.isascii() and (c.isalnum() or c in "-."))[:16]
            found.setdefault(name, []).append(path)
    return found
