"""An image on its way in: what its labels say it is, what each layer holds, which layers are here.

A layer is a set of changes to a file system, as container builds make them, or, in an image made from an
ostree commit ("chunked"), a set of objects of that commit. Labels tell which, so a layer of the cache
counts only if it was taken for the same thing: else one image could, by its labels, spoil another's.

Format: `container/store.rs` of crate ostree-ext, https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bootcd.model.errors import InvalidManifest, NotBootable, SignatureRejected
from bootcd.model.trust import Verdict
from bootcd.oci.manifest import Descriptor, ImageConfig, ImageManifest
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.metadata import IMPORTER_VERSION
from bootcd.ostreefmt.refs import blob_ref

FINAL_DIFF_ID = "ostree.final-diffid"
"Label: diff_id of the last layer that holds objects. Images built upon this one inherit it."


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose manifest and config were fetched and checked."""

    reference: str
    "Transport and name, such as `docker://quay.io/example/os:1`."
    digest: str
    manifest: ImageManifest
    manifest_json: str
    config: ImageConfig
    config_json: str
    index_digest: str = ""
    "Digest of the index the manifest was chosen from, if it came from one."
    verdict: Verdict | None = None
    "Why the host's signature policy lets it in."

    remote: str = ""
    "The ostree remote that has to have signed the commit the image was made from."


class Role(Enum):
    """What a layer holds, and so what its commit in the repository is."""

    COMMIT = "commit"
    "An ostree commit, its metadata objects and some of its files; its commit is that very one."
    CHUNK = "chunk"
    "Files of that commit; its commit has one directory of them, each named by its checksum."
    DERIVED = "derived"
    "Changes to what is below; its commit is their tree, whiteouts included."


def check_bootable(image: Image) -> None:
    """Refuse an image that does not say it is a host image, or contradicts itself about its layers."""
    if not {"containers.bootc", "ostree.bootable"} & image.config.labels.keys():
        raise NotBootable(
            f"{image.reference} has neither label containers.bootc nor ostree.bootable",
            hint="it is an image of a container, not of a host",
        )
    roles = set(layer_roles(image.manifest, image.config).values())
    if image.remote:
        _check_can_be_signed(image, roles)


def _check_can_be_signed(image: Image, roles: set[Role]) -> None:
    """Refuse an image with anything in it that the signature of its ostree commit does not cover."""
    if Role.COMMIT not in roles:
        lacks = "holds no ostree commit"
    elif Role.DERIVED in roles and not (image.verdict and image.verdict.verified):
        lacks = "has layers on top of its ostree commit, which nobody signed"
    else:
        return
    raise SignatureRejected(
        f"{image.reference} has to be signed by the ostree remote {image.remote}, and {lacks}",
        hint="follow an image that is made of the signed commit alone, or this one by: bootcctl switch",
        image=image.reference,
        scope=remote_scope(image.remote),
        requirement="ostree-remote-image",
    )


def remote_scope(remote: str) -> str:
    """Return what a verdict by the keys of an ostree remote calls its scope."""
    return f"ostree remote {remote}"


def layer_roles(manifest: ImageManifest, config: ImageConfig) -> dict[str, Role]:
    """Return what each layer holds, by digest, in the manifest's order.

    Raises InvalidManifest if the label names no layer, or one layer would have to be two things.
    """
    final = config.labels.get(FINAL_DIFF_ID)
    roles: dict[str, Role] = {}
    role = Role.DERIVED if final is None else Role.COMMIT
    seen = False
    for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        if roles.setdefault(layer.digest, role) is not role:
            raise InvalidManifest(f"layer {layer.digest} is both of the ostree commit and beyond it")
        if role is Role.COMMIT:
            role = Role.CHUNK
        if diff_id == final:
            if seen:
                raise InvalidManifest(f"label {FINAL_DIFF_ID} of the image names two layers of it")
            seen = True
            role = Role.DERIVED
    if final is not None and not seen:
        raise InvalidManifest(
            f"label {FINAL_DIFF_ID} of the image names no layer of it",
            hint="the image was changed after it was made from an ostree commit; build it again",
        )
    return roles


def cached_commit(repository: Repository, layer: str, role: Role) -> str | None:
    """Return the commit of a layer that is here with all its objects and was taken for this."""
    commit = repository.resolve(blob_ref(layer))
    if commit is None or not repository.has_commit(commit):
        return None
    return commit if _role_of(repository, commit) is role else None


def missing_layers(repository: Repository, image: Image) -> list[Descriptor]:
    """Return the layers that are not in the repository, each once, in the manifest's order."""
    roles = layer_roles(image.manifest, image.config)
    missing: dict[str, Descriptor] = {}
    for layer in image.manifest.layers:
        if cached_commit(repository, layer.digest, roles[layer.digest]) is None:
            missing.setdefault(layer.digest, layer)
    return list(missing.values())


def _role_of(repository: Repository, commit: str) -> Role:
    if IMPORTER_VERSION in repository.commit_metadata(commit):
        return Role.DERIVED
    files, dirs = repository.list_root(commit)
    is_chunk = not dirs and all(name == checksum.hex() for name, checksum in files)
    return Role.CHUNK if is_chunk else Role.COMMIT
