"""Which layers of an image hold what."""

from __future__ import annotations

import pytest

from bootcd.model.errors import InvalidManifest
from bootcd.oci.manifest import ImageManifest, parse_config, parse_manifest
from bootcd.ostree.image import Role, layer_roles
from tests.support.oci_image import Layer, file, make_image, make_layer

LAYERS = [make_layer([file(f"usr/{number}")]) for number in range(4)]
COMMIT, CHUNK, DERIVED = Role


def roles_of(layers: list[Layer], final: str | None) -> list[Role]:
    image = make_image(layers, labels={} if final is None else {"ostree.final-diffid": final})
    manifest = parse_manifest(image.manifest, image.media_type)
    assert isinstance(manifest, ImageManifest)
    roles = layer_roles(manifest, parse_config(image.config))
    return [roles[layer.digest] for layer in layers]


@pytest.mark.parametrize(
    ("final", "roles"),
    [
        (None, [DERIVED] * 4),
        (0, [COMMIT, DERIVED, DERIVED, DERIVED]),
        (1, [COMMIT, CHUNK, DERIVED, DERIVED]),
        (3, [COMMIT, CHUNK, CHUNK, CHUNK]),
    ],
    ids=["no-label", "first", "second", "last"],
)
def test_role_of_each_layer_follows_from_the_final_one(final: int | None, roles: list[Role]) -> None:
    assert roles_of(LAYERS, None if final is None else LAYERS[final].diff_id) == roles


def test_layer_twice_in_one_role_counts_once() -> None:
    derived = [*LAYERS[:2], LAYERS[2], LAYERS[2]]
    assert roles_of(derived, LAYERS[1].diff_id) == [COMMIT, CHUNK, DERIVED, DERIVED]


@pytest.mark.parametrize(
    ("layers", "final", "message"),
    [
        (LAYERS, "sha256:" + "0" * 64, "names no layer"),
        (LAYERS, "", "names no layer"),
        ([*LAYERS, LAYERS[1]], LAYERS[1].diff_id, "both of the ostree commit and beyond"),
        ([LAYERS[0], LAYERS[0]], LAYERS[0].diff_id, "both of the ostree commit and beyond"),
        ([LAYERS[0], LAYERS[0], LAYERS[1]], LAYERS[1].diff_id, "both of the ostree commit and beyond"),
    ],
    ids=["unknown", "empty", "chunk-again", "commit-again", "commit-as-chunk"],
)
def test_contradiction_between_label_and_layers_is_refused(
    layers: list[Layer], final: str, message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        roles_of(layers, final)


def test_one_content_in_two_blobs_cannot_both_be_the_final_layer() -> None:
    again = make_layer([file("usr/1")], compression="zstd")
    assert again.diff_id == LAYERS[1].diff_id
    with pytest.raises(InvalidManifest, match="names two layers"):
        roles_of([LAYERS[0], LAYERS[1], again], LAYERS[1].diff_id)
