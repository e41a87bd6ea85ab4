"""What passes between the daemon and a worker process, and what is kept of a job.

A job directory `<state>/jobs/<uuid>/` holds three files, each written whole, synced and renamed
into place, and each with one writer:

    request.json   JobRequest   daemon, before the worker starts
    record.json    JobRecord    daemon, at every change of state
    outcome.json   Outcome      worker, as its last act

While it works, the worker sends `WorkerMessage`s as datagrams to the daemon's socket. They may be
lost (the daemon may be restarting); nothing but the display depends on them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bootcd.model.errors import ErrorInfo, InvalidArguments
from bootcd.model.trust import Verdict

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

_SUMMARY_LIMIT = 200
REASON_LIMIT = 1000

JobUuid = Annotated[str, Field(pattern=UUID_PATTERN)]


class JobKind(StrEnum):
    CHECK = "check"
    UPGRADE = "upgrade"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    APPLY = "apply"
    KERNEL_ARGUMENTS = "kernel-arguments"
    PIN = "pin"
    UNPIN = "unpin"
    DROP = "drop"
    USR_OVERLAY = "usr-overlay"


class SoftReboot(StrEnum):
    """How much a caller wants the reboot to be of user space alone."""

    NONE = ""
    AUTO = "auto"
    "Where it can be; else the whole machine reboots."
    REQUIRED = "required"


class JobState(StrEnum):
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        return self not in (JobState.RUNNING, JobState.CANCELLING)


class Phase(StrEnum):
    """Steps of a job in their order; a kind of job uses some of them."""

    PREPARE = "prepare"
    RESOLVE = "resolve"
    FETCH = "fetch"
    IMPORT = "import"
    BOUND_IMAGES = "bound-images"
    STAGE = "stage"
    CLEANUP = "cleanup"
    REBOOT = "reboot"


class _Document(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class WorkerSettings(_Document):
    """The part of the configuration a worker needs; only `app` reads configuration files."""

    sysroot: str = "/"
    backend: Literal["auto", "ostree", "bootc"] = "auto"
    "What drives the host; auto: bootc where it boots a composefs image, else libostree."
    insecure_registries: frozenset[str] = frozenset()
    ca_file: str = ""
    auth_files: tuple[str, ...] = ()
    parallel_downloads: int = Field(default=3, ge=1, le=16)
    parallel_per_registry: int = Field(default=16, ge=1, le=16)
    max_bandwidth_bytes: int = Field(default=0, ge=0)
    "Per second; 0 is no bound."
    pauses_file: str = ""
    "Where registries that asked to be left alone are remembered; empty for nowhere."
    stall_timeout_secs: float = Field(default=60.0, gt=0)
    retries: int = Field(default=5, ge=0, le=20)
    partial_pulls: Literal["auto", "always", "never"] = "auto"
    "When only those parts of a layer are fetched that are not here: if it saves enough, if it can be done."
    partial_proof: Literal["archive", "table"] = "archive"
    "What proves such a layer: the config's digest of its archive, or the manifest's of its table."
    containers_root: str = "/"
    "Below it is etc/containers of the host that runs the job, whose policy counts whatever the sysroot."
    accept_unnamed_signatures: bool = False
    "Take a signature that names no image for any image of that manifest."
    hooks_root: str = "/"
    "Below it are the hooks of the host that runs the job, whatever the sysroot."
    hook_timeout_secs: float = Field(default=300.0, gt=0)
    fleet_lock_url: str = ""
    "Of the FleetLock server a job with `fleet_lock` asks; empty for none."
    fleet_lock_group: str = "default"
    fleet_lock_file: str = ""
    "Where a slot is remembered until it is given back."
    memory_bytes: int = Field(default=64 << 20, ge=8 << 20)
    "Bound of all buffers between network and disk, whatever the size of image, layer or file."


class JobOptions(_Document):
    """What a caller can ask of a job; each kind of job knows some of them, and ignores the others."""

    image: str = ""
    "switch: the image to track from now on, by the name its transport gives it."
    transport: str = "registry"
    "switch: where the image comes from, as in containers-transports(5); bootc's word for docker."
    download_only: bool = False
    "upgrade, switch: stage locked, so that a reboot does not apply it yet."
    apply: bool = False
    "upgrade, switch, rollback, kernel-arguments: reboot into the result if anything changed."
    verified_only: bool = False
    "upgrade: refuse if the signature policy lets the image in unsigned, as the caller was allowed no more."
    enforce_container_sigpolicy: bool = False
    "switch: from now on, refuse images whose scope of the signature policy accepts anything."
    soft_reboot: SoftReboot = SoftReboot.NONE
    "upgrade, switch, rollback, apply: make the next reboot a soft one."
    tag: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$")] = ""
    "upgrade: track this tag of the same image from now on."
    allow_downgrade: bool = False
    "upgrade: take the newest version of the tag also if it is older than what is booted or staged."
    from_downloaded: bool = False
    "upgrade: let the next boot be into what is staged, without asking the registry."
    retain: bool = False
    "switch: keep the ostree ref the host followed before."
    deployment: Annotated[str, Field(max_length=80)] = ""
    "pin, unpin, drop: a role, a number or an id, see `bootcd.ostree.selection`."
    read_only: bool = False
    "usr-overlay: /usr as the image has it for everybody but who mounts over it."
    job_uuid: JobUuid | Literal[""] = ""
    "Chosen by the caller, so that a call that is made again begins nothing; empty for a random one."
    expect_digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    "upgrade, switch: take the image of this digest, or none."
    expect_generation: Annotated[int, Field(ge=0)] | None = None
    "Start only if this is the generation of what is deployed; the service looks at it, a worker does not."
    fleet_lock: bool = False
    "apply: only by leave of the fleet, where one is configured; of the service's own work."
    ignore_inhibitors: bool = False
    "Do it even if somebody blocks it; the service looks at it, a worker does not."
    delete: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    append: tuple[str, ...] = ()
    "kernel-arguments: see `bootcd.ostreefmt.kargs_change`."

    @property
    def summary(self) -> str:
        """What was asked for, in a few words for the history; empty where the kind says it all."""
        words = [self.deployment] if self.deployment else []
        words += [f"tag {self.tag}"] if self.tag else []
        for how in ("delete", "replace", "append"):
            words += [f"{how} {argument}" for argument in getattr(self, how)]
        words += ["downgrade allowed"] if self.allow_downgrade else []
        words += ["from downloaded"] if self.from_downloaded else []
        words += ["read-only"] if self.read_only else []
        return ", ".join(words)[:_SUMMARY_LIMIT]


class JobRequest(JobOptions):
    """What a worker is to do; complete, so that the same request can run again after a crash."""

    uuid: JobUuid
    kind: JobKind
    settings: WorkerSettings = WorkerSettings()

    def require_sense(self) -> None:
        """Refuse options that contradict each other. Raises InvalidArguments."""
        if self.download_only and self.apply:
            raise InvalidArguments("what is only downloaded cannot be applied at once")
        if self.download_only and self.soft_reboot is not SoftReboot.NONE:
            raise InvalidArguments("what is only downloaded cannot be reached by a soft reboot")
        if self.from_downloaded and self.kind is not JobKind.UPGRADE:
            raise InvalidArguments("only an upgrade can be from what is downloaded")
        if self.from_downloaded and self.expect_digest:
            raise InvalidArguments(
                "what is downloaded already is taken as it is: name its generation, not a digest"
            )
        if self.from_downloaded and (self.download_only or self.tag):
            raise InvalidArguments(
                "what is downloaded already is taken as it is: neither a tag nor download-only goes with it"
            )

    def same_work(self, other: JobRequest) -> bool:
        """Whether both ask for the same thing, so that the second can join the first."""
        alike = {
            "uuid": other.uuid,
            "job_uuid": other.job_uuid,
            "verified_only": other.verified_only,
            "expect_generation": other.expect_generation,
            "ignore_inhibitors": other.ignore_inhibitors,
            "fleet_lock": other.fleet_lock,
        }
        return self.model_copy(update=alike) == other


LAYERS_SHOWN = 16
"As many as can be in flight; with them a message still fits into a datagram many times."


class LayerProgress(_Document):
    """How far a layer is. It is complete when all its bytes are done."""

    id: str
    "The first characters of its digest's hexadecimal part."
    kind: Literal["chunk", "layer"]
    "chunk: a part of the ostree commit the image was made from."
    bytes_done: int = 0
    bytes_total: int = 0


class Progress(_Document):
    """How far a job is. Bytes are compressed bytes of layers; steps are layers."""

    phase: Phase = Phase.PREPARE
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_cached: int = 0
    "Bytes of the image that were here already; not part of `bytes_total`."
    steps_done: int = 0
    steps_total: int = 0
    steps_cached: int = 0
    digest: str = ""
    "Of the manifest of the image that is fetched or imported; empty before and where there is nothing to."
    layers: tuple[LayerProgress, ...] = Field(default=(), max_length=LAYERS_SHOWN)
    "In the order of their start: those in flight, and the last ones that were completed."
    cancellable: bool = True


class ImageChanges(_Document):
    """What one version of an image has and another has not. Bytes are compressed bytes of layers."""

    from_digest: str = ""
    from_version: str = ""
    layers: int = Field(default=0, ge=0)
    "Of the new version, in all."
    added_layers: int = Field(default=0, ge=0)
    added_bytes: int = Field(default=0, ge=0)
    removed_layers: int = Field(default=0, ge=0)
    removed_bytes: int = Field(default=0, ge=0)


class ImageUpdate(_Document):
    """An image version that could be, or was, taken."""

    image: str
    transport: str = "registry"
    digest: str
    version: str = ""
    created: AwareDatetime | None = None
    download_bytes: int = -1
    "Compressed bytes not here yet; -1 if unknown."
    rollout_secs: float = Field(default=0, ge=0)
    "Over which the image asks machines to take it by and by; 0 for at once."
    has_notes: bool = False
    "check: release notes were found."
    trust: Verdict | None = None
    "Why it is let in; None if that was not asked yet."
    changes: ImageChanges | None = None
    "check: how it differs from the image there is."


class Outcome(_Document):
    """How a job ended."""

    state: JobState
    error: ErrorInfo | None = None
    changed: bool = False
    "Something on the host is different now: staged, boot order swapped, unlocked."
    update: ImageUpdate | None = None
    "check: what is available, None if up to date. upgrade, switch: what was staged."
    notes: str = Field(default="", max_length=1 << 16)
    "check: the release notes of what is available, fit to be shown; not kept in the history."
    dropped: str = ""
    "rollback, drop: digest of what was dropped, or its commit if it came from no image."
    reason: str = Field(default="", max_length=REASON_LIMIT)
    "rollback: why the host went back by itself, empty if somebody asked for it."
    warnings: tuple[str, ...] = ()
    "Sentences about what went wrong once the work was done, such as a hook that failed."
    bytes_fetched: int = 0
    bytes_reused: int = 0
    "upgrade, switch: compressed bytes of the image that were here already and so not fetched."
    reboot: bool = False
    "A reboot was asked of the host."
    soft_reboot: bool = False
    "The next reboot is of user space alone."


class Requester(_Document):
    """Who asked for a job; `agent` for the daemon's own background work."""

    uid: int = 0
    pid: int = 0
    name: str = "agent"


class WorkerHandle(_Document):
    """How to find a worker again: a transient unit, or a process by pid and its start time."""

    unit: str = ""
    pid: int = 0
    start_ticks: int = 0
    "Field 22 of proc_pid_stat(5), which tells a reused pid from the worker."


class JobRecord(_Document):
    """A job as the daemon remembers it across its own restarts."""

    number: int = Field(ge=0, lt=1 << 53)
    request: JobRequest
    requester: Requester
    state: JobState = JobState.RUNNING
    created: AwareDatetime
    finished: AwareDatetime | None = None
    worker: WorkerHandle | None = None
    progress: Progress = Progress()
    outcome: Outcome | None = None

    @property
    def fraction(self) -> float | None:
        """How much of the work is done, from 0 to 1; None while nobody knows."""
        if self.state is JobState.DONE:
            return 1.0
        for done, total in (
            (self.progress.bytes_done, self.progress.bytes_total),
            (self.progress.steps_done, self.progress.steps_total),
        ):
            if total > 0:
                return min(max(done / total, 0.0), 1.0)
        return None


class WorkerMessage(_Document):
    """One datagram from a worker: its checks passed, its progress, or its end."""

    uuid: JobUuid
    ready: bool = False
    progress: Progress | None = None
    finished: bool = False
