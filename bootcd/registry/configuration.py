"""The host's files about registries: containers-registries.conf(5) and its drop-ins.

The main file is that of the administrator or else that of the image. Of two drop-ins with one name the
administrator's is read, and all are put over the main file in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig
from bootcd.oci.registries import MAX_REGISTRIES_BYTES, RegistriesConf, parse_registries

MAIN_FILES = ("etc/containers/registries.conf", "usr/share/containers/registries.conf")
DROP_IN_DIRS = ("usr/share/containers/registries.conf.d", "etc/containers/registries.conf.d")
"What counts most comes last."


def load_registries(root: Path) -> RegistriesConf:
    """Read what the files below `root` say; nothing where there are none.

    Blocks. Raises InvalidConfig at the first file that cannot be read or is not valid.
    """
    conf = RegistriesConf()
    for name in MAIN_FILES:
        data = _read(root, name)
        if data is not None:
            conf = parse_registries(data, f"/{name}")
            break
    for name in _drop_ins(root):
        data = _read(root, name)
        if data is not None:
            conf = conf.updated(parse_registries(data, f"/{name}", drop_in=True))
    return conf


def _drop_ins(root: Path) -> Iterator[str]:
    found: dict[str, str] = {}
    for directory in DROP_IN_DIRS:
        try:
            entries = list((root / directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unreadable(directory, error) from None
        found |= {path.name: f"{directory}/{path.name}" for path in entries if path.suffix == ".conf"}
    for _, name in sorted(found.items()):
        if not (root / name).is_dir():
            yield name


def _read(root: Path, name: str) -> bytes | None:
    try:
        return read_bounded(root / name, MAX_REGISTRIES_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> InvalidConfig:
    return InvalidConfig(f"registries file /{name}: cannot be read: {error.strerror}", path=f"/{name}")
