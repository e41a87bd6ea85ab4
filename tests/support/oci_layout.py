"""Images on a medium: an OCI layout written file by file, and archives of whatever a directory holds.

    layout = write_layout(tmp_path / "os", {"1": image, "2": index})
    write_archive(tmp_path / "os.tar", layout)

What the real tools write comes from skopeo; this is for what they never would.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.oci_image import Image, Index

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"


def write_layout(directory: Path, images: Mapping[str, Image | Index]) -> Path:
    """Write images by tag; the tag "" is none."""
    entries = []
    for tag, image in images.items():
        for member in (*image.images, image) if isinstance(image, Index) else (image,):
            blobs = member.blobs if isinstance(member, Image) else {}
            for digest, blob in (blobs | {member.digest: member.manifest}).items():
                path = blob_path(directory, digest)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(blob)
        entry = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
        entries.append(entry | ({"annotations": {REF_NAME: tag}} if tag else {}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    )
    return directory


def blob_path(directory: Path, digest: str) -> Path:
    return directory / "blobs" / digest.replace(":", "/")


def write_archive(path: Path, directory: Path, *, prefix: str = "") -> Path:
    """Archive what is in a directory, names starting with `prefix`."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(directory.rglob("*")):
            archive.add(file, prefix + str(file.relative_to(directory)), recursive=False)
    return path
