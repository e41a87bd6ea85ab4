"""What a connection reads: messages of a bounded size, no descriptors, and a little at a time.

A bus delivers up to 32 MiB in one message, from anybody to anybody, and unpacked that is twenty times
as much memory and many seconds of work. So a body that is larger than any member takes is cut off
before it is unpacked, and a mark in the flags tells the reader.
https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol-messages
"""

from __future__ import annotations

import array
import errno
import os
import socket
from typing import Any

CUT = 0x80
"Flag of a message whose body was cut off; no flag of the protocol, and taken from whoever sends it."

BODY_LIMIT = 64 << 10
"Bytes of a call or a signal; an image reference is the largest thing anybody has to say."
REPLY_LIMIT = 1 << 20
"Bytes of an answer to a call of ours, and of the header of anything. What has more header is dropped."

_START = 16
"Bytes up to the header's fields; they hold the lengths of all that follows."
_LITTLE_ENDIAN = ord("l")
_REPLIES = (2, 3)
_PIECE = 16 << 10
"Bytes read before the loop gets its turn again: some hundred messages at most."

Rights = list[tuple[int, int, bytes]]


class Inbox:
    """A connected socket as dbus_fast reads it, with `recvmsg`; everything else is the socket's own."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._piece = bytearray()
        self._start = bytearray()
        self._hand_on = 0
        "Bytes left of the message that is being handed on."
        self._drop = 0
        "Bytes left of what was cut off."
        self._had_turn = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recvmsg(self, size: int, control: int) -> tuple[bytes, Rights, int, Any]:
        """Receive part of a message: its start, whole, or of its rest what is here, up to `size`.

        Raises BlockingIOError also where others have a turn first.
        """
        while True:
            if not self._piece and not self._fill(control):
                return b"", [], 0, None
            if self._drop and not self._hand_on:
                self._drop -= len(self._take(self._drop))
            elif self._hand_on:
                part = self._take(min(size, self._hand_on))
                self._hand_on -= len(part)
                return part, [], 0, None
            else:
                self._start += self._take(_START - len(self._start))
                if len(self._start) == _START and (start := self._begin()):
                    return start, [], 0, None

    def _fill(self, control: int) -> bool:
        """Read the next piece; False at the end of the stream."""
        if self._had_turn:
            self._had_turn = False
            raise BlockingIOError(errno.EAGAIN, "Others have a turn first")
        data, rights, _, _ = self._socket.recvmsg(_PIECE, control)
        _close(rights)
        self._piece += data
        self._had_turn = bool(data)
        return bool(data)

    def _take(self, most: int) -> bytes:
        part = bytes(self._piece[:most])
        del self._piece[:most]
        return part

    def _begin(self) -> bytes:
        """Decide how much of a message is handed on and return its start; empty to drop it all."""
        start, self._start = self._start, bytearray()
        order = "little" if start[0] == _LITTLE_ENDIAN else "big"
        body = int.from_bytes(start[4:8], order)  # type: ignore[arg-type]
        fields = int.from_bytes(start[12:16], order)  # type: ignore[arg-type]
        header = fields + -fields % 8
        start[2] &= ~CUT & 0xFF
        if header > REPLY_LIMIT:
            self._drop = header + body
            return b""
        if body <= (REPLY_LIMIT if start[1] in _REPLIES else BODY_LIMIT):
            self._hand_on = header + body
        else:
            self._hand_on, self._drop = header, body
            start[2] |= CUT
            start[4:8] = bytes(4)
        return bytes(start)


def _close(rights: Rights) -> None:
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors = array.array("i")
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            for descriptor in descriptors:
                os.close(descriptor)
