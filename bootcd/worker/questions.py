"""Questions about the host: each prints one document, or the error there was instead, and the process ends.

The daemon asks them at every change of the host. None of them needs an event loop or the network.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bootcd.engine.scope import tracked_policy
from bootcd.host.composefs import BOOTC, choose_backend
from bootcd.model.errors import BootcdError
from bootcd.model.report import HostReport
from bootcd.ostree.status import read_report
from bootcd.ostree.sysroot import Sysroot
from bootcd.worker.defect import defect

log = logging.getLogger("bootcd.worker")


def inspect(sysroot: Path, backend: str) -> int:
    """Print what is on the host; return the exit code of the process, like its neighbours."""
    return _answer(lambda: _inspect(sysroot, backend))


def diff(sysroot: Path, before: str, after: str) -> int:
    """Print what differs between two deployments."""
    return _answer(lambda: _diff(sysroot, before, after))


def config_diff(sysroot: Path) -> int:
    """Print what differs between /etc and that of the image."""
    return _answer(lambda: _config_diff(sysroot))


class _Document(Protocol):
    def to_json(self) -> str: ...


def _inspect(sysroot: Path, backend: str) -> _Document:
    if choose_backend(backend, sysroot) == BOOTC:
        from bootcd.engine.bootc import BootcEngine

        return BootcEngine().read_report()
    return _report(sysroot)


def _diff(sysroot: Path, before: str, after: str) -> _Document:
    from bootcd.ostree.diff import diff_deployments

    return diff_deployments(Sysroot(sysroot), before, after)


def _config_diff(sysroot: Path) -> _Document:
    from bootcd.ostree.config_diff import diff_config

    return diff_config(Sysroot(sysroot))


def _answer(question: Callable[[], _Document]) -> int:
    """Print a document, or the error there was instead."""
    try:
        document = question().to_json()
    except BootcdError as error:
        sys.stdout.write(error.info().model_dump_json())
        return 1
    except Exception:
        log.exception("the question could not be answered")
        sys.stdout.write(defect().info().model_dump_json())
        return 1
    sys.stdout.write(document)
    return 0


def _report(sysroot: Path) -> HostReport:
    opened = Sysroot(sysroot)
    try:
        tracked = opened.tracked_image()
    except BootcdError:
        tracked = None
    return read_report(opened).model_copy(update={"trust": tracked_policy(Path("/"), tracked)})
