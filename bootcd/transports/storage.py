"""The `containers-storage:` transport: what podman and buildah have on this host, read through skopeo.

skopeo is spoken to as bootc does: its proxy gives manifest and blobs through pipes, so an image is not on
the disk twice on its way. The store has unpacked its layers and makes archives of them again; what holds
them to the image are the diff_ids of its config, which the importer verifies.

Protocol: `cmd/skopeo/proxy.go` of https://github.com/containers/skopeo
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Generator
from contextlib import closing
from typing import Any

from bootcd.host.process import signal_process, spawn
from bootcd.model.errors import BackendFailed, BootcdError, InvalidManifest, NotFound, Unsupported
from bootcd.model.text import one_line
from bootcd.oci.manifest import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageManifest,
    parse_config,
    parse_manifest,
)
from bootcd.oci.reference import is_digest
from bootcd.oci.resolve import Document, digest_of

_COMMAND = ("skopeo", "--insecure-policy", "experimental-image-proxy", "--sockfd", "0")
"Whether the image may run on this host was decided by its policy before."
_MESSAGE_BYTES = 32 << 10
_READ_BYTES = 1 << 20
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_ABSENT = ("does not resolve to an image ID", "identifier is not an image", "image not known")


class StorageImage:
    """An image of the host's store."""

    def __init__(self, name: str, image: str) -> None:
        self.image = image
        self._name = name
        self._diff_ids: dict[str, str] = {}
        self._proxy = _Proxy(name, image)

    def current_digest(self) -> str:
        return self._manifest()[0]

    def manifest(self, entry: Descriptor | None) -> Document:
        assert entry is None, "the proxy has chosen from an index already"
        digest, data = self._manifest()
        try:
            manifest = parse_manifest(data, None)
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.image}: {error.message}", image=self.image) from error
        if isinstance(manifest, ImageManifest):
            layers = tuple(layer.model_copy(update={"media_type": _LAYER_TYPE}) for layer in manifest.layers)
            manifest = manifest.model_copy(update={"layers": layers})
        return Document(data, digest, manifest)

    def config(self, manifest: ImageManifest) -> bytes:
        """Return the config, which is not the stored one where skopeo made the manifest of one of docker."""
        wanted = manifest.config
        data = self._proxy.read("GetFullConfig", limit=MAX_CONFIG_BYTES)[1]
        if digest_of(data, wanted.digest) != wanted.digest:
            data = self._proxy.read("GetBlob", wanted.digest, wanted.size, limit=MAX_CONFIG_BYTES)[1]
        # Without a diff_id for each layer the image is refused when it is resolved.
        pairs = zip(manifest.layers, parse_config(data).diff_ids, strict=False)
        self._diff_ids = {layer.digest: diff_id for layer, diff_id in pairs}
        return data

    def blob(self, layer: Descriptor) -> Generator[bytes, None, None]:
        # One conversation gives one blob at a time.
        with closing(_Proxy(self._name, self.image)) as proxy:
            # The size counts only for what the proxy says at the end, which the diff_id says better.
            _, chunks = proxy.ask("GetBlob", self._diff_ids[layer.digest], 0)
            yield from chunks

    def close(self) -> None:
        self._proxy.close()

    def _manifest(self) -> tuple[str, bytes]:
        digest, data = self._proxy.read("GetManifest", limit=MAX_MANIFEST_BYTES)
        if not isinstance(digest, str) or not is_digest(digest):
            raise self._proxy.failure("skopeo gave no digest of it")
        return digest, data


class _Proxy:
    """One conversation with skopeo about one image."""

    def __init__(self, name: str, image: str) -> None:
        self._image = image
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
            try:
                self._process = spawn(
                    _COMMAND, stdin=theirs.fileno(), stdout=nowhere.fileno(), stderr=nowhere.fileno()
                )
            except OSError as error:
                self._socket.close()
                raise Unsupported(
                    f"{image} is read through skopeo, which cannot be started",
                    hint="install skopeo anew",
                    image=image,
                ) from error
        try:
            self._send("Initialize")
            self._receive()
            self._send("OpenImage", f"containers-storage:{name}")
            self._id = self._receive()[0]
        except BaseException:
            self.close()
            raise

    def read(self, method: str, *arguments: Any, limit: int) -> tuple[Any, bytes]:
        """Ask for a document; return the value of the answer and the document."""
        value, chunks = self.ask(method, *arguments)
        data = bytearray()
        with closing(chunks):
            for chunk in chunks:
                data += chunk
                if len(data) > limit:
                    raise self.failure(f"a document of it is larger than {limit} bytes")
        return value, bytes(data)

    def ask(self, method: str, *arguments: Any) -> tuple[Any, Generator[bytes, None, None]]:
        """Ask for something of the image; return the value of the answer and the content it comes with."""
        self._send(method, self._id, *arguments)
        value, pipe, number = self._receive()
        if pipe < 0:
            raise self.failure("skopeo answers otherwise than expected")
        return value, self._content(pipe, number)

    def close(self) -> None:
        """End skopeo, which also ends at the end of the socket, whatever becomes of us."""
        self._socket.close()
        signal_process(self._process, signal.SIGKILL, group=True)
        os.waitpid(self._process.pid, 0)

    def _content(self, pipe: int, number: int) -> Generator[bytes, None, None]:
        try:
            # The pipe's end comes only to those who ask for it.
            self._send("FinishPipe", number)
            while chunk := os.read(pipe, _READ_BYTES):
                yield chunk
        finally:
            os.close(pipe)
        # A refusal is of another size or digest than that of the archive the store makes; the caller knows.
        self._receive(refusable=True)

    def _send(self, method: str, *arguments: Any) -> None:
        try:
            self._socket.send(json.dumps({"method": method, "args": arguments}).encode())
        except OSError as error:
            raise self.failure("skopeo has ended") from error

    def _receive(self, *, refusable: bool = False) -> tuple[Any, int, int]:
        """Return the value of an answer, a pipe to read or -1, and the number of the pipe."""
        try:
            answer, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, 1)
        except OSError as error:
            raise self.failure("skopeo has ended") from error
        pipe = descriptors[0] if descriptors else -1
        try:
            reply = json.loads(answer)
            success, value, number = reply["success"], reply.get("value"), reply.get("pipeid") or 0
            words = str(reply.get("error") or "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _close(pipe)
            raise self.failure(
                "skopeo answers otherwise than expected" if answer else "skopeo has ended"
            ) from error
        if not success and not refusable:
            _close(pipe)
            raise self.failure(words)
        return value, pipe, number

    def failure(self, words: str) -> BootcdError:
        if any(absent in words for absent in _ABSENT):
            return NotFound(f"this host has no {self._image}", hint="see: podman images", image=self._image)
        return BackendFailed(f"{self._image} cannot be read: {one_line(words)}", image=self._image)


def _close(pipe: int) -> None:
    if pipe >= 0:
        os.close(pipe)
