"""The daemon as a process: what the service manager and the next daemon see of it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from dbus_fast import MessageType, Variant

from bootcd.host import process
from tests.support.bus import PrivateBus
from tests.support.bus_peers import connected
from tests.support.daemon import Daemon, errors_of, resident_kib, running
from tests.support.jobs import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root")

REST_LIMIT_KIB = 40 << 10


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with await PrivateBus.start(tmp_path) as bus:
        made = Daemon(tmp_path, bus)
        with made.manager:
            yield made


async def test_ready_daemon_answers_before_it_looked_at_the_host(daemon: Daemon) -> None:
    async with running(daemon):
        reply = await daemon.call("GetHistory", "a{sv}", {})
        assert (reply.message_type, reply.body) == (MessageType.METHOD_RETURN, [[]])
        # The root is empty, which is an error of the first look and of nothing else.
        reply = await daemon.call("GetStatus", "a{sv}", {})
        assert reply.message_type is MessageType.ERROR
        assert "is not an ostree system root" in reply.body[0]


async def test_directories_and_files_have_their_modes(daemon: Daemon) -> None:
    names = (
        "state",
        "state/lock",
        "run",
        "run/worker.sock",
        "run/metrics.sock",
        "run/io.bootcd",
        "run/service.json",
    )
    async with running(daemon):
        await eventually(lambda: (daemon.root / "run/service.json").exists())
        modes = {name: stat.S_IMODE((daemon.root / name).stat().st_mode) for name in names}
    assert modes == {
        "state": 0o700,
        "state/lock": 0o600,
        "run": 0o755,
        "run/worker.sock": 0o600,
        "run/metrics.sock": 0o666,
        "run/io.bootcd": 0o666,
        "run/service.json": 0o644,
    }


async def test_figures_are_at_the_socket_and_in_the_file(daemon: Daemon) -> None:
    configuration = daemon.root / "conf/test.toml"
    configuration.write_text(f'{configuration.read_text()}[metrics]\ntextfile-directory = "{daemon.root}"\n')
    async with running(daemon):
        command = (
            "curl",
            "-sSf",
            "--unix-socket",
            f"{daemon.root}/run/metrics.sock",
            "http://localhost/metrics",
        )
        figures = await process.run(command, deadline_secs=20, limit=1 << 20)
        assert b"\nbootcd_build_info{" in figures.stdout
        await eventually((daemon.root / "bootcd.prom").exists)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_signal_stops_the_daemon_in_order(daemon: Daemon, number: signal.Signals) -> None:
    async with running(daemon) as started:
        started.send_signal(number)
        await daemon.heard("STOPPING=1")
        assert "stopping" in await errors_of(started)
        assert started.returncode == 0
    reply = await daemon.call("GetHistory", "a{sv}", {})
    assert reply.error_name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_second_daemon_refuses_to_start_and_the_first_goes_on(daemon: Daemon) -> None:
    async with running(daemon):
        second = await daemon.start()
        assert "another bootcd is at work in" in await errors_of(second)
        assert second.returncode == 1
        assert (await daemon.call("GetHistory", "a{sv}", {})).message_type is MessageType.METHOD_RETURN


async def test_second_daemon_with_other_directories_refuses_for_the_name(daemon: Daemon) -> None:
    async with running(daemon):
        second = await daemon.start("--state-dir", f"{daemon.root}/s2", "--runtime-dir", f"{daemon.root}/r2")
        assert "CRITICAL" in await errors_of(second)
        assert second.returncode == 1


async def test_lock_of_a_killed_daemon_does_not_block(daemon: Daemon) -> None:
    async with running(daemon) as first:
        first.kill()
        await first.wait()
    async with running(daemon):
        assert (await daemon.call("GetHistory", "a{sv}", {})).message_type is MessageType.METHOD_RETURN


async def test_bad_configuration_is_one_clear_line_at_start(daemon: Daemon) -> None:
    daemon.configure(mode="sometimes")
    errors = await errors_of(await daemon.start())
    assert errors.count("\n") == 1
    assert "conf/test.toml, line 2: updates.mode" in errors
    assert "Traceback" not in errors


async def test_hangup_reads_the_configuration_again(daemon: Daemon) -> None:
    async with running(daemon) as started:
        await eventually(lambda: daemon.read("service.json").get("mode") == "off")
        daemon.configure(mode="check")
        started.send_signal(signal.SIGHUP)
        lines = await daemon.heard("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in lines)
        await daemon.heard("READY=1")
        await eventually(lambda: daemon.read("service.json")["mode"] == "check")
        daemon.configure(mode="sometimes")
        started.send_signal(signal.SIGHUP)
        await daemon.heard("READY=1")
        assert daemon.read("service.json")["mode"] == "check"


async def test_watchdog_is_fed(daemon: Daemon) -> None:
    daemon.environment["WATCHDOG_USEC"] = "200000"
    async with running(daemon):
        for _ in range(3):
            await daemon.heard("WATCHDOG=1")


async def test_bus_that_is_not_there_is_one_clear_line(daemon: Daemon) -> None:
    started = await daemon.start("--bus", "unix:path=/does/not/exist")
    errors = await errors_of(started)
    assert started.returncode == 1
    assert "CRITICAL" in errors
    assert "Traceback" not in errors


async def test_runtime_directory_too_long_for_a_socket_is_one_clear_line(daemon: Daemon) -> None:
    started = await daemon.start("--runtime-dir", f"{daemon.root}/{'x' * 100}")
    assert "107 bytes" in await errors_of(started)
    assert started.returncode == 1


async def test_refused_job_is_an_error_of_the_call(daemon: Daemon) -> None:
    async with running(daemon):
        reply = await daemon.call("Check", "a{sv}", {})
        assert reply.message_type is MessageType.ERROR
        assert str(reply.error_name).startswith("org.bootcd1.Error.")
        reply = await daemon.call("GetHistory", "a{sv}", {"limit": Variant("u", 5)})
        assert reply.body == [[]]
        assert list((daemon.root / "state/jobs").iterdir()) == []


async def test_inhibitor_outlives_a_daemon_that_was_killed_and_not_its_holder(daemon: Daemon) -> None:
    async def holders() -> list[str]:
        return [entry[1] for entry in (await daemon.call("ListInhibitors")).body[0]]

    async def alone() -> None:
        while await holders():
            pass

    async with running(daemon) as first:
        async with connected(daemon.bus.address) as peer:
            body = ["stage", "backup", "copying /etc", "block", {}]
            reply = await peer.reply("/org/bootcd1", "org.bootcd1.Manager", "Inhibit", "ssssa{sv}", body)
        assert await holders() == ["backup"]
        first.kill()
        await first.wait()
    async with running(daemon):
        assert await holders() == ["backup"]
        os.close(reply.unix_fds[0])
        async with asyncio.timeout(20):
            await alone()


async def test_daemon_at_rest_is_small(daemon: Daemon) -> None:
    async with running(daemon) as started:
        await daemon.call("GetStatus", "a{sv}", {})
        assert resident_kib(started.pid) <= REST_LIMIT_KIB


async def test_daemon_at_rest_sleeps(daemon: Daemon) -> None:
    """Nothing wakes it, as no system call returns: the context switches of its threads stand still."""

    def switches(pid: int) -> int:
        tasks = Path(f"/proc/{pid}/task").glob("*/status")
        return sum(
            int(task.read_text().partition("voluntary_ctxt_switches:")[2].split()[0]) for task in tasks
        )

    sysroot = f"{daemon.root}/sysroot"
    await process.run(["ostree", "admin", "init-fs", "--modern", sysroot], deadline_secs=20, limit=10_000)
    async with running(daemon) as started:
        assert (await daemon.call("GetStatus", "a{sv}", {})).message_type is MessageType.METHOD_RETURN
        await settled(lambda: switches(started.pid))
        before = switches(started.pid)
        await asyncio.sleep(3)  # the time in which nothing is to happen
        assert switches(started.pid) == before


async def settled(value: Callable[[], int]) -> None:
    """Return once a value has stood still for a moment."""
    last, still = value(), 0
    while still < 5:
        await asyncio.sleep(0.1)
        still = still + 1 if value() == last else 0
        last = value()


async def test_help_and_version_need_nothing() -> None:
    for option, text in (("--help", b"usage: bootcd"), ("--version", b"bootcd 0.")):
        done = await process.run([sys.executable, "-m", "bootcd", option], deadline_secs=20, limit=10_000)
        assert done.status == 0
        assert done.stdout.startswith(text)
