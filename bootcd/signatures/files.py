"""Where the host keeps signatures, and the keys its policy names."""

from __future__ import annotations

from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig, SignatureRejected
from bootcd.oci.trust.policy import Keys
from bootcd.oci.trust.registriesd import MAX_FILE_BYTES, SignatureStorage, merge_files

REGISTRIES_D = "etc/containers/registries.d"

_MAX_FILES = 256
_MAX_KEY_BYTES = 1 << 20


def load_storage(root: Path) -> SignatureStorage:
    """Read where signatures are kept. Blocks. Raises InvalidConfig."""
    directory = root / REGISTRIES_D
    try:
        names = sorted(path.name for path in directory.iterdir() if path.name.endswith(".yaml"))
        if len(names) > _MAX_FILES:
            raise InvalidConfig(f"/{REGISTRIES_D} has more than {_MAX_FILES} files")
        files = [
            (f"/{REGISTRIES_D}/{name}", read_bounded(directory / name, MAX_FILE_BYTES)) for name in names
        ]
    except FileNotFoundError:
        return SignatureStorage()
    except OSError as error:
        raise InvalidConfig(
            f"/{REGISTRIES_D} cannot be read: {error.strerror}", path=f"/{REGISTRIES_D}"
        ) from error
    return merge_files(files)


def load_keys(keys: Keys) -> list[bytes]:
    """Read key material a policy names. Blocks. Raises SignatureRejected where a file cannot be read."""
    loaded = list(keys.data)
    for path in keys.paths:
        try:
            loaded.append(read_bounded(Path(path), _MAX_KEY_BYTES))
        except OSError as error:
            raise SignatureRejected(
                f"the key file {path} of the policy cannot be read: {error.strerror}"
            ) from error
    return loaded
