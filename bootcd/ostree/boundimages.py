"""The images bound to a host image, read from its commit without a checkout.

Links lead where they would on the host: `/etc` is the commit's `/usr/etc`, and nothing leads out of it.
"""

from __future__ import annotations

from bootcd.ostree.libostree import Gio, GLib, host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.boundimages import DIRECTORY, invalid, parse_bound_image

MAX_IMAGES = 256
MAX_FILE_BYTES = 64 << 10
_MAX_LINKS = 40
_ATTRIBUTES = "standard::type,standard::name,standard::symlink-target,standard::size"
_NO_FOLLOW = Gio.FileQueryInfoFlags.NOFOLLOW_SYMLINKS


def read_bound_images(repository: Repository, commit: str) -> list[str]:
    """Return the images bound to the image of a commit, each once, sorted.

    Raises:
        NotBootable: what is in the directory cannot be understood.
        BackendFailed: the commit cannot be read.
    """
    with host_errors(f"read the bound images of commit {commit}"):
        _, root, _ = repository.repo.read_commit(commit, None)
        directory = root.resolve_relative_path(DIRECTORY)
        if not directory.query_exists(None):
            return []
        names = sorted(
            info.get_name() for info in directory.enumerate_children(_ATTRIBUTES, _NO_FOLLOW, None)
        )
        if len(names) > MAX_IMAGES:
            raise invalid("", f"has more than {MAX_IMAGES} entries")
        images = {parse_bound_image(name, _read(root, name)) for name in names}
    return sorted(images)


def _read(root: Gio.File, name: str) -> bytes:
    """Return the content of the file that a link of the directory leads to."""
    place = f"{DIRECTORY}/{name}"
    if root.resolve_relative_path(place).query_file_type(_NO_FOLLOW, None) != Gio.FileType.SYMBOLIC_LINK:
        raise invalid(name, "is not a symbolic link")
    waiting = place.split("/")[::-1]
    path: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del path[-1:]
            continue
        if not path and part == "etc":
            path.append("usr")
        path.append(part)
        file = root.resolve_relative_path("/".join(path))
        try:
            info = file.query_info(_ATTRIBUTES, _NO_FOLLOW, None)
        except GLib.Error:
            raise invalid(name, "leads to a file that is not in the image") from None
        if info.get_file_type() == Gio.FileType.SYMBOLIC_LINK:
            links += 1
            target = info.get_symlink_target()
            if links > _MAX_LINKS:
                raise invalid(name, "leads from link to link without an end")
            path = [] if target.startswith("/") else path[:-1]
            waiting += target.split("/")[::-1]
        elif not waiting:
            if info.get_file_type() != Gio.FileType.REGULAR or info.get_size() > MAX_FILE_BYTES:
                raise invalid(name, f"leads to no regular file of at most {MAX_FILE_BYTES >> 10} KiB")
            return bytes(file.read(None).read_bytes(MAX_FILE_BYTES, None).get_data())
    raise invalid(name, "leads to no regular file")
