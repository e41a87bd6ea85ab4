"""bootcctl on a terminal: the bar, colours, and who asks for a password; and how fast it starts."""

import asyncio
import os
import pty
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.bootcctl import REPOSITORY
from tests.support.scripted_service import (
    ScriptedService,
    available,
    deployment,
    host,
    open_bus,
    shown_on,
)

NOBODY = 65534


class Screen:
    """A pseudo-terminal of a given width with a command on it; `text` is all it has shown."""

    def __init__(self, primary: int, process: asyncio.subprocess.Process) -> None:
        self.text = ""
        self.process = process
        self._primary = primary
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(primary, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._primary, 65536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._primary)
        self.text += data.decode()
        self._grown.set()

    async def shows(self, text: str) -> None:
        try:
            async with asyncio.timeout(20):
                while text not in self.text:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} is not on the screen: {self.text!r}") from None

    @property
    def echoes(self) -> bool:
        """Whether what is typed shows."""
        return bool(termios.tcgetattr(self._primary)[3] & termios.ECHO)

    async def hides_keys(self) -> None:
        """Wait until what is typed does not show; nothing tells of a change of these settings."""
        async with asyncio.timeout(20):
            while self.echoes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def type(self, keys: bytes) -> None:
        os.write(self._primary, keys)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(
    address: str, *argv: str, columns: int = 100, user: int | None = None, **environ: str
) -> AsyncIterator[Screen]:
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (25, columns))
    process = await asyncio.create_subprocess_exec(
        *("setsid", "--ctty", "--wait", sys.executable, "-m", "bootcctl", *argv),
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        cwd=REPOSITORY,
        user=user,
        extra_groups=None if user is None else [],
        env={
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "DBUS_SYSTEM_BUS_ADDRESS": address,
            **environ,
        },
    )
    os.close(secondary)
    try:
        screen = Screen(primary, process)
        yield screen
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(primary)
        os.close(primary)


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with open_bus(tmp_path) as address:
        # An unprivileged user must be able to reach the bus of the test.
        for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            directory.chmod(0o755)
        yield address


@pytest.fixture
async def service(address: str) -> AsyncIterator[ScriptedService]:
    scripted = ScriptedService()
    async with shown_on(address, scripted):
        yield scripted


async def test_bar_is_drawn_and_wiped_before_the_result(address: str, service: ScriptedService) -> None:
    async with on_terminal(address, "upgrade") as screen:
        record = await service.started.get()
        service.advance(record, 65.0, phase="fetch", bytes_done=50, bytes_total=100)
        await screen.shows("━")
        assert "\x1b[1mDownloading\x1b[0m" in screen.text
        assert "50 %" in screen.text
        assert "1:05 left" in screen.text
        service.end(record, changed=True, update=available())
        assert await screen.ended() == 0
        await screen.shows("next boot")
    last = screen.text.rpartition("\r\x1b[K")[2]
    assert last.startswith("Staged ")


@pytest.mark.parametrize("columns", [20, 40, 80])
async def test_bar_never_wraps(address: str, service: ScriptedService, columns: int) -> None:
    async with on_terminal(address, "upgrade", columns=columns, NO_COLOR="1") as screen:
        record = await service.started.get()
        service.advance(record, 65.0, phase="fetch", bytes_done=50, bytes_total=100)
        await screen.shows("50 %")
        service.end(record)
        assert await screen.ended() == 0
        await screen.shows("Already up to date")
    frames = screen.text.split("\r\x1b[K")[1:-1]
    assert frames
    assert all(len(frame) < columns and "\n" not in frame for frame in frames)


@pytest.mark.parametrize(
    ("argv", "environ"),
    [(("--no-color",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"})],
    ids=["option", "variable", "dumb-terminal"],
)
async def test_colours_can_be_switched_off(
    address: str, service: ScriptedService, argv: tuple[str, ...], environ: dict[str, str]
) -> None:
    async with on_terminal(address, *argv, "status", **environ) as screen:
        assert await screen.ended() == 0
        await screen.shows("Digest")
    assert "\x1b[" not in screen.text


async def test_colours_are_used_on_a_terminal(address: str, service: ScriptedService) -> None:
    async with on_terminal(address, "status") as screen:
        assert await screen.ended() == 0
        await screen.shows("\x1b[1midle\x1b[0m")


async def test_ctrl_c_on_the_keyboard_cancels(address: str, service: ScriptedService) -> None:
    async with on_terminal(address, "upgrade") as screen:
        record = await service.started.get()
        service.advance(record, phase="stage")
        await screen.shows("Staging")
        screen.type(b"\x03")
        assert await screen.ended() == 11
        await screen.shows("the upgrade was cancelled")


def hasty_editor(directory: Path) -> str:
    """Return an editor that misspells a key at first and gets the text right the second time."""
    script(
        directory / "editor",
        f'if mkdir {directory}/tried 2>/dev/null; then sed -i s/bootOrder/botOrder/ "$1"\n'
        'else sed -i "s/botOrder: default/bootOrder: rollback/" "$1"; fi',
    )
    return str(directory / "editor")


@pytest.mark.parametrize("answer", [b"\n", b"y\n"], ids=["enter", "yes"])
async def test_text_that_is_wrong_can_be_edited_again(
    address: str, service: ScriptedService, tmp_path: Path, answer: bytes
) -> None:
    environ = {"EDITOR": hasty_editor(tmp_path), "TMPDIR": str(tmp_path)}
    async with on_terminal(address, "edit", **environ) as screen:
        await screen.shows("spec.botOrder is not known")
        await screen.shows("Edit again? [Y/n] ")
        screen.type(answer)
        service.end(await service.started.get(), changed=True)
        assert await screen.ended() == 0
    assert [kind for kind, _ in service.requests] == ["rollback"]
    assert list(tmp_path.glob("bootcctl-edit-*")) == []


@pytest.mark.parametrize("answer", [b"n\n", b"\x04"], ids=["no", "end of input"])
async def test_text_that_is_not_edited_again_is_kept(
    address: str, service: ScriptedService, tmp_path: Path, answer: bytes
) -> None:
    environ = {"EDITOR": hasty_editor(tmp_path), "TMPDIR": str(tmp_path)}
    async with on_terminal(address, "edit", **environ) as screen:
        await screen.shows("Edit again? [Y/n] ")
        screen.type(answer)
        assert await screen.ended() == 2
        await screen.shows("Your text is kept")
    assert service.requests == []
    (kept,) = tmp_path.glob("bootcctl-edit-*")
    assert "botOrder: default" in kept.read_text()


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: polkitd is given our actions by a mount"
)
needs_agent = pytest.mark.skipif(
    not Path("/usr/bin/pkttyagent").exists(), reason="pkttyagent is not installed"
)


@pytest.fixture
async def polkitd(address: str, tmp_path: Path) -> AsyncIterator[None]:
    """Run the real polkitd with our actions and a password for every administrator's decision."""
    program = "/usr/lib/polkit-1/polkitd"
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c"),
        f"mount --bind {REPOSITORY}/dbus /usr/share/polkit-1/actions && exec {program}",
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            while b"Acquired the name" not in (line := await process.stdout.readline()):
                assert line, "polkitd did not start"
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@needs_root
@needs_agent
async def test_unprivileged_user_on_a_terminal_is_asked_for_a_password(
    address: str, service: ScriptedService, polkitd: None, tmp_path: Path
) -> None:
    # polkit looks for a fallback agent in the sessions of logind, and there is none here.
    script(tmp_path / "pkttyagent", 'test "$3" = --fallback && exec /usr/bin/pkttyagent "$1" "$2"')
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    async with on_terminal(address, "upgrade", user=NOBODY, **environ) as screen:
        await screen.shows("AUTHENTICATING FOR org.bootcd1.upgrade")
        await screen.shows("Password: ")
        await screen.hides_keys()
        screen.type(b"\x03")
        assert await screen.ended() in (4, 130)
        assert screen.echoes
    assert service.requests == []
    assert agents(address) == []


@needs_root
async def test_unprivileged_user_without_a_terminal_is_refused(
    address: str, service: ScriptedService, polkitd: None
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bootcctl", "upgrade"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        user=NOBODY,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "DBUS_SYSTEM_BUS_ADDRESS": address},
    )
    _, err = await process.communicate()
    assert process.returncode == 4
    assert err.decode().splitlines()[1].startswith("hint: ")
    assert service.requests == []


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def agents(address: str) -> list[int]:
    """Return the password agents that run on a bus."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            started_here = address.encode() in environ.read_bytes()
            name = (environ.parent / "comm").read_text().strip()
        except OSError:
            continue
        if started_here and name == "pkttyagent":
            found.append(int(environ.parent.name))
    return found


@needs_root
async def test_password_agent_ends_with_the_command(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    script(
        tmp_path / "pkttyagent",
        'echo "$*" >&2; eval "exec $2>&-"; trap "echo agent-ended >&2; exit" TERM;'
        "while :; do sleep 0.05; done",
    )
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    async with on_terminal(address, "check", user=NOBODY, **environ) as screen:
        await screen.shows("--fallback")
        assert "--notify-fd " in screen.text
        # Without polkit the call is refused, and the agent goes with the command.
        await screen.shows("agent-ended")
        assert await screen.ended() == 4


# Speed


@pytest.fixture
def published(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "status.json").write_text(
        host(booted=deployment("1.0", "a"), staged=deployment("2.0", "b")).to_json()
    )
    (tmp_path / "service.json").write_text('{"state":"staged","active-job":null}')
    return {"PATH": os.environ["PATH"], "BOOTCD_RUN_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    "argv", [["--help"], ["status"], ["status", "--format=human"], ["status", "--json"]], ids=" ".join
)
def test_quick_verb_loads_nothing_that_talks_to_a_bus(argv: list[str], published: dict[str, str]) -> None:
    # Without the packages of this machine, some of which load more at the start of every interpreter.
    command = [sys.executable, "-S", "-X", "importtime", "-m", "bootcctl", *argv]
    done = subprocess.run(command, env=published, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "bootcctl.cli" in loaded
    assert not loaded & {
        "asyncio",
        "bootcctl.client",
        "bootcctl.verbs",
        "dataclasses",
        "dbus_fast",
        "email",
        "importlib.metadata",
        "inspect",
        "ipaddress",
        "logging",
        "pathlib",
        "shutil",
        "socket",
        "subprocess",
        "tempfile",
        "typing_extensions",
        "urllib.parse",
        "yaml",
    }
