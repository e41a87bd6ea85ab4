"""Documents kept in files, of which any may be missing, damaged or of another version."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bootcd.host.files import read_bounded

log = logging.getLogger(__name__)

_Document = TypeVar("_Document", bound=BaseModel)


def load_document(path: Path, limit: int, kind: type[_Document]) -> _Document | None:
    """Read a document of at most `limit` bytes; None, with a warning, if it cannot be read or understood.

    One that is not there is no reason for a warning. Blocks.
    """
    try:
        return kind.model_validate_json(read_bounded(path, limit))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its content is not understood"
        log.warning("cannot read %s, proceeding without: %s", path, reason)
        return None
