"""Release notes attached to an image in its registry, found by hosts that check for updates.

A registry that knows OCI 1.1 lists what refers to an image by itself, and says so in its answer. For one
that does not, the list is an index under a tag, which whoever attaches something adds to.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

import json
import logging
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import oras.auth
import oras.provider
import requests
import requests.adapters

from bootcd.host.clock import SystemClock
from bootcd.host.files import read_bounded
from bootcd.model.errors import (
    BootcdError,
    InvalidArguments,
    InvalidManifest,
    NotFound,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryProtocolError,
    RegistryTlsFailed,
    RegistryUnavailable,
)
from bootcd.oci.manifest import (
    CREATED,
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    parse_manifest,
)
from bootcd.oci.notes import (
    ARTIFACT_TYPE,
    EMPTY_TYPE,
    LAYER_TYPE,
    MAX_NOTES_BYTES,
    clean_notes,
)
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.resolve import digest_of
from bootcd.oci.strictjson import parse_object
from bootcd.oci.trust.attachment import referrers_tag

_DEADLINE_SECS = 60
_LOGIN_HINT = "log in with podman login or docker login, or name a file with --authfile"
_EMPTY = b"{}"
_ACCEPT = ", ".join(INDEX_MEDIA_TYPES + MANIFEST_MEDIA_TYPES)
_MANIFEST_TYPE, _INDEX_TYPE = MANIFEST_MEDIA_TYPES[0], INDEX_MEDIA_TYPES[0]


def push_notes(
    image: str, file: Path, *, authfile: str = "", plain_http: bool = False, ca_file: str = ""
) -> str:
    """Attach a file to an image; return the digest of the artifact. May be repeated: the newest counts.

    Raises InvalidArguments for a file that is none, InvalidImage, NotFound, and what RegistryError roots.
    """
    text = _read(file)
    if authfile and not Path(authfile).is_file():
        raise InvalidArguments(f"there is no file {authfile}")
    reference = parse_reference(image)
    # What the library logs are parts of what is raised here.
    logging.getLogger("oras").setLevel(logging.CRITICAL)
    try:
        return _Repository(reference, authfile, plain_http, ca_file).attach(text, SystemClock().now())
    except requests.exceptions.SSLError as error:
        raise RegistryTlsFailed(
            f"registry {reference.registry} does not speak TLS as expected",
            hint="name its issuer's certificate with --ca-file, or say --plain-http",
        ) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise RegistryUnavailable(
            f"registry {reference.registry} cannot be reached", hint="check the network and the name"
        ) from error
    except (requests.exceptions.RequestException, ValueError, oras.auth.AuthenticationException) as error:
        # The library's words for a login that is missing or refused; the first where a password is wanted.
        raise RegistryAuthRequired(
            f"registry {reference.registry} does not let {reference.name} be written",
            hint=_LOGIN_HINT,
        ) from error


def _read(file: Path) -> bytes:
    try:
        data = read_bounded(file, MAX_NOTES_BYTES)
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArguments(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise InvalidArguments(
            f"{file} cannot be taken: {error.strerror}", hint=f"a text of at most {MAX_NOTES_BYTES >> 10} KiB"
        ) from error
    if not clean_notes(data):
        raise InvalidArguments(f"{file} says nothing")
    return data


class _Adapter(requests.adapters.HTTPAdapter):
    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; the library sets no deadline."""
        options["timeout"] = options.get("timeout") or _DEADLINE_SECS
        return super().send(request, **options)


class _Client(oras.provider.Registry):  # type: ignore[misc]
    """The library's client, without its retries: two minutes for a registry that is not there."""

    def __init__(self, registry: str, *, plain_http: bool, ca_file: str) -> None:
        super().__init__(registry, insecure=plain_http, tls_verify=ca_file or True)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter())
        challenge = self.session.get(f"{self.prefix}://{registry}/v2/", verify=ca_file or True)
        if challenge.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
            # The library has to be told which of its ways to log in is the registry's.
            self.auth = oras.auth.get_auth_backend(
                "basic", self.session, plain_http, tls_verify=ca_file or True
            )

    def do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        once = oras.provider.Registry.do_request.__wrapped__
        answer: requests.Response = once(self, *arguments, **options)
        if answer.status_code == 401 and getattr(self.auth, "token", None):
            # A token to read is of no use to write: ask for another one.
            self.auth.token = None
            answer = once(self, *arguments, **options)
        return answer


class _Repository:
    """The repository of an image, to write."""

    def __init__(self, reference: ImageReference, authfile: str, plain_http: bool, ca_file: str) -> None:
        self._reference = reference
        self._client = _Client(reference.registry, plain_http=plain_http, ca_file=ca_file)
        self._container = self._client.get_container(str(reference.canonical))
        auth = self._client.auth
        auth.load_configs(self._container, configs=[authfile] if authfile else None)
        if isinstance(auth, oras.auth.BasicAuth) and not getattr(auth, "_basic_auth", None):
            raise RegistryAuthRequired(f"registry {reference.registry} wants a login", hint=_LOGIN_HINT)

    def attach(self, text: bytes, now: datetime) -> str:
        subject = self._subject()
        created = {CREATED: now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": self._upload(_EMPTY, EMPTY_TYPE),
            "layers": [self._upload(text, LAYER_TYPE)],
            "subject": subject,
            "annotations": created,
        }
        manifest = _json(document)
        digest = digest_of(manifest)
        answer = self._put(digest, manifest, _MANIFEST_TYPE)
        if "OCI-Subject" not in answer.headers:
            entry = _descriptor(manifest, _MANIFEST_TYPE) | {
                "artifactType": ARTIFACT_TYPE,
                "annotations": created,
            }
            self._list(referrers_tag(str(subject["digest"])), entry)
        return digest

    def _subject(self) -> dict[str, Any]:
        """Describe what the image's name stands for, an index or a manifest."""
        answer = self._ask("GET", self._reference.for_fetch, headers={"Accept": _ACCEPT})
        data = self._content(answer)
        if self._reference.digest and digest_of(data, self._reference.digest) != self._reference.digest:
            raise InvalidManifest(f"{self._reference} is not what registry {self._reference.registry} gave")
        return _descriptor(data, parse_manifest(data, answer.headers.get("Content-Type")).media_type)

    def _list(self, tag: str, entry: dict[str, Any]) -> None:
        """Add an artifact to the index that stands for the registry's list of them."""
        try:
            data = self._content(self._ask("GET", tag, headers={"Accept": _INDEX_TYPE}))
            index = parse_object(
                data, what="the index of referrers", limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest
            )
            entries = index.get("manifests")
            if not isinstance(entries, list):
                raise InvalidManifest("the index of referrers lists nothing")
        except NotFound:
            index, entries = {"schemaVersion": 2, "mediaType": _INDEX_TYPE}, []
        self._put(tag, _json(index | {"manifests": [*entries, entry]}), _INDEX_TYPE)

    def _upload(self, data: bytes, media_type: str) -> dict[str, Any]:
        descriptor = _descriptor(data, media_type)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self._checked(self._client.upload_blob(file.name, self._container, descriptor), "a blob")
        return descriptor

    def _put(self, name: str, document: bytes, media_type: str) -> requests.Response:
        return self._ask("PUT", name, data=document, headers={"Content-Type": media_type})

    def _ask(self, method: str, name: str, **arguments: Any) -> requests.Response:
        url = f"{self._client.prefix}://{self._container.manifest_url(name)}"
        return self._checked(self._client.do_request(url, method, **arguments), name)

    def _checked(self, answer: requests.Response, what: str) -> requests.Response:
        registry, status = self._reference.registry, answer.status_code
        if status in (200, 201, 202):
            return answer
        errors: dict[int, type[BootcdError]] = {
            401: RegistryAuthRequired,
            403: RegistryDenied,
            404: NotFound,
        }
        kind = errors.get(status, RegistryUnavailable if status >= 500 else RegistryProtocolError)
        raise kind(
            f"registry {registry} answered {status} for {what} of {self._reference}",
            hint=_LOGIN_HINT if status in (401, 403) else "",
        )

    def _content(self, answer: requests.Response) -> bytes:
        if len(answer.content) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(
                f"a manifest of {self._reference} is larger than {MAX_MANIFEST_BYTES} bytes"
            )
        return answer.content


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
