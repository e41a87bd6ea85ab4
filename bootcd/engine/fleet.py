"""A reboot by leave of the fleet: the slot is taken before, kept over the reboot and given back after it.

<state>/fleet-lock.json     Lease; written before the slot is asked for, as an answer can be lost, and gone
                            once it was given back for sure
<state>/fleet-lock.lock     held by whoever takes or gives back

`bootcd-fleet-lock.service` gives it back after a good boot, by `bootcd-health unlock`.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bootcd.engine.protocol import Engine, Report
from bootcd.fleetlock import FleetLock, client_id
from bootcd.host.boot import boot_id
from bootcd.host.files import read_bounded, write_atomic
from bootcd.model.errors import BackendFailed, BootcdError, FleetLockUnavailable, InvalidConfig
from bootcd.model.job import JobRequest, Outcome, Phase, Progress

log = logging.getLogger(__name__)

NAME = "fleet-lock.json"
_LEASE_LIMIT = 8192


class Lease(BaseModel):
    """A slot this host has, or may have."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore")

    url: str
    group: str
    host: str
    boot_id: str
    "Of the boot it was taken in."

    @property
    def slot(self) -> FleetLock:
        return FleetLock(self.url, self.group, self.host)


async def run_with_lock(engine: Engine, request: JobRequest, report: Report) -> Outcome:
    """Do a job that ends in a reboot, with a slot of the fleet.

    Raises: as the engine and as `FleetLock.acquire`, and the host is not rebooted then and the slot given
    back, or left to the next try or boot where that fails.
    """
    report(Progress(phase=Phase.PREPARE))
    settings = request.settings
    path = Path(settings.fleet_lock_file)
    lease = Lease(
        url=settings.fleet_lock_url,
        group=settings.fleet_lock_group,
        host=_host(Path(settings.hooks_root)),
        boot_id=boot_id(),
    )
    with _only_one(path):
        try:
            write_atomic(path, lease.model_dump_json().encode(), durable=True)
        except OSError as error:
            raise BackendFailed(f"{path} cannot be written: {error.strerror}") from error
        try:
            await lease.slot.acquire()
            return await engine.run(request, report)
        except BaseException:
            await _give_back(lease, path)
            raise


async def release_held(path: Path) -> None:
    """Give back the slot that was taken for the reboot before this boot, if there is one.

    Raises: as `FleetLock.release`; the slot is held until it succeeds. OSError if the lease cannot be
    removed.
    """
    with _only_one(path):
        try:
            lease = Lease.model_validate_json(read_bounded(path, _LEASE_LIMIT))
        except FileNotFoundError:
            return
        except ValidationError:
            log.warning("%s is not understood, the slot of the fleet lock is not given back", path)
            return
        if lease.boot_id != boot_id():
            await lease.slot.release()
            await asyncio.to_thread(path.unlink)
            log.info("the fleet lock was given back to %s", lease.url)


async def _give_back(lease: Lease, path: Path) -> None:
    try:
        await lease.slot.release()
        await asyncio.to_thread(path.unlink)
    except BootcdError as error:
        log.warning("the fleet lock is not given back now: %s", error.message)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


@contextmanager
def _only_one(path: Path) -> Generator[None, None, None]:
    """Keep others from taking and giving back. Raises FleetLockUnavailable if one is at it."""
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackendFailed(f"{error.filename} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FleetLockUnavailable("the fleet lock is just being taken or given back on this host") from None
    finally:
        os.close(lock)


def _host(root: Path) -> str:
    path = root / "etc/machine-id"
    try:
        return client_id(read_bounded(path, 128).decode(errors="replace"))
    except OSError as error:
        raise InvalidConfig(
            f"{path}, by which a fleet lock is held, cannot be read: {error.strerror}"
        ) from error
