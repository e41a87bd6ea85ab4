"""The store of bound images, kept with podman by the conventions of bootc.

It lies in `ostree/bootc/storage` of the system root and is always used under the name /run/bootc/storage,
since podman remembers the paths of a store and refuses it under others; so each command gets a mount
namespace of its own in which the store is mounted there. `/proc/self/fd/3`, the name of its run-time
directory, is what bootc has podman remember.

Format: `podstorage.rs` of https://github.com/bootc-dev/bootc; podman-image(1).
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootcd.host import process
from bootcd.host.process import Completed
from bootcd.model.errors import BackendFailed, Unsupported
from bootcd.model.text import last_line

log = logging.getLogger(__name__)

ALIAS = Path("/run/bootc/storage")
PULL_DEADLINE_SECS = 3600.0
DEADLINE_SECS = 300.0
_OUTPUT_LIMIT = 16 << 20
_IDS_AT_ONCE = 100
_RUN_ROOT = "/proc/self/fd/3"
# The directory below the mount is the one of the run time.
_IN_OWN_MOUNTS = 'exec 3<"$2" && mount --bind "$1" "$2" && shift 2 && exec podman "$@"'


class BoundImageStore:
    """The store of one system root. The caller holds the system root's lock."""

    def __init__(
        self,
        path: Path,
        *,
        auth_files: Sequence[str] = (),
        insecure_registries: Collection[str] = (),
        alias: Path = ALIAS,
    ) -> None:
        """Nothing is done yet.

        Args:
            path: of the store, whether it is there or not.
            auth_files: the first of them that exists has the credentials.
            insecure_registries: hosts spoken to without TLS, or without checking it.
        """
        self._path = path
        self._auth_files = auth_files
        self._insecure = insecure_registries
        self._alias = alias

    @property
    def exists(self) -> bool:
        return self._path.is_dir()

    async def create(self) -> None:
        """Make the store if it is not there: whole or not at all.

        Raises:
            Unsupported: there is no podman on this host.
            BackendFailed: podman refused.
        """
        if self.exists:
            return
        unfinished = self._path.with_name(f"{self._path.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            await self._podman("set up the store of bound images", "images", "--quiet", store=unfinished)
            unfinished.rename(self._path)
        except OSError as error:
            raise BackendFailed(f"{self._path} cannot be made: {error.strerror}") from error

    async def has(self, image: str) -> bool:
        """Whether an image is in the store. Raises what `create` raises."""
        done = await self._run(["image", "exists", image], DEADLINE_SECS)
        if done.status not in (0, 1):
            raise _refused(f"look for bound image {image}", done)
        return done.status == 0

    async def pull(self, image: str) -> None:
        """Pull an image; one that is there already stays as it is. Raises what `create` raises."""
        if await self.has(image):
            return
        registry = image.removeprefix("docker://").partition("/")[0]
        with self._credentials() as auth_file:
            options = [
                f"--authfile={auth_file}",
                *(["--tls-verify=false"] if registry in self._insecure else []),
            ]
            arguments = ["image", "pull", "--quiet", *options, image]
            done = await self._run(arguments, PULL_DEADLINE_SECS)
        if done.status:
            raise _refused(f"pull bound image {image}", done)

    async def remove_except(self, images: Collection[str]) -> list[str]:
        """Remove all other images; returns their ids. Raises what `create` raises."""
        done = await self._podman("list the bound images", "image", "list", "--format=json")
        wanted = {*images, *(f"{image}:latest" for image in images)}
        try:
            unwanted = [
                str(entry["Id"])
                for entry in json.loads(done.stdout or b"[]")
                if wanted.isdisjoint([*(entry.get("Names") or ()), *(entry.get("RepoDigests") or ())])
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackendFailed("podman lists the bound images in a form that is not known") from error
        for start in range(0, len(unwanted), _IDS_AT_ONCE):
            ids = unwanted[start : start + _IDS_AT_ONCE]
            await self._podman("remove bound images that nothing needs", "image", "rm", *ids)
        return unwanted

    @contextmanager
    def _credentials(self) -> Iterator[str]:
        """Yield the file with the host's credentials, else one with none: never those of a user."""
        for name in self._auth_files:
            if Path(name).is_file():
                yield name
                return
        with tempfile.NamedTemporaryFile(prefix="bootcd-auth-") as empty:
            empty.write(b"{}")
            empty.flush()
            yield empty.name

    async def _podman(self, doing: str, *arguments: str, store: Path | None = None) -> Completed:
        done = await self._run(arguments, DEADLINE_SECS, store)
        if done.status:
            raise _refused(doing, done)
        return done

    async def _run(
        self, arguments: Sequence[str], deadline_secs: float, store: Path | None = None
    ) -> Completed:
        if shutil.which("podman") is None:
            raise Unsupported(
                "bound images are pulled with podman, which this host does not have",
                hint="the host image has to bring podman to use bound images",
            )
        own_mounts = ["unshare", "--mount", "--", "sh", "-c", _IN_OWN_MOUNTS, "sh"]
        places = [str(store or self._path), str(self._alias)]
        roots = ["--root", str(self._alias), "--runroot", _RUN_ROOT]
        try:
            self._alias.mkdir(parents=True, exist_ok=True)
            return await process.run(
                [*own_mounts, *places, *roots, *arguments], deadline_secs=deadline_secs, limit=_OUTPUT_LIMIT
            )
        except OSError as error:
            raise BackendFailed(f"podman cannot be started: {error.strerror}") from error
        except TimeoutError as error:
            raise BackendFailed(f"podman did not end within {deadline_secs:.0f} s") from error


def _refused(doing: str, done: Completed) -> BackendFailed:
    return BackendFailed(f"cannot {doing}: {last_line(done.stderr) or 'podman gave no reason'}")
