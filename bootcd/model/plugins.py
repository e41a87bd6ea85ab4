"""Plugins of pydantic, which nobody has and everybody would look for.

To find them, pydantic reads the metadata of all installed packages with a library that parses e-mail. A
program that is started often calls this before it imports a model.
"""

from __future__ import annotations

import sys
from types import ModuleType


def leave_out_plugins() -> None:
    """Keep pydantic from looking for plugins in this process.

    PYDANTIC_DISABLE_PLUGINS turns them off, but only once what reads the metadata is loaded. A pydantic
    without this module looks for them as it always did.
    """
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules.setdefault(loader.__name__, loader)
