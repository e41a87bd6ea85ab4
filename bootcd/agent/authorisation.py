"""The question whether a caller may do something, as a front end that cannot ask itself passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bootcd.host.peers import Peer


class NotAuthorised(Exception):
    """A refusal that is no error of the product; `name` is how every front end calls it.

    "InteractiveAuthorizationRequired" or "LimitsExceeded".
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text


class Authorise(Protocol):
    async def __call__(
        self, peer: Peer, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        """Return if the process may do the action, named by its last part.

        Raises AccessDenied or NotAuthorised; a cancelled call takes its prompt down.
        """
