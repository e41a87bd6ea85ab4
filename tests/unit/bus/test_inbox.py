from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from dbus_fast import Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.bus.inbox import BODY_LIMIT, CUT, REPLY_LIMIT, Inbox


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        yield ours, theirs


def call(serial: int, size: int = 1, *, path: str = "/p") -> Message:
    return Message("org.example", path, "org.example.I", "M", signature="s", body=["x" * size], serial=serial)


def frame(message: Message) -> bytes:
    return bytes(message._marshall(False))


def big_endian(data: bytes) -> bytes:
    """Return a message without a body in the other byte order; its fields are one text each."""
    swapped = bytearray(data)
    swapped[0] = ord("B")
    for at in (4, 8, 12):
        swapped[at : at + 4] = swapped[at : at + 4][::-1]
    at = 16
    end = 16 + int.from_bytes(data[12:16], "little")
    while at < end:
        at += -at % 8
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        swapped[at + 4 : at + 8] = swapped[at + 4 : at + 8][::-1]
        at += 8 + length + 1
    return bytes(swapped)


def read_all(inbox: Inbox, sender: socket.socket, data: bytes, sizes: list[int]) -> list[Message]:
    """Send data in parts of the sizes, in turn, and return the messages that come out."""
    unmarshaller = Unmarshaller(None, inbox, True)  # type: ignore[arg-type]
    messages: list[Message] = []
    number = 0
    while data:
        sent = sender.send(data[: sizes[number % len(sizes)]])
        data = data[sent:]
        number += 1
        for _ in range(10):  # of two turns one may be others', and a piece is a quarter of the largest part
            while (message := unmarshaller.unmarshall()) is not None:
                messages.append(message)
    return messages


messages = st.lists(
    st.sampled_from(
        [
            (1, False),
            (300, False),
            (BODY_LIMIT - 5, False),
            (BODY_LIMIT - 4, True),
            (BODY_LIMIT * 5, True),
        ]
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(messages, st.lists(st.sampled_from([1, 7, 16, 100, 5_000, 60_000]), min_size=1, max_size=5))
def test_messages_come_whole_or_cut_however_they_arrive(
    sizes: list[tuple[int, bool]], parts: list[int]
) -> None:
    data = b"".join(frame(call(number, size)) for number, (size, _) in enumerate(sizes, 1))
    parts = [max(part, len(data) // 500) for part in parts]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        received = read_all(Inbox(ours), theirs, data, parts)
    assert [message.serial for message in received] == [*range(1, len(sizes) + 1)]
    for message, (size, cut) in zip(received, sizes, strict=True):
        assert bool(message.flags & CUT) == cut
        assert message.body == ([] if cut else ["x" * size])


def test_message_with_endless_header_is_dropped_and_the_next_one_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    data = frame(call(1, BODY_LIMIT * 2, path="/" + "p" * REPLY_LIMIT)) + frame(call(2))
    received = read_all(Inbox(pair[0]), pair[1], data, [50_000])
    assert [message.serial for message in received] == [2]


def test_answer_has_a_larger_limit_than_a_call(pair: tuple[socket.socket, socket.socket]) -> None:
    def answer(serial: int, size: int) -> bytes:
        return frame(
            Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=1,
                signature="s",
                body=["x" * size],
                serial=serial,
            )
        )

    data = answer(1, BODY_LIMIT * 2) + answer(2, REPLY_LIMIT)
    received = read_all(Inbox(pair[0]), pair[1], data, [50_000])
    assert [bool(message.flags & CUT) for message in received] == [False, True]


def test_other_byte_order_is_measured_right(pair: tuple[socket.socket, socket.socket]) -> None:
    plain = Message("org.example", "/p", "org.example.I", "M", serial=1)
    data = big_endian(frame(plain)) + frame(call(2))
    received = read_all(Inbox(pair[0]), pair[1], data, [30])
    assert [(message.serial, message.path) for message in received] == [(1, "/p"), (2, "/p")]


def test_mark_set_by_the_sender_is_taken_off(pair: tuple[socket.socket, socket.socket]) -> None:
    data = bytearray(frame(call(1)))
    data[2] |= CUT
    [message] = read_all(Inbox(pair[0]), pair[1], bytes(data), [1000])
    assert not message.flags & CUT
    assert message.body == ["x"]


def test_descriptors_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ends = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
    theirs.sendmsg([frame(call(1, BODY_LIMIT))[:100]], rights)
    inbox = Inbox(ours)
    inbox.recvmsg(16, socket.CMSG_LEN(64))
    assert len(os.listdir("/proc/self/fd")) == before
    for end in ends:
        os.close(end)


def test_others_have_a_turn_after_each_piece(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(frame(call(1)) * 600)
    unmarshaller = Unmarshaller(None, Inbox(ours), True)  # type: ignore[arg-type]
    turns: list[int] = []
    while not turns or any(turns[-2:]):
        count = 0
        while unmarshaller.unmarshall() is not None:
            count += 1
        turns.append(count)
    assert sum(turns) == 600
    assert max(turns) < 300


def test_end_of_stream_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    inbox = Inbox(ours)
    with pytest.raises(BlockingIOError) as caught:
        inbox.recvmsg(16, 0)
    assert caught.value.errno == errno.EAGAIN
    theirs.close()
    assert inbox.recvmsg(16, 0)[0] == b""
