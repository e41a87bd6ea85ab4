from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.host import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_manager_hears_each_word(manager: socket.socket) -> None:
    notify.ready("idle")
    assert manager.recv(999) == b"READY=1\nSTATUS=idle"
    notify.alive()
    assert manager.recv(999) == b"WATCHDOG=1"
    notify.stopping()
    assert manager.recv(999) == b"STOPPING=1"
    notify.reloading()
    first, second = manager.recv(999).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")


def test_status_stays_one_short_line(manager: socket.socket) -> None:
    notify.status("two\nlines READY=0 " + "x" * 9999)
    assert manager.recv(9999).startswith(b"STATUS=two lines READY=0 xxx")
    notify.status("x" * 9999)
    assert len(manager.recv(9999)) == len("STATUS=") + 512


@pytest.mark.timeout(20)
def test_manager_that_does_not_read_holds_nobody_up(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_PATIENCE_SECS", 0.01)
    for _ in range(2_000):  # more than any net.unix.max_dgram_qlen in use
        notify.status("idle")
    notify.ready("idle")
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(manager, select.POLLIN)
    while poll.poll(0):
        manager.recv(999)
    notify.status("working")
    assert manager.recv(999) == b"STATUS=working"


def test_manager_at_an_abstract_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"bootcd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify.alive()
        assert listener.recv(999) == b"WATCHDOG=1"


def test_words_without_a_manager_are_lost_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready("idle")


@pytest.mark.parametrize(
    ("usec", "pid", "secs"),
    [
        ("30000000", "", 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("-5", "", None),
        ("soon", "", None),
    ],
)
def test_watchdog_is_fed_twice_as_often_as_it_bites(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, secs: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_secs() == secs
