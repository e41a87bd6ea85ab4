"""Verbs that talk to the service, each an exit code and one answer for a person or a program."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from bootcctl import exitcodes
from bootcctl.appointment import schedule_apply
from bootcctl.cli import changes_kargs
from bootcctl.client import DEPLOYMENT, JOB, MANAGER, ROOT, Client, may_ask_person
from bootcctl.documents import (
    DEPLOYMENT_PREFIX,
    ENDED,
    JOB_PREFIX,
    deployment_id,
    job_document,
    kargs_document,
    service_document,
)
from bootcctl.exitcodes import Failure, error_kind
from bootcctl.follow import Detached, JobFollower
from bootcctl.monitor import monitor
from bootcctl.notify import notify
from bootcctl.outcomes import render_changes, render_outcome
from bootcctl.passwords import password_agent
from bootcctl.pause import pause, resume
from bootcctl.progressfd import ProgressReport
from bootcctl.render import clean, clean_lines
from bootcctl.report import render_history, render_jobs, render_kargs
from bootcctl.runfiles import parse_document
from bootcctl.status import format_of, print_host, print_no_host, print_status
from bootcctl.terminal import Terminal
from bootcctl.times import parse_span, shown
from bootcctl.why import show_reasons

_METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "check": ("Check", ()),
    "upgrade": ("Upgrade", ()),
    "switch": ("Switch", ("image",)),
    "rollback": ("Rollback", ()),
    "apply": ("Apply", ()),
    "kargs": ("SetKernelArguments", ()),
    "pin": ("Pin", ("deployment",)),
    "unpin": ("Unpin", ("deployment",)),
    "drop": ("Drop", ("deployment",)),
    "usr-overlay": ("OverlayUsr", ()),
}
"Verbs that start a job: the method, and what of the command line are its arguments."
_OPTIONS = (
    *("transport", "download_only", "from_downloaded", "tag", "retain", "soft_reboot", "apply"),
    "allow_downgrade",
    *("delete", "replace", "append", "read_only", "enforce_container_sigpolicy", "expect_digest"),
    *("ignore_inhibitors", "max_age"),
)
"What of the command line are options of the method, by its name there."
_DEFAULTS = {"transport": "registry"}
_MAY_NEED_PASSWORD = {*_METHODS, "cancel", "config-diff", "log", "pause", "resume", "reload"}
_DOCUMENTS = {"diff", "config-diff", "log"}
_JOB_DETAILS_SECS = 3.0


def run(options: Namespace, terminal: Terminal) -> int:
    """Run the verb of a parsed command line; return the exit code."""
    only_shows = options.verb == "kargs" and not changes_kargs(options)
    interactive = options.verb in _MAY_NEED_PASSWORD and not only_shows and may_ask_person()
    with (
        ProgressReport(vars(options).get("progress_fd"), terminal.note) as options.progress,
        password_agent(interactive),
    ):
        return asyncio.run(_run(options, terminal, interactive))


async def _run(options: Namespace, terminal: Terminal, interactive: bool) -> int:
    try:
        descriptors = options.verb in _DOCUMENTS
        async with Client(options.bus, interactive=interactive, descriptors=descriptors) as client:
            return await _VERBS[options.verb](client, options, terminal)
    except Failure as failure:
        if options.verb != "status":
            raise
        print_no_host(options, terminal, failure)
        return exitcodes.DONE


async def _status(client: Client, options: Namespace, terminal: Terminal) -> int:
    text = str((await client.call(ROOT, MANAGER, "GetStatus", "a{sv}", [{}]))[0])
    host = parse_document(text)
    if host is None:
        raise Failure("Failed", "the service gave a status that cannot be read")
    if format_of(options) != "human":
        print_host(text, host, options)
        return exitcodes.DONE
    properties = await client.get_all(ROOT, MANAGER)
    active, job = properties.get("ActiveJob", "/"), None
    if active != "/":
        job = await _job_if_there(client, active)
    signatures = {}
    for role in ("Booted", "Staged", "Rollback"):
        if (path := properties.get(role, "/")) != "/":
            shown = await client.get_all(path, DEPLOYMENT)
            signatures[deployment_id(path)] = shown.get("Signature", {})
    print_status(options, terminal, host, service_document(properties, job, signatures), job)
    return exitcodes.DONE


async def _job_if_there(client: Client, path: str) -> dict[str, Any] | None:
    try:
        return job_document(path, await client.get_all(path, JOB))
    except Failure:
        return None


def ask_for_job(options: Namespace, number: int) -> dict[str, Any] | None:
    """Ask the service for the document of a job; None if it does not tell soon."""

    async def ask() -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_JOB_DETAILS_SECS), Client(options.bus) as client:
                return await _job_if_there(client, f"{JOB_PREFIX}{number}")
        except (TimeoutError, Failure):
            return None

    return asyncio.run(ask())


async def _check(client: Client, options: Namespace, terminal: Terminal) -> int:
    if vars(options).get("max_age"):
        options.max_age = parse_span(options.max_age) // timedelta(microseconds=1)
    return await _job(client, options, terminal)


async def _job(client: Client, options: Namespace, terminal: Terminal) -> int:
    await client.subscribe()
    asked = vars(options)
    member, arguments = _METHODS[options.verb]
    path = await client.start_job(
        member,
        [asked[name] for name in arguments],
        {
            name.replace("_", "-"): asked[name]
            for name in _OPTIONS
            if name in asked and asked[name] != _DEFAULTS.get(name)
        },
    )
    if path == "/":
        return await _known(client, terminal)
    if options.no_wait:
        job = job_document(path, await client.get_all(path, JOB))
        terminal.document(job)
        terminal.result(f"Job {job['number']} started; follow it with: bootcctl monitor")
        return exitcodes.DONE
    try:
        job = await JobFollower(client, terminal, path, options.progress.show).run()
    except Detached as left:
        raise _detached(left, terminal) from None
    options.progress.end(job)
    return _finish(job, terminal, locked=asked.get("download_only", False))


async def _known(client: Client, terminal: Terminal) -> int:
    """Tell what the last check found, as if it had been asked for just now."""
    properties = await client.get_all(ROOT, MANAGER)
    asked, found = properties.get("LastCheck", 0), properties.get("AvailableUpdate", {})
    code = _finish(
        {"kind": "check", "state": "done", "last-check": asked, "outcome": found}, terminal, locked=False
    )
    terminal.result(f"So the registry said at {shown(asked)}")
    return code


async def _apply(client: Client, options: Namespace, terminal: Terminal) -> int:
    if options.at or options.defer or options.cancel:
        return await schedule_apply(client, options, terminal)
    return await _job(client, options, terminal)


async def _kargs(client: Client, options: Namespace, terminal: Terminal) -> int:
    if changes_kargs(options):
        return await _job(client, options, terminal)
    deployments = [kargs_document(properties) for properties in await client.deployments()]
    terminal.document({"deployments": deployments})
    terminal.result(render_kargs(deployments, terminal.style))
    return exitcodes.DONE


def _detached(left: Detached, terminal: Terminal) -> Failure:
    terminal.document(left.job)
    number = left.job["number"]
    return Failure(
        "Detached",
        f"job {number} goes on without this command",
        f"see: bootcctl jobs; stop it with: bootcctl cancel {number}",
    )


def _finish(job: dict[str, Any], terminal: Terminal, *, locked: bool) -> int:
    terminal.document(job)
    if job["state"] == "done":
        terminal.result(render_outcome(job, terminal.style, locked=locked))
        if changes := render_changes(job["outcome"]):
            terminal.result(changes)
        for warning in job["outcome"].get("warnings", ()):
            terminal.note(f"Warning: {clean(warning, 1000)}")
        nothing_new = job["kind"] == "check" and not job["outcome"].get("digest")
        return exitcodes.NOTHING_NEW if nothing_new else exitcodes.DONE
    if job["state"] == "cancelled":
        raise Failure("Cancelled", f"the {job['kind']} was cancelled")
    error = job["error"]
    if error and error["message"]:
        raise Failure(error["name"], error["message"], error["hint"])
    kind = "Interrupted" if job["state"] == "interrupted" else "Failed"
    raise Failure(kind, f"the {job['kind']} was {job['state']}", "see: journalctl -u bootcd.service")


async def _cancel(client: Client, options: Namespace, terminal: Terminal) -> int:
    await client.subscribe()
    path, job = _find_job(await client.jobs(), options.job)
    if job["state"] in ENDED:
        raise Failure("NotCancellable", f"job {job['number']} has ended already: {job['state']}")
    await client.call(path, JOB, "Cancel", "a{sv}", [{}])
    if options.no_wait:
        terminal.document(job_document(path, await client.get_all(path, JOB)))
        terminal.result(f"Job {job['number']} was asked to stop")
        return exitcodes.DONE
    try:
        job = await JobFollower(client, terminal, path).run(cancel_on_interrupt=False)
    except Detached as left:
        raise _detached(left, terminal) from None
    terminal.document(job)
    if job["state"] != "cancelled":
        raise Failure(
            "NotCancellable", f"job {job['number']} ended before it could be cancelled: {job['state']}"
        )
    terminal.result(f"Job {job['number']} was cancelled")
    return exitcodes.DONE


def _find_job(jobs: dict[str, dict[str, Any]], wanted: str) -> tuple[str, dict[str, Any]]:
    """Find a job by number or uuid, or the active one."""
    for path, properties in jobs.items():
        job = job_document(path, properties)
        if wanted in (str(job["number"]), job["uuid"]) or (not wanted and job["state"] not in ENDED):
            return path, job
    if wanted:
        raise Failure("NoSuchJob", f"there is no job {wanted}", "see: bootcctl jobs")
    raise Failure("WrongState", "no job is at work")


async def _jobs(client: Client, _options: Namespace, terminal: Terminal) -> int:
    jobs = [job_document(path, properties) for path, properties in (await client.jobs()).items()]
    terminal.document({"jobs": jobs})
    terminal.result(render_jobs(jobs, time.time(), terminal.style))
    return exitcodes.DONE


async def _log(client: Client, options: Namespace, terminal: Terminal) -> int:
    jobs = await client.jobs()
    newest = next((properties["Uuid"] for properties in reversed(jobs.values())), "")
    if not options.job and not newest:
        raise Failure("WrongState", "there is no job", "older ones are in: journalctl -u 'bootcd-job-*'")
    path, job = _find_job(jobs, options.job or newest)
    text = await client.log(path)
    terminal.document({"number": job["number"], "uuid": job["uuid"], "log": text})
    terminal.result(clean_lines(text) or f"Job {job['number']} has printed nothing")
    return exitcodes.DONE


async def _history(client: Client, options: Namespace, terminal: Terminal) -> int:
    entries = await client.history(options.limit)
    for entry in entries:
        entry["error-name"] = error_kind(entry["error-name"]) if entry.get("error-name") else ""
    terminal.document({"entries": entries})
    terminal.result(render_history(entries, None, terminal.style))
    return exitcodes.DONE


async def _notes(client: Client, _options: Namespace, terminal: Terminal) -> int:
    notes = str((await client.call(ROOT, MANAGER, "GetNotes", "a{sv}", [{}]))[0])
    terminal.document({"notes": notes})
    terminal.result(clean_lines(notes) or "There are no release notes")
    return exitcodes.DONE


async def _monitor(client: Client, _options: Namespace, terminal: Terminal) -> int:
    await monitor(client, terminal)
    return exitcodes.DONE


async def _diff(client: Client, options: Namespace, terminal: Terminal) -> int:
    from bootcctl.differences import choose_deployments, render_diff

    host = parse_document(str((await client.call(ROOT, MANAGER, "GetStatus", "a{sv}", [{}]))[0])) or {}
    before, after = choose_deployments(host, options.before, options.after)
    paths = [DEPLOYMENT_PREFIX + id.replace(".", "_") for id in (before, after)]
    document = await client.document("Diff", "ooa{sv}", [*paths, {}])
    terminal.document(document)
    terminal.result(render_diff(document, terminal.style, verbose=options.verbose))
    return exitcodes.DONE


async def _config_diff(client: Client, _options: Namespace, terminal: Terminal) -> int:
    from bootcctl.differences import render_config_diff

    document = await client.document("ConfigDiff", "a{sv}", [{}])
    terminal.document(document)
    terminal.result(render_config_diff(document))
    return exitcodes.DONE


async def _reload(client: Client, _options: Namespace, terminal: Terminal) -> int:
    await client.call(ROOT, MANAGER, "Reload")
    terminal.document({"reloaded": True})
    terminal.result("Configuration and host were read again")
    return exitcodes.DONE


async def _why(client: Client, options: Namespace, terminal: Terminal) -> int:
    await show_reasons(client, options, terminal)
    return exitcodes.DONE


_VERBS: dict[str, Callable[[Client, Namespace, Terminal], Awaitable[int]]] = {
    "status": _status,
    **dict.fromkeys(_METHODS, _job),
    "check": _check,
    "apply": _apply,
    "kargs": _kargs,
    "cancel": _cancel,
    "jobs": _jobs,
    "history": _history,
    "log": _log,
    "monitor": _monitor,
    "notify": notify,
    "why": _why,
    "notes": _notes,
    "diff": _diff,
    "config-diff": _config_diff,
    "pause": pause,
    "resume": resume,
    "reload": _reload,
}
