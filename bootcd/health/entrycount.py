"""Boots counted by systemd-boot, in the names of boot entries, on hosts whose entries bootc writes.

What is staged gets a number of attempts before bootc puts its entry in place, as the host goes down. At each
boot systemd-boot takes one away, and an entry that has none left is the last one of its menu. bootc knows
entries by what is in them, whatever their names. Where the attempts end without a verdict, the version
before is booted.

systemd-bless-boot(8) takes the counter away after a good boot; that is done here as well, as it may not
rename files in the EFI system partition under some SELinux policies. Who else counts decides what
becomes of it: what was not counted from here is left alone.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from bootcd.health.bootcount import ATTEMPTS, writable
from bootcd.host.files import read_bounded, sync_directory, write_atomic
from bootcd.ostreefmt.bootentries import EntryName, counted_image, parse_entry_name

log = logging.getLogger(__name__)

_PLACES = ("boot", "efi", "boot/efi")
"Where the EFI system partition may be mounted."
_ENTRIES, _STAGED = "loader/entries", "loader/entries.staged"
_ENTRY_LIMIT = 64 << 10
_MARK = "counted"
_MARK_LIMIT = 4096


def find_place(root: Path) -> Path | None:
    """Return where the file system with the boot entries is mounted."""
    places = (root / name for name in _PLACES)
    return next((place for place in places if (place / _ENTRIES).is_dir()), None)


def read_entries(root: Path) -> list[str]:
    """Return what is in the boot entries; what cannot be read is left out. Blocks."""
    place = find_place(root)
    texts = []
    for path in sorted((place / _ENTRIES).glob("*.conf")) if place else ():
        with suppress(OSError):
            texts.append(read_bounded(path, _ENTRY_LIMIT).decode(errors="replace"))
    return texts


class EntryCounter:
    """The counters of a host's entries. Every method blocks; `deployment` is the id bootc gives it.

    Call what changes them while the process has one thread, as it may move to a mount namespace of its own.
    """

    def __init__(self, root: Path, state: Path) -> None:
        self._place = find_place(root)
        self._mark = state / _MARK

    @property
    def supported(self) -> bool:
        return self._place is not None

    def gave_up_on(self, deployment: str) -> bool:
        return any(name.left == 0 for _, name in self._entries(_ENTRIES, deployment))

    def begin_anew(self) -> bool:
        """Do nothing: the entry stays the last one until the boot order is changed."""
        return True

    def arm(self, deployment: str) -> bool:
        """Give what is staged its attempts, unless somebody has."""
        counted = False
        for path, name in self._entries(_STAGED, deployment):
            if name.left is None:
                counted = self._note(deployment) and _rename(path, EntryName(name.stem, ATTEMPTS))
        return counted

    def disarm(self, deployment: str, *, good: bool) -> None:
        """Stop counting what was counted from here."""
        try:
            if read_bounded(self._mark, _MARK_LIMIT) != deployment.encode():
                return
        except OSError:
            return
        done = [
            _rename(path, EntryName(name.stem))
            for path, name in self._entries(_ENTRIES, deployment)
            if name.left is not None
        ]
        if all(done):
            self._mark.unlink(missing_ok=True)

    def _note(self, deployment: str) -> bool:
        """Remember that it is counted from here, which is what ends that."""
        try:
            self._mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._mark, deployment.encode())
        except OSError as error:
            log.warning("boots are not counted, %s cannot be written: %s", self._mark, error.strerror)
            return False
        return True

    def _entries(self, directory: str, deployment: str) -> list[tuple[Path, EntryName]]:
        """Return the entries that boot a deployment."""
        if self._place is None or not deployment:
            return []
        found = []
        for path in sorted((self._place / directory).glob("*.conf")):
            name = parse_entry_name(path.name)
            try:
                text = read_bounded(path, _ENTRY_LIMIT).decode(errors="replace")
            except OSError:
                continue
            if name is not None and counted_image(text) == deployment:
                found.append((path, name))
        return found


def _rename(path: Path, name: EntryName) -> bool:
    target = path.with_name(str(name))
    try:
        if target.exists():
            raise FileExistsError(None, "another entry has that name", str(target))
        writable(path, lambda: path.rename(target))
        sync_directory(path.parent)
    except OSError as error:
        log.warning("boots cannot be counted, %s cannot be renamed: %s", path, error.strerror)
        return False
    return True
