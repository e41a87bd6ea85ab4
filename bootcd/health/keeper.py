"""What follows from a verdict: the version marked good, or remembered as bad and left.

The order of steps makes each of them safe to be cut off by a loss of power: the failure is on disk before the
boot order changes, the boot order before the reboot. Where the cut comes in between, the next boot goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from uuid import uuid4

from bootcd.health.bootcount import Counter
from bootcd.health.deployed import Booted, Deployed
from bootcd.health.store import HealthStore
from bootcd.host import journal
from bootcd.host.boot import boot_id
from bootcd.host.clock import Clock
from bootcd.model.errors import BootcdError
from bootcd.model.health import BootHealth, FailedBoot, FailureState, HealthRecord
from bootcd.policy.health import Action, Response, Standing, Verdict, respond

log = logging.getLogger(__name__)

_LINES = 64


class Keeper:
    """Acts on verdicts. `excerpt` reads the journal, `reboot` asks the host for a reboot."""

    def __init__(
        self,
        deployed: Deployed,
        store: HealthStore,
        clock: Clock,
        *,
        excerpt: Callable[[], Coroutine[None, None, str]],
        reboot: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        self._deployed = deployed
        self._store = store
        self._clock = clock
        self._excerpt = excerpt
        self._reboot = reboot

    def take_over(self, booted: Booted, counter: Counter) -> bool:
        """Make it last where the boot loader has given up on a version and started the one before it.

        False if that failed, so that the boot loader has to go on doing so. Blocks; see `act`.
        """
        if not booted.target_next or not booted.target or not counter.gave_up_on(booted.target_id):
            return True
        failure = FailedBoot(
            uuid=str(uuid4()),
            digest=booted.target,
            image=booted.target_image,
            version=booted.target_version,
            time=self._clock.now(),
            reasons=("it did not come up, until the boot loader gave up on it",),
            state=FailureState.ROLLING_BACK,
        )
        self._store.update(lambda record: record.with_failure(failure))
        if not counter.begin_anew():
            return False
        try:
            self._deployed.boot_next(target=False)
        except BootcdError as error:
            log.error("the boot order cannot be changed: %s", error.message)  # noqa: TRY400  # one line
            return False
        log.critical(
            "%s did not come up, the version before is booted from now on",
            failure.version or failure.digest,
            extra=journal.fields(journal.Event.ROLLED_BACK, digest=failure.digest, version=failure.version),
        )
        return True

    def act(self, verdict: Verdict, booted: Booted, *, allowed: bool, keeper: str) -> Response:
        """Do what follows, with the last word a request for a reboot. Blocks.

        Call it while the process has one thread, as it may move to a mount namespace of its own.

        Raises:
            OSError: the record cannot be kept; nothing else was done.
        """
        record = self._store.update(lambda record: record.settled(booted.digest))
        known, before = record.failure_of(booted.digest), record.failure_of(booted.target)
        standing = Standing(
            digest=booted.digest,
            was_good=booted.digest in record.good,
            rolled_back=known is not None and known.state is FailureState.ROLLED_BACK,
            target=booted.target,
            target_failed=before is not None,
            keeper=keeper,
            allowed=allowed,
        )
        response = respond(verdict, standing)
        health = BootHealth(
            boot_id=_boot_id(),
            digest=booted.digest,
            image=booted.image,
            version=booted.version,
            time=self._clock.now(),
            good=verdict.good,
            problems=verdict.problems[:_LINES],
            warnings=verdict.warnings[:_LINES],
            action=response.action.value,
            reason=response.reason,
        )
        _tell(health)
        if response.action is Action.MARK_GOOD:
            self._store.update(lambda record: _marked_good(record, health))
        elif standing.was_good or not booted.digest:
            self._store.update(lambda record: record.model_copy(update={"last": health}))
        else:
            failure = asyncio.run(self._failure(health, known))
            self._store.update(
                lambda record: record.with_failure(failure).model_copy(update={"last": health})
            )
            if response.action is Action.ROLL_BACK:
                return self._roll_back(failure, health)
        return response

    async def _failure(self, health: BootHealth, known: FailedBoot | None) -> FailedBoot:
        state = FailureState.ROLLING_BACK if health.action == Action.ROLL_BACK.value else FailureState.BAD
        if known is not None and known.state is FailureState.ROLLED_BACK:
            state = known.state
        return FailedBoot(
            uuid=known.uuid if known else str(uuid4()),
            digest=health.digest,
            image=health.image,
            version=health.version,
            time=health.time,
            reasons=health.problems,
            journal=await self._excerpt(),
            state=state,
        )

    def _roll_back(self, failure: FailedBoot, health: BootHealth) -> Response:
        try:
            # It may do so already: by somebody, or by us before a power cut.
            self._deployed.boot_next(target=True)
        except BootcdError as error:
            reason = f"the rollback failed: {error.message}"
            log.error("%s", reason)  # noqa: TRY400  # one line
            failed = failure.model_copy(update={"state": FailureState.BAD})
            told = health.model_copy(update={"action": Action.LEAVE.value, "reason": reason})
            self._store.update(lambda record: record.with_failure(failed).model_copy(update={"last": told}))
            return Response(Action.LEAVE, reason)
        done = failure.model_copy(update={"state": FailureState.ROLLED_BACK})
        self._store.update(lambda record: record.with_failure(done))
        log.critical(
            "the host goes back to the version before, rebooting",
            extra=journal.fields(journal.Event.ROLLED_BACK, digest=failure.digest, version=failure.version),
        )
        try:
            asyncio.run(self._reboot())
        except BootcdError as error:
            log.error("%s, the version before is booted next", error.message)  # noqa: TRY400
        return Response(Action.ROLL_BACK)


def _marked_good(record: HealthRecord, health: BootHealth) -> HealthRecord:
    if health.digest:
        record = record.with_good(health.digest)
    return record.model_copy(update={"last": health})


def _tell(health: BootHealth) -> None:
    name = health.version or health.digest or "this system"
    for line in health.warnings:
        log.warning("%s", line)
    if health.good:
        log.info("the boot of %s is good", name)
        return
    what = "; ".join(health.problems)
    outlook = f", and nothing is done about it: {health.reason}" if health.reason else ""
    log.critical(
        "the boot of %s is bad%s (%s)",
        name,
        outlook,
        what,
        extra=journal.fields(journal.Event.BOOT_BAD, digest=health.digest, version=health.version),
    )


def _boot_id() -> str:
    try:
        return boot_id()
    except OSError:
        return ""
