"""The daemon put together: every object built and wired once, started in order, stopped in order."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bootcd import __version__
from bootcd.agent.agent import Agent
from bootcd.agent.errand import Comparisons
from bootcd.agent.inspection import DEADLINE_SECS as INSPECTION_SECS
from bootcd.agent.inspection import inspect_host
from bootcd.agent.service import Service, Settings
from bootcd.agent.snapshot import Change, Snapshot, SnapshotChanged
from bootcd.bus.frontend import Frontend
from bootcd.config import CONFIG_DIRS, Config, load_config
from bootcd.host import journal, notify, process
from bootcd.host.boot import boot_id
from bootcd.host.clock import SystemClock
from bootcd.host.composefs import BOOTC, choose_backend
from bootcd.host.files import remove_leftovers
from bootcd.host.machineid import rollout_identity
from bootcd.jobs.history import History
from bootcd.jobs.manager import JobManager
from bootcd.jobs.records import JobStore
from bootcd.jobs.runner import choose_runner, unconfined
from bootcd.metrics.exporter import FILE_NAME, SOCKET_NAME, Figures, MetricsSocket, keep_file
from bootcd.model.errors import BackendFailed, BootcdError, InvalidConfig, WrongState
from bootcd.model.report import HostReport
from bootcd.policy.schedule import steady_chance
from bootcd.varlink.frontend import SOCKET_NAME as VARLINK_SOCKET_NAME
from bootcd.varlink.frontend import Frontend as VarlinkFrontend

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "bootcd.worker")
HEALTH = (sys.executable, "-m", "bootcd.health")
_THREADS = 2
"For file work; more would only cost memory."


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    config_dirs: tuple[Path, ...]
    "Empty for the standard ones."
    state: Path
    runtime: Path
    bus: str | None
    "D-Bus address; None for the system bus."


def run(options: Options) -> int:
    """Run the daemon until a signal stops it; returns the exit code."""
    with journal.logging_configured():
        return _run(options)


def _run(options: Options) -> int:
    try:
        lock = _prepare(options)
        config = _load(options)
    except BootcdError as error:
        if isinstance(error, InvalidConfig):
            fields = journal.fields(journal.Event.CONFIG_ERROR, path=error.fields.get("path", ""))
            log.critical("%s", _sentence(error), extra=fields)
        else:
            log.critical("%s", _sentence(error))
        return 1
    try:
        with asyncio.Runner() as runner:
            return runner.run(_serve(options, config))
    finally:
        os.close(lock)


async def _serve(options: Options, config: Config) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, "files"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = SystemClock()
    store = JobStore(options.state / "jobs")
    manager = JobManager(
        store=store,
        history=History(options.state / "history.sqlite"),
        runner=choose_runner(config.worker.runner.value, store.open_log, options.runtime / "worker.env"),
        socket_path=options.runtime / "worker.sock",
        worker=WORKER,
        clock=clock,
    )
    backend = choose_backend(config.host.backend, Path(config.host.sysroot))

    inspector = inspector_of(backend, config)

    async def inspect(sysroot: str) -> HostReport:
        return await inspect_host(inspector, sysroot, f"--backend={backend}")

    identity = rollout_identity() or os.urandom(16)
    service = Service(
        manager=manager,
        settings=_settings(config, options),
        load=lambda: _settings(_load(options), options),
        inspect=inspect,
        backend=backend,
        comparisons=Comparisons(WORKER),
        state=options.state,
        runtime=options.runtime,
        clock=clock,
        version=__version__,
        identity=identity,
        boot_id=boot_id(),
        health=HEALTH,
    )
    agent = Agent(service, clock=clock, chance=steady_chance(identity))
    async with AsyncExitStack() as stack:
        try:
            stack.push_async_callback(service.stop)
            await service.start()
            frontend = Frontend(service, options.bus)
            stack.push_async_callback(frontend.stop)
            await frontend.start()
        except (BootcdError, OSError) as error:
            log.critical("%s", _sentence(error))
            return 1
        service.attach(frontend)
        varlink = VarlinkFrontend(
            service, options.runtime / VARLINK_SOCKET_NAME, frontend.authorise, __version__
        )
        await _open_beside(varlink, stack)
        figures = Figures(service, clock)
        stack.callback(figures.close)
        if config.metrics.socket:
            await _open_beside(MetricsSocket(options.runtime / SOCKET_NAME, figures.text), stack)
        stack.callback(notify.stopping)
        stack.callback(service.subscribe(_tell_manager))
        notify.ready(_status_line(service.snapshot))
        tasks = [
            loop.create_task(agent.run()),
            loop.create_task(_feed_watchdog()),
            loop.create_task(_reload_on_hangup(service)),
        ]
        if directory := config.metrics.textfile_directory:
            tasks.append(loop.create_task(keep_file(Path(directory) / FILE_NAME, figures)))
        stack.push_async_callback(_cancel, tasks)
        # Everything made so far stays for good: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        process.return_memory()
        return await _until_end(stop, frontend, tasks)


def inspector_of(backend: str, config: Config) -> Sequence[str]:
    """Return the worker that looks at the host. Blocks."""
    if backend != BOOTC:
        return WORKER
    # bootc mounts what it reads, even for its status, and this process may not.
    return unconfined(WORKER, config.worker.runner.value, limit_secs=INSPECTION_SECS)


class _Beside(Protocol):
    """A way into the service beside the bus."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


async def _open_beside(way: _Beside, stack: AsyncExitStack) -> None:
    """Start it, and have it stopped in the end; the service goes on without one that cannot be started."""
    try:
        await way.start()
    except BackendFailed as error:
        log.warning("%s, proceeding without", _sentence(error))
    else:
        stack.push_async_callback(way.stop)


async def _until_end(stop: asyncio.Event, frontend: Frontend, tasks: list[asyncio.Task[None]]) -> int:
    """Return when told to stop, or when going on makes no sense."""
    stopped = asyncio.ensure_future(stop.wait())
    lost = asyncio.ensure_future(frontend.lost())
    try:
        done, _ = await asyncio.wait({stopped, lost, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        if stopped in done:
            log.info("stopping; a job at work goes on")
            return 0
        for ended in done:
            error = None if ended.cancelled() else ended.exception()
            if isinstance(error, BootcdError):
                log.critical("%s", _sentence(error))
            else:
                log.critical("a part of the daemon ended on its own", exc_info=error)
        return 1
    finally:
        await _cancel([stopped, lost])


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _prepare(options: Options) -> int:
    """Make the directories, be the only daemon that uses them, and return the lock's descriptor."""
    try:
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        options.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(options.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackendFailed(f"cannot use the directory {error.filename}: {error.strerror}") from error
    try:
        # Held by the open file, so that it ends with us however we end.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise WrongState(
            f"another bootcd is at work in {options.state}", hint="stop it, or use another state directory"
        ) from None
    for directory in (options.state, options.runtime):
        remove_leftovers(directory)
    return lock


def _load(options: Options) -> Config:
    loaded = load_config(options.config_dirs or CONFIG_DIRS)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    return loaded.config


def _settings(config: Config, options: Options) -> Settings:
    state = options.state.absolute()
    files = {
        "pauses_file": str(state / "pauses.json"),
        "fleet_lock_file": str(state / "fleet-lock.json"),
    }
    worker = config.worker_settings.model_copy(update=files)
    return Settings(rules=config.rules, worker=worker)


async def _reload_on_hangup(service: Service) -> None:
    """Reload at every SIGHUP, until cancelled."""
    hangup = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    try:
        while True:
            await hangup.wait()
            hangup.clear()
            notify.reloading()
            try:
                await service.reload()
            except BootcdError as error:
                log.debug("reload failed: %s", error.message)
            notify.ready(_status_line(service.snapshot))
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _feed_watchdog() -> None:
    """Tell the service manager that the loop turns, as often as it wants to know, until cancelled."""
    secs = notify.watchdog_secs()
    if secs is None:
        await asyncio.Event().wait()
        return
    while True:
        notify.alive()
        await asyncio.sleep(secs)


def _tell_manager(change: Change) -> None:
    if isinstance(change, SnapshotChanged):
        notify.status(_status_line(change.snapshot))


def _status_line(snapshot: Snapshot) -> str:
    """Return what `systemctl status` shows: the state, and what comes next and when."""
    action = snapshot.next_action
    if not action.action or action.when is None:
        return snapshot.state
    return f"{snapshot.state}; next {action.action} {action.when:%Y-%m-%d %H:%M:%S %Z} ({action.reason})"


def _sentence(error: BaseException) -> str:
    if isinstance(error, BootcdError):
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return str(error)
