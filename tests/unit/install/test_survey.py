"""What is in an image, found out by reading its layers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

import pytest

from bootcd.install.boundimages import require_bound_images
from bootcd.install.survey import Survey, survey_image
from bootcd.model.errors import DigestMismatch, InvalidLayer, NotBootable
from bootcd.oci.manifest import Descriptor, ImageManifest, parse_config, parse_manifest
from tests.support.oci_image import (
    Entry,
    Image,
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

KERNEL = "usr/lib/modules/6.1/vmlinuz"
SETTINGS = "usr/lib/bootc/install/10.toml"


async def survey(*layers: Iterable[Entry] | Layer, image: Image | None = None) -> Survey:
    made = [layer if isinstance(layer, Layer) else make_layer(layer) for layer in layers]
    image = image or make_image(made)
    manifest = parse_manifest(image.manifest, image.media_type)
    assert isinstance(manifest, ImageManifest)

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        data = image.blobs[layer.digest]
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return await survey_image(manifest, parse_config(image.config), open_blob)


async def test_survey_finds_kernel_boot_loader_and_settings() -> None:
    found = await survey(
        [
            directory("usr/lib/modules/6.1"),
            file(f"./{KERNEL}", b"kernel"),
            file("usr/lib/modules/6.1/modules.dep", b"x" * 10),
            file("usr/lib/grub/x86_64-efi/blsuki.mod"),
            file("usr/bin/bootupctl"),
            file("usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI"),
        ],
        [file(SETTINGS, b"[install]\n"), file("etc/bootc/install/20.toml", b"# none\n")],
    )
    assert found.kernels == ["6.1"]
    found.require_kernel("image")
    assert found.has("usr/bin/bootupctl")
    assert found.below("usr/lib/bootupd/updates") == ["usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI"]
    assert not found.has("usr/lib/modules/6.1/modules.dep")
    assert found.settings_files() == [
        (f"/{SETTINGS}", b"[install]\n"),
        ("/etc/bootc/install/20.toml", b"# none\n"),
    ]
    assert found.content_bytes == len(b"kernel") + 10 + len(b"[install]\n# none\n")


@pytest.mark.parametrize(
    "removal",
    [
        pytest.param(whiteout(KERNEL), id="file"),
        pytest.param(whiteout("usr/lib/modules/6.1"), id="directory"),
        pytest.param(opaque("usr/lib/modules"), id="opaque directory"),
        pytest.param(opaque(""), id="opaque root"),
    ],
)
async def test_survey_forgets_what_an_upper_layer_removes(removal: Entry) -> None:
    found = await survey([file(KERNEL, b"kernel")], [removal])
    assert found.kernels == []
    with pytest.raises(NotBootable, match="no kernels"):
        found.require_kernel("image")


async def test_survey_keeps_what_the_layer_that_removes_it_brings_itself() -> None:
    found = await survey(
        [file(KERNEL, b"old")], [opaque("usr/lib/modules"), file("usr/lib/modules/6.2/vmlinuz")]
    )
    assert found.kernels == ["6.2"]


async def test_survey_refuses_two_kernels() -> None:
    found = await survey([file(KERNEL), file("usr/lib/modules/6.2/vmlinuz")])
    with pytest.raises(NotBootable, match="has 2 kernels"):
        found.require_kernel("image")


async def test_survey_names_a_unified_kernel_image() -> None:
    found = await survey([file("boot/EFI/Linux/6.1.efi")])
    with pytest.raises(NotBootable, match="unified kernel image"):
        found.require_kernel("image")


async def test_survey_reads_settings_through_hard_links() -> None:
    objects = "sysroot/ostree/repo/objects/ab/cd.file"
    found = await survey([file(objects, b"[install]\n"), hardlink(SETTINGS, objects)])
    assert found.settings_files() == [(f"/{SETTINGS}", b"[install]\n")]


async def test_survey_cuts_settings_that_are_too_large() -> None:
    [(_, content)] = (await survey([file(SETTINGS, b"#" * (1 << 20))])).settings_files()
    assert len(content) == (64 << 10) + 1


@pytest.mark.parametrize(
    ("config", "enforces"), [(b"SELINUX=enforcing\n", True), (b"SELINUX=disabled\n", False)]
)
async def test_survey_tells_whether_a_policy_is_loaded(config: bytes, enforces: bool) -> None:
    policy = file("etc/selinux/targeted/policy/policy.33", b"policy")
    assert (await survey([policy, file("etc/selinux/config", config)])).enforces_selinux is enforces
    assert not (await survey([file("etc/selinux/config", config)])).enforces_selinux


async def test_survey_checks_every_digest() -> None:
    layer = make_layer([file(KERNEL)])
    with pytest.raises(DigestMismatch):
        await survey(image=make_image([Layer(layer.blob, "sha256:" + "0" * 64, "gzip")]))


async def test_survey_ends_a_broken_archive_with_its_error() -> None:
    with pytest.raises(InvalidLayer):
        await survey(make_layer(tar=b"x" * 2048))


async def test_survey_of_too_many_files_is_refused() -> None:
    entries = [file(f"usr/lib/bootc/install/{n}.toml") for n in range(5000)]
    with pytest.raises(NotBootable, match="more than 4096"):
        await survey(entries)


LINK = "usr/lib/bootc/bound-images.d/web.image"
QUADLET = "usr/share/containers/systemd/web.image"
OBJECTS = "sysroot/ostree/repo/objects"
GOOD, BAD = b"[Image]\nImage=q.example/web\n", b"[Image]\n"


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([[symlink(LINK, f"/{QUADLET}"), file(QUADLET, BAD)]], id="one layer"),
        pytest.param([[file(QUADLET, BAD)], [symlink(LINK, f"../../../..//{QUADLET}")]], id="relative"),
        pytest.param(
            [[symlink(LINK, f"/{QUADLET}"), file(QUADLET, GOOD)], [file(QUADLET, BAD)]], id="changed"
        ),
        pytest.param(
            [
                [
                    symlink(f"{OBJECTS}/ab/link.file", f"/{QUADLET}"),
                    file(f"{OBJECTS}/ab/quadlet.file", BAD),
                    hardlink(LINK, f"{OBJECTS}/ab/link.file"),
                    hardlink(QUADLET, f"{OBJECTS}/ab/quadlet.file"),
                ]
            ],
            id="chunked",
        ),
        pytest.param(
            [
                [symlink(LINK, "/etc/containers/systemd/a.image")],
                [symlink("etc/containers/systemd/a.image", f"/{QUADLET}"), file(QUADLET, BAD)],
            ],
            id="link to a link",
        ),
        pytest.param([[file(LINK, GOOD)]], id="no link"),
    ],
)
async def test_bound_image_that_cannot_be_understood_is_refused(layers: list[list[Entry]]) -> None:
    with pytest.raises(NotBootable, match=r"bound-images\.d/web\.image of the image"):
        require_bound_images(await survey(*layers))


@pytest.mark.parametrize(
    ("layers", "any_bound"),
    [
        pytest.param([[symlink(LINK, f"/{QUADLET}"), file(QUADLET, GOOD)]], True, id="good"),
        pytest.param(
            [[symlink(LINK, f"/{QUADLET}"), file(QUADLET, BAD)], [file(QUADLET, GOOD)]], True, id="mended"
        ),
        pytest.param([[symlink(LINK, "/opt/web.image"), file("opt/web.image", BAD)]], True, id="elsewhere"),
        pytest.param(
            [[symlink(LINK, f"/{QUADLET}"), file(QUADLET, BAD)], [whiteout(LINK)]], False, id="removed"
        ),
        pytest.param([[symlink(LINK, LINK.rpartition("/")[2])]], True, id="link to itself"),
        pytest.param([[file(QUADLET, BAD)]], False, id="not bound"),
    ],
)
async def test_bound_images_that_may_be_pulled_are_let_in(layers: list[list[Entry]], any_bound: bool) -> None:
    assert require_bound_images(await survey(*layers)) is any_bound
