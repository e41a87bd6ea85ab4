"""One blob as a stream of bytes that continues after a cut and ends well only if the digest is right.

A later answer may come from another mirror or a registry that knows no ranges, so nothing is taken
from it on trust: the digest is of the bytes that were handed out, in their order, from whichever
answer they came. A part of a blob has no digest of its own; who asks for it knows how to verify it. https://www.rfc-editor.org/rfc/rfc9110#section-14
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing

from bootcd.model.errors import BootcdError, RegistryProtocolError
from bootcd.oci.manifest import Descriptor
from bootcd.registry.failures import Target
from bootcd.registry.route import Tries
from bootcd.registry.transport import Answer

Exchange = Callable[[Mapping[str, str]], AbstractAsyncContextManager[Answer]]
"Asks for the blob with the given headers and yields an answer with status 200, 206 or 416."

_PROGRESS_BYTES = 1 << 20
"A try that brought this much counts as success, so a long blob may be cut any number of times."

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


async def stream_blob(
    exchange: Exchange, descriptor: Descriptor, tries: Tries
) -> AsyncGenerator[bytes, None]:
    """Yield the blob in chunks of what the network brings, at most twice the transport's READ_BYTES.

    Chunks are unverified until the iteration has ended by itself. Raises DigestMismatch for other or
    more bytes than described, Truncated, Stalled and the other errors of the transport.
    """
    running = hashlib.new(descriptor.digest.partition(":")[0])
    done = tried_from = 0
    while True:
        headers = {"Range": f"bytes={done}-{descriptor.size - 1}"} if done else {}
        try:
            async with exchange(headers) as answer:
                if answer.status == 206 and not done:
                    raise answer.target.protocol_error("sent a part of the content, unasked,")
                skip = _bytes_to_skip(answer, done, descriptor.size)
                async with aclosing(answer.chunks()) as chunks:
                    async for received in chunks:
                        chunk = received
                        if skip:
                            chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        if done + len(chunk) > descriptor.size:
                            raise tries.target.too_long(descriptor.size)
                        if chunk:
                            running.update(chunk)
                            done += len(chunk)
                            yield chunk
            if done < descriptor.size:
                raise tries.target.truncated(done, descriptor.size)
            break
        except BootcdError as error:
            if done - tried_from >= _PROGRESS_BYTES:
                tries.progressed()
            tried_from = done
            await tries.failed(error)
    actual = f"{running.name}:{running.hexdigest()}"
    if actual != descriptor.digest:
        mismatch = tries.target.digest_mismatch(descriptor.digest, actual)
        tries.distrust(mismatch)
        raise mismatch


async def read_range(
    exchange: Exchange,
    descriptor: Descriptor,
    start: int,
    size: int,
    tries: Tries,
) -> bytes | None:
    """Return a part of the blob, as unverified as it came; None from a server that knows no ranges.

    A cut is continued where it was. Raises Truncated, Stalled and the other errors of the transport.
    """
    received = bytearray()
    while True:
        before = len(received)
        try:
            while len(received) < size:
                place = start + len(received)
                async with exchange({"Range": f"bytes={place}-{start + size - 1}"}) as answer:
                    if answer.status == 200 and answer.content_type != "text/html":
                        return None
                    _bytes_to_skip(answer, place, descriptor.size)
                    async with aclosing(answer.chunks()) as chunks:
                        async for chunk in chunks:
                            received += chunk
                            if len(received) > size:
                                raise _wrong_range(answer.target)
                if start + len(received) == place:
                    raise tries.target.truncated(place, start + size)
            return bytes(received)
        except BootcdError as error:
            if len(received) - before >= _PROGRESS_BYTES:
                tries.progressed()
            await tries.failed(error)


def _bytes_to_skip(answer: Answer, done: int, size: int) -> int:
    """Return how many bytes at the start of the body were handed out before."""
    target = answer.target
    if answer.content_type == "text/html":
        raise answer.web_page()
    if answer.status == 416:
        # The copy of this server ends where we are; another one may have the rest.
        raise target.truncated(done, size)
    if answer.status == 200:
        return done
    stated = answer.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(stated.strip())
    if not match or int(match[1]) != done or not done <= int(match[2]) < size:
        raise _wrong_range(target)
    if match[3] not in ("*", str(size)):
        raise _wrong_range(target)
    return 0


def _wrong_range(target: Target) -> RegistryProtocolError:
    return target.protocol_error("sent the wrong part of the content")
