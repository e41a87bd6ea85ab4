"""Hooks of a good boot, run once for each.

A mark says that they were: it is gone with the boot, and names the version, as a reboot of user space alone
is a boot of another version by the same kernel. It is written first, so that a loss of it runs no hook twice.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from bootcd.engine.hooks import Hooks, Point, Subject
from bootcd.health.store import HealthStore
from bootcd.host.files import read_bounded, write_atomic
from bootcd.model.health import HealthRecord

log = logging.getLogger(__name__)

_MARK = "post-boot"
_MARK_LIMIT = 4096


def run_post_boot(hooks: Hooks, store: HealthStore, runtime: Path) -> None:
    """Run the hooks if the last verdict is of a good boot and they were not run in it; what fails is told.

    Raises OSError if that they were cannot be kept; none is run then. Blocks.
    """
    last = store.load().last
    if last is None or not last.good:
        return
    mark = f"{last.boot_id} {last.digest}\n".encode()
    if _read(runtime / _MARK) == mark:
        return
    write_atomic(runtime / _MARK, mark, durable=False)
    subject = Subject(image=last.image, digest=last.digest, version=last.version)
    warnings = asyncio.run(hooks.tell(Point.POST_BOOT, subject))
    for warning in warnings:
        log.warning("%s", warning)
    if warnings:
        told = last.model_copy(update={"warnings": (*last.warnings, *warnings)[:64]})
        store.update(lambda record: _with_last(record, told.boot_id, told.warnings))


def _with_last(record: HealthRecord, boot_id: str, warnings: tuple[str, ...]) -> HealthRecord:
    if record.last is None or record.last.boot_id != boot_id:
        return record
    return record.model_copy(update={"last": record.last.model_copy(update={"warnings": warnings})})


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _MARK_LIMIT)
    except OSError:
        return b""
