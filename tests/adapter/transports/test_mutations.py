"""Archives with bytes changed anywhere: an image that verifies, or a typed error, never anything else."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from bootcd.model.errors import BootcdError
from tests.adapter.transports.conftest import Take
from tests.support.oci_image import Image, digest_of, file, make_image, make_layer
from tests.support.oci_layout import write_archive, write_layout

ROUNDS = 60


@pytest.fixture(scope="module")
def small() -> Image:
    return make_image([make_layer([file("usr/a", b"1" * 300)])])


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, cut or repeat a piece; most of what is not zero are headers and documents."""
    changed = bytearray(data)
    filled = [place for place, byte in enumerate(data) if byte]
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(4):
            case 0 | 1:
                changed[chance.choice(filled) % len(changed)] = chance.randrange(256)
            case 2:
                del changed[chance.randrange(len(changed) // 2, len(changed)) :]
            case _:
                start = chance.randrange(len(changed))
                changed[start:start] = changed[start : start + chance.choice((1, 512, 1024))]
    return bytes(changed)


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
async def test_changed_archive_is_the_image_or_a_typed_error(
    tmp_path: Path, small: Image, take: Take, transport: str
) -> None:
    layout = write_layout(tmp_path / "os", {"1": small})
    archive = write_archive(tmp_path / "good.tar", layout)
    if transport == "docker-archive":
        archive = tmp_path / "saved.tar"
        command = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:1", f"{transport}:{archive}:x/y:1"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    good = archive.read_bytes()
    chance = random.Random(20)
    messages: list[str] = []
    for number in range(ROUNDS):
        archive.write_bytes(mutated(good, chance))
        try:
            resolved, _, layers = await take(transport, str(archive))
        except BootcdError as error:
            messages.append(error.message)
            continue
        assert set(layers) == {layer.digest for layer in resolved.manifest.layers}, number
        assert all(digest_of(data) == digest for digest, data in layers.items()), number
    assert 0 < len(messages) < ROUNDS
    assert all(message.isprintable() for message in messages)
