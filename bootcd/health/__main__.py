"""`bootcd-health`: judges this boot once, and goes back if a new version does not boot well.

`bootcd-health.service` runs it before boot-complete.target, which is therefore not reached in a bad boot. It
is no part of the daemon: it has to work when that does not.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from bootcd import __version__
from bootcd.config import CONFIG_DIRS, Config, Health, load_config
from bootcd.engine.hooks import Hooks
from bootcd.engine.reboot import reboot
from bootcd.health.afterboot import run_post_boot
from bootcd.health.boot import is_enabled, is_kept_by_greenboot, required_units, wait_for_end
from bootcd.health.bootcount import BootCounter, Counter
from bootcd.health.checks import find_checks, run_check
from bootcd.health.deployed import Booted, deployed_on
from bootcd.health.entrycount import EntryCounter
from bootcd.health.keeper import Keeper
from bootcd.health.store import HealthStore
from bootcd.host import journal, process
from bootcd.host.clock import SystemClock
from bootcd.model.errors import BootcdError, InvalidConfig
from bootcd.model.health import JOURNAL_LIMIT
from bootcd.policy.health import Result, judge

log = logging.getLogger("bootcd.health")

GOOD, BAD, UNKNOWN, FAILED = 0, 1, 2, 3
_JOURNAL = ("journalctl", "--boot", "--no-pager", "--quiet", "--priority=warning", "--lines=100")
_JOURNAL_SECS = 30.0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bootcd-health",
        description="Tell whether this boot is good, and go back to the version before if a new one is bad.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bootcd-health {__version__}")
    parser.add_argument(
        "--config-dir",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="read configuration from here instead of the standard directories; the last one counts most",
    )
    parser.add_argument(
        "--state-dir", type=Path, default=Path("/var/lib/bootcd"), metavar="DIR", help="where state is kept"
    )
    parser.add_argument(
        "--runtime-dir", type=Path, default=Path("/run/bootcd"), metavar="DIR", help="where the verdict is"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    text = "let versions that failed be taken again"
    clear = verbs.add_parser("clear", help=text, description=text, allow_abbrev=False)
    clear.add_argument("digest", metavar="DIGEST", nargs="?", default="", help="only this one")
    text = "give back the fleet lock that was taken for the reboot before this boot"
    verbs.add_parser("unlock", help=text, description=text, allow_abbrev=False)
    text = "have the boot loader count boots of what is staged, where it can"
    verbs.add_parser("arm", help=text, description=text, allow_abbrev=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if the boot is good, 1 if it is bad, 3 if the record of it cannot be kept.

    clear: 0 if it was done, 2 if that version has not failed.
    """
    options = build_parser().parse_args(argv)
    store = HealthStore(options.state_dir, options.runtime_dir)
    with journal.logging_configured():
        try:
            if options.verb == "clear":
                return _clear(store, options.digest)
            if options.verb == "arm":
                return _arm(options.state_dir, options.config_dir or CONFIG_DIRS)
            if options.verb == "unlock":
                return _unlock(options.state_dir)
            return _check(store, options.config_dir or CONFIG_DIRS, options.state_dir, options.runtime_dir)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            log.critical("the record of this boot cannot be kept%s: %s", where, error.strerror)
            return FAILED


def _clear(store: HealthStore, digest: str) -> int:
    """Forget failures, and print the digests of those that were forgotten."""
    failed = {failure.digest for failure in store.load().failures}
    if digest and digest not in failed:
        log.error("%s has not failed here", digest)
        return UNKNOWN
    left = store.update(lambda record: record.without_failures(digest))
    for one in sorted(failed - {failure.digest for failure in left.failures}):
        sys.stdout.write(f"{one}\n")
    return GOOD


def _check(store: HealthStore, config_dirs: Sequence[Path], state: Path, runtime: Path) -> int:
    config = _config(config_dirs)
    results, keeper = asyncio.run(_observe(config.health))
    verdict = judge(results)
    root = Path(config.host.sysroot)
    deployed = deployed_on(root, config.host.backend)
    try:
        booted = deployed.look()
    except BootcdError as error:
        log.warning("%s", error.message)
        booted = Booted()
    actor = Keeper(deployed, store, SystemClock(), excerpt=_excerpt, reboot=reboot)
    counter = _counter(root, state)
    # Before what may end in a reboot: a boot that was judged needs no counting.
    if not keeper and actor.take_over(booted, counter):
        counter.disarm(booted.id, good=verdict.good)
    actor.act(verdict, booted, allowed=config.health.rollback, keeper=keeper)
    if verdict.good:
        deadline_secs = config.hooks.timeout.total_seconds()
        run_post_boot(Hooks(Path("/"), deadline_secs=deadline_secs), store, runtime)
    return GOOD if verdict.good else BAD


def _unlock(state: Path) -> int:
    """Give back the slot of the fleet lock; 1 if that has to be tried again."""
    # With it comes an HTTP client, which nothing else here needs.
    from bootcd.engine.fleet import NAME, release_held

    try:
        asyncio.run(release_held(state / NAME))
    except BootcdError as error:
        log.warning("the fleet lock is not given back: %s", error.message)
        return BAD
    return GOOD


def _counter(root: Path, state: Path) -> Counter:
    grub = BootCounter(root)
    return grub if grub.supported else EntryCounter(root, state)


def _arm(state: Path, config_dirs: Sequence[Path]) -> int:
    """Have the boot loader count boots of what is staged, if it can and nobody else does."""
    config = _config(config_dirs)
    root = Path(config.host.sysroot)
    counter = _counter(root, state)
    try:
        staged = deployed_on(root, config.host.backend).staged()
        if staged is None or not staged.judged:
            return GOOD
        counts = counter.supported and (staged.systemd_boot or not isinstance(counter, EntryCounter))
        if not counts:
            log.info("the boot loader does not count boots here: what never comes up stays the first choice")
        elif config.health.rollback and asyncio.run(_is_ours()):
            counter.arm(staged.id)
    except BootcdError as error:
        log.warning("boots are not counted: %s", error.message)
    return GOOD


async def _is_ours() -> bool:
    """Tell whether it is this program that judges boots: enabled, and greenboot not at work."""
    _, greenboot = await is_kept_by_greenboot()
    return not greenboot and await is_enabled()


def _config(directories: Sequence[Path]) -> Config:
    """Read the configuration; a wrong one is no reason to leave a version, nor to judge none."""
    try:
        return load_config(directories).config
    except InvalidConfig as error:
        log.error("%s; proceeding with the defaults", error.message)  # noqa: TRY400  # one line
        return Config()


async def _observe(settings: Health) -> tuple[list[Result], str]:
    """Return how everything did, and who else rolls this host back."""
    installed = at_work = False
    results: list[Result] = []
    try:
        installed, at_work = await is_kept_by_greenboot()
        names = tuple(dict.fromkeys((*settings.units, *await required_units())))
        limit_secs = settings.time_limit.total_seconds()
        results += await wait_for_end(names, limit_secs=limit_secs, clock=SystemClock())
    except BootcdError as error:
        results.append(Result("units", error.message, required=False))
    try:
        checks = find_checks(Path("/"), greenboot=not installed)
    except OSError as error:
        results.append(Result("checks", f"{error.filename} cannot be listed: {error.strerror}"))
        checks = []
    deadline_secs = settings.check_timeout.total_seconds()
    for check in checks:
        results.append(await run_check(check, deadline_secs=deadline_secs))
    return results, "greenboot" if at_work else ""


async def _excerpt() -> str:
    """Return the end of this boot's warnings and errors, empty where there is no journal."""
    try:
        done = await process.run(_JOURNAL, deadline_secs=_JOURNAL_SECS, limit=1 << 20)
    except (OSError, TimeoutError):
        return ""
    return done.stdout[-JOURNAL_LIMIT:].decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
