"""The commit of a derived layer: the layer cache keeps its tree, whiteouts included, as a commit.

What bootc would not need to know of a layer is in two entries of our own in the commit's metadata: the
directories the layer did not list, and the policy its files are labelled by.
"""

from __future__ import annotations

import hashlib

from bootcd.ostree.repository import Repository
from bootcd.ostree.sepolicy import Policy
from bootcd.ostree.store import ObjectStore
from bootcd.ostree.tree import DEFAULT_META, Directory, read_tree, write_tree
from bootcd.ostreefmt.metadata import layer_commit_metadata
from bootcd.ostreefmt.objects import parse_dirmeta
from bootcd.ostreefmt.selinux import without_label

LABELLED_KEY = "bootcd.labelled"


def write_layer_commit(
    repository: Repository, store: ObjectStore, tree: Directory, labelled_by: Policy | None
) -> str:
    """Write the commit of a layer; `labelled_by` is the policy all its files are labelled by, if any."""
    contents = write_tree(tree, store)
    metadata = layer_commit_metadata()
    if labelled_by is not None:
        metadata[LABELLED_KEY] = _mark(labelled_by, contents, tree.meta)
    return repository.write_commit(
        store,
        contents=contents,
        meta=tree.meta,
        metadata=metadata,
        timestamp=0,
        implied=sorted(path for path, node in tree.walk() if node.implied),
    )


def is_labelled_by(repository: Repository, commit: str, policy: Policy) -> bool:
    """Whether all files of a layer commit are known to be labelled by a policy."""
    contents, meta, _ = repository.commit_root(commit)
    return repository.commit_metadata(commit).get(LABELLED_KEY) == _mark(policy, contents, meta)


def _mark(policy: Policy, contents: bytes, meta: bytes) -> str:
    # bootc keeps the metadata of a layer commit it labels anew; the mark then must not speak for it.
    return hashlib.sha256(policy.identity.encode() + contents + meta).hexdigest()


def read_layer_tree(repository: Repository, commit: str) -> Directory:
    """Read the tree of a layer commit, ours or another program's."""
    contents, meta, listed = repository.commit_root(commit)
    default: dict[bytes, bool] = {}

    def implied(path: str, directory_meta: bytes) -> bool:
        if listed is not None:
            return path in listed
        # Another program does not record it: default attributes are what an implied one gets.
        if directory_meta not in default:
            attributes = parse_dirmeta(repository.read_dirmeta(directory_meta))
            unlabelled = attributes._replace(xattrs=without_label(attributes.xattrs))
            default[directory_meta] = unlabelled == DEFAULT_META
        return default[directory_meta]

    return read_tree(contents, meta, implied, repository.read_dirtree)
