"""What several kinds of test share: what this machine can do, the test system, simulated hosts."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.machine import REPOSITORY, Machine, minimal_tree
from tests.support.os_image import OsImages, cached_os_images
from tests.support.tree import Tree, flatten

_CLONE_NEWNS = 0x00020000

# Started in the background by a shell, tests would ignore it, and so would all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _no_machines() -> str:
    """Return why no simulated host can be booted here, or an empty text; tried for real."""
    if os.geteuid() != 0:
        return "needs root: simulated hosts are built from mounts"
    probe = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/proc"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"needs mount namespaces: {done.stderr.strip()}" if done.returncode else ""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where that gives them the same attributes as a disk.

    Whole operating systems are written and removed hundreds of times. The memory file system lives in a
    mount namespace of this process and goes with it.
    """
    if os.geteuid() != 0 or config.option.basetemp or config.option.collectonly:
        return
    if ctypes.CDLL(None).unshare(_CLONE_NEWNS) != 0:
        return
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    _open_way_to(REPOSITORY)
    target = Path(tempfile.mkdtemp(prefix="bootcd-tests-"))
    config.add_cleanup(lambda: _remove_scratch(target))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=60%", "tmpfs", target], check=True)
    if _has_attributes(target):
        config.option.basetemp = str(target / "t")


def _open_way_to(directory: Path) -> None:
    """Let other users reach a checkout below a private home, such as /root, in this mount namespace."""
    closed = next((above for above in reversed(directory.parents) if not above.stat().st_mode & 0o001), None)
    if closed is None:
        return
    before = Path.cwd()
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", closed], check=True)
        directory.mkdir(parents=True)
        source = f"/proc/self/fd/{handle}"
        subprocess.run(
            ["mount", "--no-canonicalize", "--bind", source, directory], check=True, pass_fds=[handle]
        )
    finally:
        os.close(handle)
    if before.is_relative_to(directory):
        os.chdir(before)


def _has_attributes(directory: Path) -> bool:
    """Tell whether files have user attributes and the immutable flag, which tmpfs has since Linux 6.6."""
    probe = directory / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
        flags = subprocess.run(["chattr", "+i", probe], capture_output=True, check=False)
        subprocess.run(["chattr", "-i", probe], capture_output=True, check=False)
        return flags.returncode == 0
    except OSError:
        return False
    finally:
        probe.unlink()


def _remove_scratch(target: Path) -> None:
    subprocess.run(["umount", "--lazy", target], check=False)
    target.rmdir()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("machine") and _no_machines():
            item.add_marker(pytest.mark.skip(reason=_no_machines()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Build the test system before several processes run tests, since none of those can say so."""
    if os.geteuid() == 0 and not config.option.collectonly:
        _build_os_images(config)


def _build_os_images(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    cached_os_images(REPOSITORY / ".cache/os-image", say=reporter.write_line if reporter else print)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the test system before the first test, since the time limit of tests is too short for it."""
    wanted = any("os_images" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and os.geteuid() == 0 and not session.config.option.collectonly:
        _build_os_images(session.config)


@pytest.fixture(scope="session")
def os_images() -> OsImages:
    """The test operating system as container images; see `tests/support/os_image.py`."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the test system is made by mmdebstrap")
    return cached_os_images(REPOSITORY / ".cache/os-image")


@pytest.fixture(scope="session")
def os_tree(os_images: OsImages) -> Callable[[str], Tree]:
    """The flattened content of an image by its tag, read once per session; not to be changed."""
    return functools.cache(functools.partial(flatten, os_images.layout))


class MachineFactory(Protocol):
    async def __call__(self, tree: Path | None = None, *, image: str = "", **options: Any) -> Machine: ...


@pytest.fixture
async def machine_factory(tmp_path: Path) -> AsyncIterator[MachineFactory]:
    """Make booted machines, each with a minimal system or `tree`; all end with the test.

    `image` is what the host tracks; other options are those of `Machine.create`.
    """
    async with AsyncExitStack() as machines:
        count = 0

        async def make(tree: Path | None = None, *, image: str = "", **options: Any) -> Machine:
            nonlocal count
            count += 1
            made = await Machine.create(tmp_path / f"machine-{count}", **options)
            machine = await machines.enter_async_context(made)
            await machine.install_fixture(tree or minimal_tree(tmp_path / f"tree-{count}"), image=image)
            await machine.boot()
            return machine

        yield make
