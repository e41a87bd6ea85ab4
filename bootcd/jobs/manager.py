"""Life of jobs: accepted or refused, at work, ended, remembered for a while, forgotten.

One job at a time. The order of steps is what makes a crash of the daemon harmless: a job is journaled
before its worker runs, and its end is read from what the worker left, never from what was sent. Whoever
asks for a job learns of it only once the worker's own checks have passed, so a request that cannot work
is an error of the caller and never a failed job.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootcd.host.clock import Clock
from bootcd.jobs.channel import WorkerChannel
from bootcd.jobs.events import JobAdded, JobEvent, JobForgotten
from bootcd.jobs.history import History
from bootcd.jobs.job import Job, conclude, interrupted, log_end, log_start, unrecorded
from bootcd.jobs.records import JobStore
from bootcd.jobs.runner import Runner
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    Busy,
    Cancelled,
    InternalError,
    InvalidArguments,
    NoSuchJob,
    NotCancellable,
    error_from_info,
)
from bootcd.model.job import JobRecord, JobRequest, JobState, Requester, WorkerHandle, WorkerMessage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Patience, in seconds."""

    ready_secs: float = 20.0
    "To wait for the worker's own checks; below the 25 s after which D-Bus clients give up."
    cancel_secs: float = 30.0
    "Between asking a worker to stop and killing it."
    stall_secs: float = 600.0
    "Without a word from a worker; longer than any single step that cannot report."
    linger_secs: float = 300.0
    "For which an ended job stays visible, so that nobody misses its end."
    notify_secs: float = 0.2
    "Between two reports of progress."
    look_secs: float = 30.0
    "Between two looks at the log of a worker."


_LOGS = 2
"Read at a time, whoever asks."
LINGERING = 64
"Ended jobs visible at a time, whatever the pace of requests."


class JobManager:
    """All jobs of the host. `worker` is the command that `run <directory> --socket <path>` is added to."""

    def __init__(
        self,
        *,
        store: JobStore,
        history: History,
        runner: Runner,
        socket_path: Path,
        worker: Sequence[str],
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._history = history
        self._runner = runner
        self._channel = WorkerChannel(socket_path, self._received)
        self._worker = tuple(worker)
        self._clock = clock
        self._limits = limits or Limits()
        self._on_event: Callable[[JobEvent], None] = lambda _: None
        self._settle: Callable[[JobRecord], Awaitable[None]] | None = None
        self._visible: dict[str, Job] = {}
        self._current: Job | None = None
        "Being accepted or at work."
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._log_turns = asyncio.Semaphore(_LOGS)

    async def start(
        self, *, on_event: Callable[[JobEvent], None], settle: Callable[[JobRecord], Awaitable[None]]
    ) -> None:
        """Listen to workers and take up every job of the daemon before this one.

        `on_event` is called on the loop with every change, from now on. `settle` is awaited between the
        end of a worker and the published end of its job, by when the effects of the job should be
        visible; it bounds its own time.
        """
        self._on_event = on_event
        self._settle = settle
        await self._channel.open()
        await asyncio.to_thread(self._store.prune)
        records = await asyncio.to_thread(self._store.load_all)
        self._last_number = max((record.number for record in records), default=0)
        try:
            remembered = await asyncio.to_thread(self._history.last_number)
            self._last_number = max(self._last_number, remembered)
        except OSError as error:
            log.warning("%s, proceeding without", error)
        for record in records:
            await self._adopt(record)

    async def stop(self) -> None:
        """Let go of all jobs; their workers go on."""
        self._channel.close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in self._visible.values():
            job.stop_timers()

    def jobs(self) -> tuple[JobRecord, ...]:
        """All that run or linger, by number."""
        return tuple(sorted((job.record for job in self._visible.values()), key=lambda r: r.number))

    @property
    def busy(self) -> bool:
        """Whether a job is at work or about to be: a request now joins it or is refused."""
        return self._current is not None

    async def create(self, request: JobRequest, requester: Requester) -> JobRecord:
        """Start a job, or join the one at work if it does the same, and return it once it is accepted.

        The job goes on if the caller is cancelled. Raises Busy, whatever error the worker's checks
        found, Interrupted if the worker ended, and OutOfSpace, InternalError or BackendFailed if the
        job could not be recorded or started.
        """
        job = self._current or self._visible.get(request.uuid)
        if job is None:
            self._last_number += 1
            record = JobRecord(
                number=self._last_number, request=request, requester=requester, created=self._clock.now()
            )
            job = self._current = self._job(record)
            job.accepting = self._task(self._accept(job))
        elif job.record.state is not JobState.RUNNING or not job.record.request.same_work(request):
            raise Busy(
                f"another job ({job.record.request.kind}) is at work",
                hint="wait until it has ended, or cancel it with 'bootcctl cancel'",
                uuid=job.uuid,
                number=job.record.number,
            )
        if job.accepting is not None:
            await asyncio.shield(job.accepting)
        return job.record

    async def retried(self, request: JobRequest, requester: Requester) -> JobRecord | None:
        """Return the job an earlier call with the same uuid began, once it is accepted; None if none did.

        Raises InvalidArguments if that was another request, or was too long ago.
        """
        job = self._visible.get(request.uuid)
        if job is None and self._current is not None and self._current.uuid == request.uuid:
            job = self._current
        if job is None:
            if await asyncio.to_thread(self._was_used, request.uuid):
                raise InvalidArguments(
                    f"there was a job with the uuid {request.uuid}, which ended long ago",
                    hint="the history tells how it ended; choose another uuid for another job",
                )
            return None
        # Settings may have been read anew in between.
        asked = request.model_copy(update={"settings": job.record.request.settings})
        if requester.uid != job.record.requester.uid or not job.record.request.same_work(asked):
            raise InvalidArguments(
                f"{request.uuid} is the uuid of another request", hint="choose another uuid for another job"
            )
        if job.accepting is not None:
            await asyncio.shield(job.accepting)
        return job.record

    def _was_used(self, uuid: str) -> bool:
        if self._store.directory(uuid).exists():
            return True
        try:
            return self._history.contains(uuid)
        except OSError as error:
            log.warning("%s, proceeding without", error)
            return False

    async def cancel(self, uuid: str) -> None:
        """Ask a job to stop; again is no error. Raises NoSuchJob, NotCancellable."""
        job = self._find(uuid)
        if job.record.state is JobState.CANCELLING:
            return
        if job.record.state.ended or job.exited.is_set():
            raise NotCancellable("the job has ended already")
        if not job.record.progress.cancellable:
            raise NotCancellable(
                f"the job is at a step that must run to its end ({job.record.progress.phase})",
                hint="wait until the job has ended",
            )
        job.update(state=JobState.CANCELLING)
        job.publish()
        await self._save(job.record)
        self._task(self._stop_worker(job))

    async def wait(self, uuid: str) -> JobRecord:
        """Return the record of a job once it has ended. Raises NoSuchJob."""
        job = self._find(uuid)
        await job.ended.wait()
        return job.record

    async def log(self, uuid: str) -> bytes:
        """Return what the worker of a job has printed, its end if that is long.

        Raises NoSuchJob, Busy and BackendFailed.
        """
        job = self._find(uuid)
        try:
            async with asyncio.timeout(self._limits.ready_secs):
                await self._log_turns.acquire()
        except TimeoutError:
            raise Busy("other logs are being read", hint="try again in a moment") from None
        try:
            printed = await self._runner.log(job.record.worker) if job.record.worker else b""
            return printed or await asyncio.to_thread(self._store.read_log, uuid)
        finally:
            self._log_turns.release()

    async def history(self, limit: int) -> list[JobRecord]:
        """Return ended jobs, newest first. Raises InternalError."""
        try:
            return await asyncio.to_thread(self._history.recent, limit)
        except OSError as error:
            log.warning("%s", error)
            raise InternalError("the job history cannot be read") from error

    async def remember(self, record: JobRecord) -> None:
        """Enter into the history what was done without us, under a number of ours; once per uuid."""
        try:
            if await asyncio.to_thread(self._history.contains, record.request.uuid):
                return
            self._last_number += 1
            numbered = record.model_copy(update={"number": self._last_number})
            await asyncio.to_thread(self._history.add, numbered)
        except (OSError, BootcdError) as error:
            log.warning("%s, proceeding without an entry for %s", error, record.request.uuid)

    # Beginning

    async def _accept(self, job: Job) -> None:
        try:
            try:
                await asyncio.to_thread(self._store.create, job.record)
                directory = str(self._store.directory(job.uuid))
                argv = (*self._worker, "run", directory, "--socket", str(self._channel.path))
                await self._runner.start(job.uuid, argv, functools.partial(self._journal, job))
            except OSError as error:
                raise unrecorded(error) from error
            job.started = True
            self._task(self._watch(job))
            await self._checked(job)
        except Exception:
            await self._discard(job)
            raise
        self._show(job)
        log_start(job.record)
        self._task(self._follow(job))

    async def _journal(self, job: Job, handle: WorkerHandle) -> None:
        job.update(worker=handle)
        await asyncio.to_thread(self._store.save, job.record)

    async def _checked(self, job: Job) -> None:
        """Return when the worker's checks have passed, or take too long; raise what they found."""
        try:
            async with asyncio.timeout(self._limits.ready_secs):
                await job.answered.wait()
        except TimeoutError:
            # A slow host must be able to update too: what the checks find ends the job then.
            log.info("the checks before job %d take long, accepting it", job.record.number)
            return
        if job.ready:
            return
        outcome = await asyncio.to_thread(self._store.read_outcome, job.uuid)
        if outcome is None:
            raise interrupted()
        if outcome.error is not None:
            raise error_from_info(outcome.error)
        if outcome.state is not JobState.DONE:
            raise Cancelled("the job was stopped before its checks had passed")

    async def _discard(self, job: Job) -> None:
        """Leave no trace of a job that was not accepted, and let the next one in once its worker is gone."""
        if job.started and not job.exited.is_set():
            self._task(self._discard_killed(job))
            return
        await asyncio.to_thread(self._store.remove, job.uuid)
        self._current = None

    async def _discard_killed(self, job: Job) -> None:
        await self._kill(job)
        await self._discard(job)

    async def _adopt(self, record: JobRecord) -> None:
        job = self._job(record)
        if record.state.ended:
            age = (self._clock.now() - (record.finished or record.created)).total_seconds()
            job.exited.set()
            job.ended.set()
            if 0 <= age < self._limits.linger_secs:
                self._show(job)
                self._linger(job, self._limits.linger_secs - age)
            return
        self._show(job)
        if record.worker is None or not await self._lives(record.worker):
            job.exited.set()
            await self._end(job)
            return
        log.info("job %d (%s) is still at work, watching it", record.number, record.request.kind)
        job.started = True
        self._current = job
        self._task(self._watch(job))
        self._task(self._follow(job))
        if record.state is JobState.CANCELLING:
            self._task(self._stop_worker(job))

    async def _lives(self, handle: WorkerHandle) -> bool:
        try:
            return await self._runner.alive(handle)
        except (BackendFailed, OSError) as error:
            log.warning("cannot tell whether %s lives, assuming so: %s", handle.unit or handle.pid, error)
            return True

    # At work

    async def _watch(self, job: Job) -> None:
        while True:
            try:
                await self._runner.wait(job.handle)
                break
            except OSError as error:
                log.warning("cannot watch job %d now, trying again: %s", job.record.number, error)
                await asyncio.sleep(self._limits.look_secs)
        # All it ever said has arrived by now, and may not have been read.
        self._channel.drain()
        job.exited.set()
        job.answered.set()

    async def _follow(self, job: Job) -> None:
        """Keep an eye on a worker until its end, and bring out the end of its job."""
        loop = asyncio.get_running_loop()
        while not job.exited.is_set():
            silent_secs = loop.time() - job.heard_at
            if silent_secs >= self._limits.stall_secs and not job.stalled:
                job.stalled = True
                log.warning("job %d has said nothing for %.0f s, stopping it", job.record.number, silent_secs)
                self._task(self._stop_worker(job))
            pause = self._limits.look_secs
            if not job.stalled:
                pause = min(pause, self._limits.stall_secs - silent_secs)
            try:
                async with asyncio.timeout(pause):
                    await job.exited.wait()
            except TimeoutError:
                await asyncio.to_thread(self._store.bound_log, job.uuid)
        await self._end(job, settle=self._settle)

    async def _stop_worker(self, job: Job) -> None:
        if job.stopping:
            return
        job.stopping = True
        await self._try(self._runner.terminate(job.handle))
        try:
            async with asyncio.timeout(self._limits.cancel_secs):
                await job.exited.wait()
        except TimeoutError:
            log.warning("the worker of job %d does not stop, killing it", job.record.number)
            await self._kill(job)

    async def _kill(self, job: Job) -> None:
        """End a worker, again and again where that fails: one that cannot be ended blocks all jobs."""
        while not job.exited.is_set():
            await self._try(self._runner.kill(job.handle))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.cancel_secs):
                    await job.exited.wait()

    def _received(self, message: WorkerMessage) -> None:
        job = self._visible.get(message.uuid)
        if job is None and self._current is not None and self._current.uuid == message.uuid:
            job = self._current
        if job is None or job.exited.is_set():
            log.debug("a message of no job at work, ignoring it")
            return
        job.hear(message)

    # End

    async def _end(self, job: Job, *, settle: Callable[[JobRecord], Awaitable[None]] | None = None) -> None:
        left = await asyncio.to_thread(self._store.read_outcome, job.uuid)
        outcome = conclude(job.record.state, left, stalled_secs=self._limits.stall_secs if job.stalled else 0)
        update = {"state": outcome.state, "finished": self._clock.now(), "outcome": outcome}
        ended = job.record.model_copy(update=update)
        # History first: after a crash in between, the job is ended once more and its entry replaced.
        try:
            await asyncio.to_thread(self._history.add, ended)
        except (OSError, BootcdError) as error:
            log.warning("%s, proceeding without an entry for job %d", error, ended.number)
        await self._save(ended)
        await asyncio.to_thread(self._store.bound_log, job.uuid)
        if settle is not None:
            await self._try(settle(ended))
        job.record = ended
        if self._current is job:
            self._current = None
        log_end(ended)
        job.ended.set()
        job.publish()
        self._linger(job, self._limits.linger_secs)
        await asyncio.to_thread(self._store.prune)

    def _linger(self, job: Job, secs: float) -> None:
        job.linger = asyncio.get_running_loop().call_later(secs, self._forget, job)
        ended = [job for job in self._visible.values() if job.ended.is_set()]
        for oldest in sorted(ended, key=lambda job: job.record.number)[:-LINGERING]:
            self._forget(oldest)

    def _forget(self, job: Job) -> None:
        job.stop_timers()
        del self._visible[job.uuid]
        self._on_event(JobForgotten(job.record))

    def _show(self, job: Job) -> None:
        job.visible = True
        self._visible[job.uuid] = job
        self._on_event(JobAdded(job.record))

    # Means

    def _job(self, record: JobRecord) -> Job:
        return Job(record, on_event=self._on_event, notify_secs=self._limits.notify_secs)

    def _find(self, uuid: str) -> Job:
        job = self._visible.get(uuid)
        if job is None:
            raise NoSuchJob(f"there is no job {uuid[:36]}", hint="'bootcctl jobs' lists the jobs")
        return job

    async def _save(self, record: JobRecord) -> None:
        try:
            await asyncio.to_thread(self._store.save, record)
        except OSError as error:
            # The next daemon concludes the same from what the worker left.
            log.warning("the state of job %d cannot be saved, proceeding: %s", record.number, error)

    async def _try(self, step: Awaitable[None]) -> None:
        try:
            await step
        except BootcdError as error:
            log.warning("%s, proceeding", error.message)
        except Exception:
            log.exception("a step around a job failed, proceeding")

    def _task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, BootcdError):
            log.error("a step of a job failed", exc_info=error)
