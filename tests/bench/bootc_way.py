"""The way bootc imports an image, with the programs it uses: what ours is compared with where bootc is not.

One layer after the other: fetched, decompressed, given to an `ostree commit` of its own; then all are checked
out over each other and committed once more. bootc itself does a little more than this: it rewrites the
archive on the way, and labels. See `ostree-ext` of https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import zstandard
from isal import igzip

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def main(repository: Path, image: str, tag: str) -> None:
    """Import an image of `host:port/name`; layers that are here are not fetched again."""
    ostree = ["ostree", f"--repo={repository}"]
    if not repository.exists():
        subprocess.run([*ostree, "init", "--mode=bare"], check=True)
    host, _, name = image.partition("/")
    base = f"http://{host}/v2/{name}"
    with urlopen(Request(f"{base}/manifests/{tag}", headers={"Accept": _MANIFEST})) as answer:  # http
        manifest = json.load(answer)
    refs = []
    for layer in manifest["layers"]:
        ref = "ostree/container/blob/" + layer["digest"].replace(":", "_3A_")
        refs.append(ref)
        if not (repository / "refs/heads" / ref).exists():
            _commit_layer([*ostree, "commit", f"--branch={ref}"], f"{base}/blobs/{layer['digest']}", layer)
    # Not below tmp/ of the repository: what is as old as its files are is removed there.
    tree = repository.with_name("merged")
    for ref in refs:
        subprocess.run([*ostree, "checkout", "-H", "--union", "--whiteouts", ref, str(tree)], check=True)
    commit = [*ostree, "commit", "--link-checkout-speedup", f"--tree=dir={tree}"]
    subprocess.run([*commit, "--branch=ostree/container/image/bench"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


def _commit_layer(command: list[str], url: str, layer: dict[str, Any]) -> None:
    command = [*command, "--tree=tar=/proc/self/fd/0", "--tar-autocreate-parents"]
    with urlopen(url) as blob:  # loopback
        stream: Any = blob
        if layer["mediaType"].endswith("gzip"):
            stream = igzip.open(blob)  # type: ignore[no-untyped-call]
        elif layer["mediaType"].endswith("zstd"):
            stream = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        shutil.copyfileobj(stream, process.stdin, 1 << 20)
        process.stdin.close()
        if process.wait():
            raise SystemExit(f"ostree commit ended with {process.returncode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
