import json
from datetime import UTC
from typing import Any

import pytest

from bootcctl.documents import job_document, service_document
from bootcctl.outcomes import render_changes, render_outcome
from bootcctl.render import Style
from bootcctl.report import render_history, render_jobs, render_kargs, render_status
from tests.support.scripted_service import deployment, host

NOW = 1_767_225_600.0 + 2 * 86400  # two days after the images were built
USEC = 1_000_000


def status(service: dict[str, Any] | None = None, job: dict[str, Any] | None = None, **roles: Any) -> str:
    booted = roles.pop("booted_only", False)
    document = json.loads(host(**roles).to_json())
    return render_status(
        document, service or service_document({"State": "idle"}), job, NOW, booted_only=booted
    )


def test_status_shows_image_version_age_and_digest_of_each_role() -> None:
    text = status(
        booted=deployment("1.0", "a"),
        staged=deployment("2.0", "b"),
        rollback=deployment("0.9", "c", image="quay.io/x/y:z"),
    )
    staged, booted, rollback = text.split("\n\n")[1:4]
    assert staged.splitlines() == [
        "Staged     registry.example/os:1  (comes at the next boot)",
        "  Version  2.0, built 2 d ago",
        "  Digest   sha256:" + "b" * 64,
    ]
    assert booted.startswith("Booted     registry.example/os:1\n  Version  1.0")
    assert rollback.startswith("Rollback   quay.io/x/y:z\n")


def test_status_says_who_signed_each_deployment_or_that_nobody_did() -> None:
    booted, staged = deployment("1.0", "a"), deployment("2.0", "b")
    signatures = {
        booted.id: {"scope": "docker", "verified": False, "method": "none"},
        staged.id: {
            "scope": "docker quay.io",
            "verified": True,
            "key": "sha256:" + "c" * 64,
            "signer": "",
            "identity": "quay.io/x:1",
            "time": int((NOW - 3600) * USEC),
        },
    }
    text = status(service_document({}, None, signatures), booted=booted, staged=staged)
    assert "  Trust    not signed, the policy accepts that (scope docker)\n" in text
    signed = "signed by key sha256:cccccccccccc, as quay.io/x:1, 1 h ago (scope docker quay.io)"
    assert f"  Trust    {signed}\n" in text


def test_status_of_a_locked_deployment_says_how_to_apply_it() -> None:
    locked = deployment("2.0", "b").model_copy(update={"download_only": True})
    assert "(locked: comes with bootcctl apply)" in status(booted=deployment("1.0", "a"), staged=locked)


def test_status_of_a_queued_rollback_says_it_comes_next() -> None:
    document = json.loads(host(booted=deployment("1", "a"), rollback=deployment("0", "b")).to_json())
    document["status"]["rollbackQueued"] = True
    assert "registry.example/os:1  (comes at the next boot)" in render_status(document, {}, None, NOW)


def test_status_booted_only_shows_nothing_else() -> None:
    text = status(booted=deployment("1.0", "a"), staged=deployment("2.0", "b"), booted_only=True)
    assert text.startswith("Booted ")
    assert "Staged" not in text
    assert "State" not in text


def test_status_of_a_host_that_is_not_image_based_says_so() -> None:
    assert "No deployment" in status()


def test_status_of_a_deployment_without_image_shows_its_commit_and_why_updates_are_refused() -> None:
    entry = deployment("1.0", "a").model_copy(update={"image": None, "incompatible": True, "pinned": True})
    text = status(booted=entry)
    assert "Booted     not from an image\n  Commit   " + "a" * 64 in text
    assert "pinned; has layered packages" in text


def test_status_shows_service_job_check_and_next_action() -> None:
    service = service_document(
        {
            "State": "fetching",
            "StateSince": int((NOW - 61) * USEC),
            "RebootRequired": True,
            "LastCheck": int((NOW - 3600) * USEC),
            "LastCheckResult": "org.bootcd1.Error.RegistryUnavailable",
            "Mode": "stage",
            "NextAction": ["check", "the last one failed", int((NOW + 600) * USEC)],
        },
        job_document("/org/bootcd1/job/_3", {"Uuid": "u", "Kind": "upgrade"}),
    )
    running = {
        "Kind": "upgrade", "State": "running", "Phase": "fetch", "Progress": 0.5,
        "BytesDone": 5_000_000, "BytesTotal": 10_000_000, "EtaUsec": 65 * USEC,
    }  # fmt: skip
    text = status(service, job_document("/org/bootcd1/job/_3", running), booted=deployment("1.0", "a"))
    assert text.split("\n\n")[0].splitlines() == [
        "State      fetching for 1 min 1 s",
        "Job        upgrade, number 3, downloading, 50 %, 5.0 MB of 10.0 MB, 1 min 5 s left",
        "Reboot     needed, another system is set up for the next boot",
        "Checked    1 h ago, failed (RegistryUnavailable)",
        "Mode       stage (checks and stages by itself); next: check in 10 min (the last one failed)",
    ]


def test_status_of_a_job_that_cannot_be_asked_shows_what_is_known() -> None:
    active = {"uuid": "u", "number": 9, "kind": "switch"}
    assert "Job        switch, number 9\n" in status({"state": "working", "active-job": active})


def available(digit: str) -> dict[str, Any]:
    return service_document(
        {
            "AvailableUpdate": {
                "image": "registry.example/os:1",
                "digest": "sha256:" + digit * 64,
                "version": "2.0",
                "created": int((NOW - 86400) * USEC),
                "download-size": 12_300_000,
            }
        }
    )


def test_status_shows_an_available_update() -> None:
    section = status(available("d"), booted=deployment("1.0", "a")).split("\n\n")[-1]
    assert section.splitlines() == [
        "Available  registry.example/os:1",
        "  Version  2.0, built 1 d ago",
        "  Digest   sha256:" + "d" * 64,
        "  Download 12.3 MB",
    ]


def test_status_does_not_offer_what_is_staged_already() -> None:
    assert "Available" not in status(
        available("d"), booted=deployment("1.0", "a"), staged=deployment("2.0", "d")
    )


def test_status_of_a_hostile_version_label_holds_no_escape_sequence() -> None:
    text = status(booted=deployment("1\x1b]0;owned\x07\n\x1b[2J", "a", image="x\x1b[31m"))
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("timestamp", [None, "", "yesterday", "1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_status_of_a_build_time_that_says_nothing_shows_no_age(timestamp: str | None) -> None:
    entry = deployment("1.0", "a")
    assert entry.image is not None
    entry = entry.model_copy(update={"image": entry.image.model_copy(update={"timestamp": timestamp})})
    assert "  Version  1.0\n" in status(booted=entry)


@pytest.mark.parametrize(
    "timestamp", ["2025-12-31T00:00:00Z", "2025-12-31T00:00:00.123456789Z", "2025-12-31T02:00:00+02:00"]
)
def test_status_reads_build_times_as_images_carry_them(timestamp: str) -> None:
    entry = deployment("1.0", "a")
    assert entry.image is not None
    entry = entry.model_copy(update={"image": entry.image.model_copy(update={"timestamp": timestamp})})
    assert "built 3 d ago" in status(booted=entry) or "built 2 d 23 h ago" in status(booted=entry)


def done(kind: str, summary: str = "", **outcome: Any) -> dict[str, Any]:
    properties = {"Kind": kind, "Summary": summary, "State": "done", "Outcome": outcome}
    return job_document("/org/bootcd1/job/_1", properties)


NEW = {"image": "registry.example/os:1", "version": "2.0", "digest": "sha256:" + "d" * 64}


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (done("check"), "Up to date"),
        (
            done("check", **NEW, **{"download-size": 1000}),
            "Update available: registry.example/os:1 2.0 sha256:dddddddddddd, 1.0 kB to download",
        ),
        (done("check", digest="sha256:dd", **{"download-size": -1}), "Update available: sha256:dd"),
        (done("upgrade"), "Already up to date"),
        (done("switch", changed=False), "This image is already tracked and up to date"),
        (
            done("upgrade", changed=True, **NEW, **{"bytes-fetched": 5000}),
            "Staged registry.example/os:1 2.0 sha256:dddddddddddd, 5.0 kB downloaded;"
            " it comes at the next boot",
        ),
        (
            done("upgrade", changed=True, **NEW, **{"bytes-fetched": 5000, "bytes-reused": 70_000}),
            "Staged registry.example/os:1 2.0 sha256:dddddddddddd, 5.0 kB downloaded, 70.0 kB reused;"
            " it comes at the next boot",
        ),
        (done("switch", changed=True), "Staged the new version; it comes at the next boot"),
        (done("switch", changed=True, reboot=True), "Staged the new version; the host reboots"),
        (done("rollback", changed=True), "Boot order swapped; it comes at the next boot"),
        (
            done("rollback", changed=True, dropped="sha256:1"),
            "Boot order swapped; the staged image sha256:1 was dropped; it comes at the next boot",
        ),
        (done("apply", reboot=True), "Done; the host reboots"),
        (done("apply", reboot=True, **{"soft-reboot": True}), "Done; user space restarts"),
        (
            done("upgrade", changed=True, digest="sha256:dd", **{"soft-reboot": True}),
            "Staged sha256:dd; it comes at the next boot, which restarts user space alone",
        ),
        (
            done("upgrade", "from downloaded", changed=True, digest="sha256:dd"),
            "Unlocked sha256:dd; it comes at the next boot",
        ),
        (
            done("kernel-arguments", "delete quiet, append audit=0", changed=True),
            "Kernel arguments changed: delete quiet, append audit=0; it comes at the next boot",
        ),
        (done("kernel-arguments", "append a"), "The kernel arguments are as asked for already"),
        (done("pin", changed=True), "Pinned the booted deployment"),
        (done("pin"), "This deployment is pinned already"),
        (done("unpin", "rollback", changed=True), "Unpinned the rollback deployment"),
        (
            done("drop", "staged", changed=True, dropped="sha256:" + "d" * 64),
            "Dropped the staged deployment, sha256:dddddddddddd",
        ),
        (done("usr-overlay", changed=True), "/usr has an overlay until the next reboot"),
        (done("polish\x1b"), "Polish� done"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outcome_is_one_sentence(job: dict[str, Any], text: str) -> None:
    assert render_outcome(job) == text


def test_changes_of_an_update_are_told_in_layers() -> None:
    changes = {
        "from-version": "1.0", "from-digest": "sha256:" + "a" * 64, "layers": 60, "layers-added": 3,
        "bytes-added": 12_000_000, "layers-removed": 2, "bytes-removed": 11_000_000,
    }  # fmt: skip
    assert render_changes(changes) == (
        "  Since 1.0 sha256:aaaaaaaaaaaa: 3 of 60 layers are new (12.0 MB), 2 are gone (11.0 MB)"
    )
    one = render_changes(changes | {"layers-added": 1, "layers-removed": 1})
    assert "1 of 60 layers is new" in one
    assert "1 is gone" in one
    assert render_changes({"digest": "sha256:dd"}) == ""


def test_kernel_arguments_are_shown_by_deployment_and_cannot_write_to_the_terminal() -> None:
    shown = render_kargs(
        [
            {"id": "a.0", "role": "booted", "kernel-arguments": ["rw", "a=\x1b[2J"]},
            {"id": "b.0", "role": "staged", "kernel-arguments": ["rw", "quiet"]},
        ]
    )
    assert shown == "Staged     rw quiet\nBooted     rw a=�[2J\n"
    assert render_kargs([]).startswith("No deployment")


def test_outcome_of_a_locked_upgrade_says_what_unlocks_it() -> None:
    assert render_outcome(done("upgrade", changed=True), locked=True).endswith("locked until bootcctl apply")


def test_jobs_table_has_a_row_for_each_job() -> None:
    failed = {
        "Kind": "upgrade", "State": "failed", "Created": int((NOW - 5) * USEC), "Requester": {"name": "me"},
        "ErrorName": "org.bootcd1.Error.NotFound", "ErrorMessage": "no such tag",
    }  # fmt: skip
    running = {"Kind": "switch", "State": "running", "Phase": "import", "Progress": 0.1}
    jobs = [job_document("/org/bootcd1/job/_1", failed), job_document("/org/bootcd1/job/_2", running)]
    assert render_jobs(jobs, NOW).splitlines() == [
        "NUMBER  KIND     STATE    STARTED  BY  DETAIL",
        "1       upgrade  failed   5 s ago  me  no such tag",
        "2       switch   running               importing, 10 %",
    ]


def test_jobs_table_of_nothing_says_so() -> None:
    assert render_jobs([], NOW) == "No jobs\n"


def entry(**changes: Any) -> dict[str, Any]:
    values = {
        "kind": "upgrade", "state": "done", "created": int((NOW - 75) * USEC), "finished": int(NOW * USEC),
        "requester": "agent", "changed": True, "image": "", "version": "2.0", "digest": "sha256:" + "d" * 64,
    }  # fmt: skip
    return values | changes


def test_history_table_shows_end_length_and_result() -> None:
    rows = [
        entry(),
        entry(changed=False, version="", digest=""),
        entry(kind="check", changed=False),
        entry(state="failed", changed=False, **{"error-message": "disk full\x1b"}),
        entry(warnings=["the hook failed", "so did the other"]),
    ]
    lines = render_history(rows, UTC).splitlines()
    assert lines[1] == "2026-01-03 00:00:00  upgrade  done    1 min 15 s  agent  2.0 sha256:dddddddddddd"
    assert lines[2].endswith("agent  nothing changed")
    assert lines[3].endswith("agent  available: 2.0 sha256:dddddddddddd")
    assert lines[4].endswith("agent  disk full�")
    assert lines[5].endswith("; the hook failed (and 1 more)")


def test_history_of_nothing_says_so() -> None:
    assert render_history([], UTC) == "No jobs yet\n"


def test_history_colours_only_the_state() -> None:
    text = render_history([entry()], UTC, Style(colour=True))
    assert "\x1b[32mdone \x1b[0m" in text


def test_status_shows_a_cached_update_and_what_lies_over_usr_and_that_nothing_can_be_written() -> None:
    booted = deployment("1.0", "a").model_copy(update={"cached_update": deployment("2.0", "b").image})
    document = json.loads(host(booted=booted).to_json())
    document["status"] |= {
        "readOnly": True,
        "usrOverlay": {"accessMode": "readWrite", "persistence": "transient"},
    }
    text = render_status(document, {}, None, NOW)
    assert "  Overlay  over /usr, writable, gone at the next boot\n" in text
    assert "  Disk     read-only" in text
    assert f"  Update   2.0, built 2 d ago, sha256:{'b' * 64}\n" in text


def test_status_names_an_update_once() -> None:
    booted = deployment("1.0", "a").model_copy(update={"cached_update": deployment("2.0", "d").image})
    text = status(available("d"), booted=booted)
    assert (text.count("Available"), text.count("  Update")) == (1, 0)
    same = booted.model_copy(update={"cached_update": booted.image})
    assert "  Update" not in status(booted=same)


def test_status_verbose_shows_all_that_bootc_shows() -> None:
    entry = deployment("1.0", "a")
    signed = entry.image.image.model_copy(update={"signature": "containerPolicy"})  # type: ignore[union-attr]
    image = entry.image.model_copy(update={"image": signed})  # type: ignore[union-attr]
    entry = entry.model_copy(update={"image": image, "soft_reboot_capable": True, "pinned": True})
    text = render_status(json.loads(host(booted=entry).to_json()), {}, None, NOW, verbose=True)
    assert text.splitlines()[-7:] == [
        "  Note     pinned",
        "  Built    2026-01-01T00:00:00Z",
        "  For      amd64",
        "  Signed   containerPolicy",
        f"  Commit   {entry.ostree.checksum}",  # type: ignore[union-attr]
        "  Root     default, serial 0",
        "  Reboot   soft reboot is possible",
    ]
