"""What went wrong with a registry, as one of our errors that says where and with what.

Nothing a server sends is shown but the words of the protocol's own error document, shortened and
stripped of what a terminal would act on; no URL, because a redirect's query is a credential.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
"""

from __future__ import annotations

import base64
import json
import math
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    InvalidManifest,
    NoMatchingPlatform,
    NotFound,
    RegistryAuthRequired,
    RegistryBlocked,
    RegistryDenied,
    RegistryProtocolError,
    RegistryRateLimited,
    RegistryTlsFailed,
    RegistryUnavailable,
    Stalled,
    Truncated,
)
from bootcd.model.text import one_line
from bootcd.oci.reference import ImageReference
from bootcd.registry.retry import parse_retry_after

MAX_ERROR_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about. Every error of this package is made here, so that all carry its fields."""

    reference: ImageReference
    blob: str = ""
    "Digest of the blob; empty for a manifest."
    host: str = ""
    "`host[:port]` the request goes to, if it is not the registry itself."
    image: str = ""
    "The image as it was asked for, if the host's files send somebody who wants it to `reference`."
    insecure: bool = False
    "Unverified TLS and plain HTTP are allowed."

    def __str__(self) -> str:
        name = f"{self.reference}, the place of {self.image}" if self.image else str(self.reference)
        return f"blob {self.blob} of {name}" if self.blob else name

    @property
    def registry_host(self) -> str:
        """The registry's host without its port, as URLs have it."""
        host = self.reference.registry
        return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()

    @property
    def server(self) -> str:
        registry = self.reference.registry
        return f"server {self.host} of registry {registry}" if self.host else f"registry {registry}"

    def fields(self) -> dict[str, str]:
        fields = {
            "registry": self.reference.registry,
            "repository": self.reference.repository,
            "reference": str(self.reference),
        }
        return fields | ({"blob": self.blob} if self.blob else {})

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Say in the error of a parser, which knows only the document, what the document is about."""
        try:
            yield
        except (InvalidManifest, NoMatchingPlatform, RegistryProtocolError) as error:
            if "reference" in error.fields:
                raise
            message = f"{self} from {self.server}: {error.message}"
            raise type(error)(message, hint=error.hint, **(error.fields | self.fields())) from None

    def protocol_error(self, what: str, *, hint: str = "") -> RegistryProtocolError:
        return RegistryProtocolError(f"{self.server} {what} for {self}", hint=hint, **self.fields())

    def truncated(self, got: int, expected: int) -> Truncated:
        message = f"{self.server} ended {self} after {got} of {expected} bytes"
        return Truncated(message, hint="check the network and try again", **self.fields())

    def stalled(self, seconds: float) -> Stalled:
        message = f"{self.server} sent no byte of {self} for {seconds:g} seconds"
        return Stalled(message, hint="check the network and try again", **self.fields())

    def digest_mismatch(self, expected: str, actual: str, *, what: str = "content") -> DigestMismatch:
        return DigestMismatch(
            f"{what} of {self} from {self.server} has digest {actual} instead of {expected}",
            hint="the registry, or something on the way to it, altered or damaged the image",
            expected=expected,
            actual=actual,
            **self.fields(),
        )

    def too_long(self, expected: int) -> DigestMismatch:
        return DigestMismatch(
            f"{self} from {self.server} is longer than its {expected} bytes",
            hint="the registry, or something on the way to it, altered or damaged the image",
            expected=self.blob,
            actual="",
            **self.fields(),
        )

    def blocked(self) -> RegistryBlocked:
        return RegistryBlocked(
            f"this host's configuration blocks {self}",
            hint="see containers-registries.conf(5) for the files that say so",
            **self.fields(),
        )

    def paused(self, status: int, seconds: float) -> BootcdError:
        """Make the error of not asking a server that answered with `status` and has to be left alone."""
        kind = RegistryRateLimited if status == 429 else RegistryUnavailable
        left = math.ceil(seconds)
        return kind(
            f"{self.server} asked to be left alone for another {left} seconds, which {self} has to wait for",
            hint="try again later",
            **self.fields(),
            retry_after_secs=left,
        )

    def auth_required(self, *, refused: bool, words: str = "") -> RegistryAuthRequired:
        """Make the error of a missing credential, or of one that was `refused`."""
        return RegistryAuthRequired(
            f"{self.server} does not accept the credential for {self}{words}"
            if refused
            else f"{self.server} wants a login to read {self}{words}",
            hint="check the image name, and put a credential for it into /etc/ostree/auth.json",
            **self.fields(),
        )

    def answered(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        secret: str = "",
        logged_in: bool = False,
    ) -> BootcdError:
        """Make the error an answer with a status other than success stands for.

        `secret` is the Authorization or token that was sent; a server that repeats it is not quoted.
        `logged_in` tells that a credential stood behind it.
        """
        words = error_words(body, secret)
        fields: dict[str, Any] = {**self.fields()}
        retry_after = parse_retry_after(headers.get("Retry-After", ""), now)
        if retry_after is not None:
            fields["retry_after_secs"] = retry_after
        if status == 401:
            return self.auth_required(refused=logged_in, words=words)
        if status == 403:
            return RegistryDenied(
                f"{self.server} does not allow reading {self}{words}",
                hint="ask the owner of the repository for read access",
                **fields,
            )
        if status == 404:
            hint = "the image may be gone from the registry" if self.blob else "check the image name"
            return NotFound(f"{self.server} has no {self}{words}", hint=hint, **fields)
        if status == 429:
            return RegistryRateLimited(
                f"{self.server} refused {self} because of too many requests{words}",
                hint="try again later, or log in if the registry allows more to users it knows",
                **fields,
            )
        if status >= 500:
            return RegistryUnavailable(
                f"{self.server} answered {status} for {self}{words}", hint="try again later", **fields
            )
        return RegistryProtocolError(f"{self.server} answered {status} for {self}{words}", **fields)

    def unreachable(self, error: Exception) -> BootcdError:
        """Make the error of a request that got no answer, from what aiohttp raised."""
        # aiohttp's own classes derive from ssl's but lack their attributes; what they wrap has them.
        inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(inner, ssl.SSLCertVerificationError):
            return RegistryTlsFailed(
                f"the certificate of {self.server} is not accepted for {self}{_detail(inner.verify_message)}",
                hint="add its issuer to the system's certificates, or name the issuer's file as ca_file",
                **self.fields(),
            )
        if isinstance(inner, ssl.SSLError):
            return RegistryTlsFailed(
                f"{self.server} does not speak TLS as expected for {self}{_detail(inner.reason)}",
                hint="if it speaks plain HTTP and you accept that, configure it as insecure",
                **self.fields(),
            )
        if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
            return self._unavailable("the configured proxy gives no way to {}", inner, "check HTTPS_PROXY")
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return self._unavailable("no address of {} is known", inner, "check the registry's name and DNS")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return self._unavailable("{} cannot be connected to", inner, "check the network")
        if isinstance(error, TimeoutError):
            return self._unavailable("{} gave no answer in time", inner, "try again later")
        if isinstance(error, aiohttp.ClientResponseError | ValueError):
            return self.protocol_error("did not speak HTTP as expected")
        return self._unavailable("{} closed the connection", inner, "check the network")

    def _unavailable(self, message: str, error: Exception, hint: str) -> RegistryUnavailable:
        number = (
            error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
        )
        reason = _detail(os.strerror(number)) if number and number > 0 else ""
        return RegistryUnavailable(
            f"{message.format(self.server)} for {self}{reason}", hint=hint, **self.fields()
        )


def error_words(body: bytes, secret: str = "") -> str:
    """Return ` (CODE: message)` of the first error in an error document, or nothing if it is none."""
    try:
        first = json.loads(body)["errors"][0]
        parts = [first.get("code"), first.get("message")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""
    text = ": ".join(part for part in parts if isinstance(part, str) and part)
    if any(word in text for word in _unspeakable(secret)):
        return ""
    words = one_line(text)
    return f" ({words})" if words else ""


def _unspeakable(secret: str) -> Iterator[str]:
    """Yield what may not be shown of an Authorization: the token, and of a login the password."""
    scheme, _, token = secret.rpartition(" ")
    if token:
        yield token
    if scheme == "Basic":
        password = base64.b64decode(token).decode(errors="replace").partition(":")[2]
        if password:
            yield password


def _detail(reason: str | None) -> str:
    return f": {one_line(reason).rstrip('.')}" if reason else ""
