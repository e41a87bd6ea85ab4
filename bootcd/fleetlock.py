"""Client of a FleetLock server, which lets so many hosts of a group reboot at once and no more.

https://coreos.github.io/zincati/development/fleetlock/protocol/. A host is known by the id that Zincati has
for it, so that it stays the same host to a server, and servers that know hosts by their machine-id
know it. No web proxy is used.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl

import aiohttp

from bootcd.host.machineid import application_id
from bootcd.model.errors import FleetLockRefused, FleetLockUnavailable, InvalidConfig
from bootcd.model.text import one_line

DEADLINE_SECS = 30.0
"Of one request, from the look-up of the name to the last byte."
_ANSWER_LIMIT = 16 << 10
_APPLICATION = bytes.fromhex("de35106b6ec24688b63afddaa156679b")
"Of Zincati, see its src/identity/mod.rs."


def client_id(machine_id: str) -> str:
    """Return the id of a host: its machine-id, which is confidential, hashed as by sd_id128_get_machine(3).

    Raises InvalidConfig if it is none.
    """
    try:
        return application_id(machine_id, _APPLICATION).hex()
    except ValueError:
        raise InvalidConfig("/etc/machine-id holds no machine id, by which a fleet lock is held") from None


class FleetLock:
    """The slot of one host. Both requests can be made any number of times."""

    def __init__(self, url: str, group: str, host: str, *, deadline_secs: float = DEADLINE_SECS) -> None:
        self._url = url.rstrip("/")
        self._body = {"client_params": {"group": group, "id": host}}
        self._deadline_secs = deadline_secs

    async def acquire(self) -> None:
        """Take a slot, or keep the one this host has.

        Raises:
            FleetLockRefused: there is none now.
            FleetLockUnavailable: nobody said so; the slot may be taken all the same.
        """
        await self._post("v1/pre-reboot")

    async def release(self) -> None:
        """Give the slot back, if this host has one. For errors see `acquire`."""
        await self._post("v1/steady-state")

    async def _post(self, endpoint: str) -> None:
        context = await asyncio.to_thread(ssl.create_default_context)
        try:
            async with (
                asyncio.timeout(self._deadline_secs),
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=context),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                ) as session,
                session.post(
                    f"{self._url}/{endpoint}",
                    json=self._body,
                    headers={"fleet-lock-protocol": "true", "Accept-Encoding": "identity"},
                    allow_redirects=False,
                ) as answer,
            ):
                if answer.status != 200:
                    raise self._failure(answer.status, await _read(answer))
        except TimeoutError:
            raise self._unavailable(f"has not answered after {self._deadline_secs:g} s") from None
        except aiohttp.ClientSSLError:
            raise self._unavailable("cannot be trusted: its certificate is not accepted") from None
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            reason = os.strerror(number) if number and number > 0 else "its name has no address"
            raise self._unavailable(f"cannot be reached: {reason}") from None
        except (aiohttp.ClientError, ValueError):
            raise self._unavailable("has broken off or does not speak HTTP") from None

    def _failure(self, status: int, body: bytes) -> FleetLockRefused | FleetLockUnavailable:
        try:
            document = json.loads(body)
            kind, value = _plain(document["kind"]), _plain(document["value"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._unavailable(f"answers with status {status}, and not as the protocol says")
        return FleetLockRefused(
            f"the fleet lock server {self._url} refused: {value}", url=self._url, kind=kind
        )

    def _unavailable(self, what: str) -> FleetLockUnavailable:
        return FleetLockUnavailable(
            f"the fleet lock server {self._url} {what}",
            hint="without its leave this host does not reboot by itself; bootcctl apply does not ask it",
            url=self._url,
        )


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Return the body, or as much of it as may be; an error document is short."""
    body = b""
    while len(body) < _ANSWER_LIMIT and (more := await answer.content.read(_ANSWER_LIMIT - len(body))):
        body += more
    return body


def _plain(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return one_line(value)
