"""A host whose deployments are libostree's: registry and storage joined.

The steps of an upgrade: resolve the reference, fetch and import what is missing, stage, clean up. Each
can be killed and run again; the booted and the rollback deployment are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from bootcd import __version__
from bootcd.engine.protocol import Report
from bootcd.host import process
from bootcd.host.clock import Clock
from bootcd.host.files import read_bounded
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    Busy,
    InvalidArguments,
    InvalidManifest,
    ReadOnlyHost,
    SignatureRejected,
    Unsupported,
    WrongState,
)
from bootcd.model.host import Host
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobRequest,
    JobState,
    Outcome,
    Phase,
    Progress,
    WorkerSettings,
)
from bootcd.oci.manifest import Descriptor, host_architecture, parse_timestamp
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.trust import accepts_unsigned
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.garbage import drop_unused_refs
from bootcd.ostree.image import Image, check_bootable, missing_layers
from bootcd.ostree.importer import INDEX_DIGEST_KEY, Importer
from bootcd.ostree.status import read_host
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.metadata import cached_update_metadata, parse_merge_metadata
from bootcd.ostreefmt.origin import REGISTRY, SignaturePolicy, TrackedImage
from bootcd.registry.client import RegistryClient, ResolvedImage
from bootcd.registry.credentials import load_credentials

log = logging.getLogger(__name__)

POLICY_FILE = "etc/containers/policy.json"
_POLICY_LIMIT = 1 << 20
_SELINUX = "sys/fs/selinux/enforce"
_REPORT_INTERVAL_SECS = 0.2
_REBOOT_DEADLINE_SECS = 30

T = TypeVar("T")


class NativeEngine:
    """One worker's view of the host."""

    def __init__(self, settings: WorkerSettings, clock: Clock, *, own_mounts: bool) -> None:
        """Open the system root; for `own_mounts` see `Sysroot`. Blocks briefly."""
        self._settings = settings
        self._clock = clock
        self._root = Path(settings.sysroot)
        self._sysroot = Sysroot(self._root, own_mounts=own_mounts)

    def read_host(self) -> Host:
        return read_host(self._sysroot)

    def prepare(self, request: JobRequest) -> None:
        if request.apply and request.download_only:
            raise InvalidArguments("what is only downloaded cannot be applied at once")
        sysroot = self._sysroot
        if self._root == Path("/"):
            sysroot.require_booted()
        match request.kind:
            case JobKind.CHECK:
                self._reference(sysroot.tracked_image())
            case JobKind.UPGRADE:
                sysroot.require_writable()
                self._reference(sysroot.tracked_image())
            case JobKind.SWITCH:
                sysroot.require_writable()
                sysroot.require_unmodified()
                self._reference(self._switch_target(request))
            case JobKind.ROLLBACK:
                sysroot.require_writable()
                if sysroot.rollback_target() is None:
                    raise WrongState("there is no deployment to roll back to")
            case JobKind.APPLY:
                self._require_something_to_apply()

    async def run(self, request: JobRequest, report: Report) -> Outcome:
        outcome = await self._work(request, report)
        # What an upgrade or a switch leaves staged is what was asked for, be it staged from before.
        staged = request.kind is not JobKind.ROLLBACK and self._sysroot.staged is not None
        if request.kind is JobKind.APPLY or (request.apply and (outcome.changed or staged)):
            report(Progress(phase=Phase.REBOOT, cancellable=False))
            await self._reboot()
            outcome = outcome.model_copy(update={"reboot": True})
        return outcome

    async def _work(self, request: JobRequest, report: Report) -> Outcome:
        match request.kind:
            case JobKind.CHECK:
                return await self._check(report)
            case JobKind.UPGRADE:
                return await self._upgrade(request, report)
            case JobKind.SWITCH:
                return await self._switch(request, report)
            case JobKind.ROLLBACK:
                return await self._rollback(report)
            case JobKind.APPLY:
                return await self._unlock(report)

    # check

    async def _check(self, report: Report) -> Outcome:
        report(Progress(phase=Phase.RESOLVE))
        tracked = self._sysroot.tracked_image()
        reference = self._reference(tracked)
        async with self._registry() as registry:
            if await registry.head_digest(reference) in self._digests_here():
                return Outcome(state=JobState.DONE)
            resolved = await self._resolve(registry, reference)
        if resolved.digest in self._digests_here():
            return Outcome(state=JobState.DONE)
        image = _image(tracked, resolved)
        check_bootable(image)
        await self._note_update(image)
        return Outcome(state=JobState.DONE, update=self._describe(tracked, image))

    def _digests_here(self) -> set[str]:
        """Digests by which the newest deployment's image goes in the registry."""
        newest = self._sysroot.newest
        digest = self._digest(newest)
        metadata = self._sysroot.repository.commit_metadata(newest.get_csum()) if digest else {}
        return {digest, metadata.get(INDEX_DIGEST_KEY, "")} - {""}

    async def _note_update(self, image: Image) -> None:
        """Leave the finding where bootc looks for it: with the commit of the newest deployment."""
        repository = self._sysroot.repository
        entries = cached_update_metadata(image.digest, image.manifest_json, image.config_json)
        noted = repository.detached_metadata(self._sysroot.newest.get_csum())
        if entries.items() <= noted.items():
            return

        def note() -> None:
            repository.update_detached_metadata(self._sysroot.newest.get_csum(), entries)
            self._sysroot.tell_watchers()

        try:
            await self._locked(note)
        except (Busy, ReadOnlyHost) as error:
            # What was asked for is the finding; the next check notes it.
            log.info("the finding is not noted for bootc: %s", error.message)

    # upgrade and switch

    async def _upgrade(self, request: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.RESOLVE))
        tracked = self._sysroot.tracked_image()
        reference = self._reference(tracked)
        async with self._registry() as registry:
            resolved = await self._resolve(registry, reference)
            staged, booted = self._sysroot.staged, self._sysroot.booted
            if staged is not None and self._digest(staged) == resolved.digest:
                return await self._relock(request, tracked, resolved, report)
            if staged is None and booted is not None and self._digest(booted) == resolved.digest:
                return Outcome(state=JobState.DONE)
            return await self._take(request, registry, tracked, reference, resolved, report)

    async def _switch(self, request: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.RESOLVE))
        tracked = self._switch_target(request)
        reference = self._reference(tracked)
        async with self._registry() as registry:
            resolved = await self._resolve(registry, reference)
            newest = self._sysroot.newest
            same = newest is not None and self._sysroot.image(newest) == tracked
            if same and self._digest(newest) == resolved.digest:
                if self._sysroot.staged is not None:
                    return await self._relock(request, tracked, resolved, report)
                return Outcome(state=JobState.DONE)
            return await self._take(request, registry, tracked, reference, resolved, report)

    async def _relock(
        self, request: JobRequest, tracked: TrackedImage, resolved: ResolvedImage, report: Report
    ) -> Outcome:
        """The wanted image is staged already: only whether a reboot applies it may change."""
        update = self._describe(tracked, _image(tracked, resolved))
        if self._sysroot.is_staged_locked() == request.download_only:
            return Outcome(state=JobState.DONE, update=update)
        report(Progress(phase=Phase.STAGE, cancellable=False))
        await self._locked(lambda: self._sysroot.set_staged_lock(request.download_only))
        return Outcome(state=JobState.DONE, changed=True, update=update)

    async def _take(
        self,
        request: JobRequest,
        registry: RegistryClient,
        tracked: TrackedImage,
        reference: ImageReference,
        resolved: ResolvedImage,
        report: Report,
    ) -> Outcome:
        image = _image(tracked, resolved)
        check_bootable(image)
        async with self._lock():
            self._require_unchanged(request, tracked)
            repository = self._sysroot.repository
            update = self._describe(tracked, image)
            importer = Importer(
                repository,
                parallel=self._settings.parallel_downloads,
                memory_bytes=self._settings.memory_bytes,
                now=self._clock.now(),
            )

            def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
                return registry.open_blob(reference, layer)

            counted = ImportProgress()
            async with _ticking(lambda: report(_progress(counted))):
                result = await importer.run(image, open_blob, counted)
            done = _progress(counted)
            report(done.model_copy(update={"phase": Phase.STAGE, "cancellable": False}))
            await asyncio.to_thread(self._sysroot.stage, result.commit, tracked, locked=request.download_only)
            report(done.model_copy(update={"phase": Phase.CLEANUP, "cancellable": False}))
            await asyncio.to_thread(self._clean_up)
        return Outcome(state=JobState.DONE, changed=True, update=update, bytes_fetched=result.bytes_fetched)

    def _require_unchanged(self, request: JobRequest, tracked: TrackedImage) -> None:
        """Refuse to replace what another program staged since the job looked."""
        self._sysroot.require_unmodified()
        if request.kind is JobKind.UPGRADE and self._sysroot.tracked_image() != tracked:
            raise Busy("another program has made this host track another image meanwhile", hint="try again")

    def _clean_up(self) -> None:
        try:
            drop_unused_refs(self._sysroot)
            self._sysroot.cleanup()
        except BootcdError as error:
            # The update is staged all the same; the next one cleans up after both.
            log.warning("what is not needed any more stays on the disk: %s", error.message)

    # rollback and apply

    async def _rollback(self, report: Report) -> Outcome:
        report(Progress(phase=Phase.STAGE, cancellable=False))

        def swap() -> str:
            staged = self._sysroot.staged
            dropped = self._digest(staged) if staged is not None else ""
            self._sysroot.rollback()
            return dropped

        return Outcome(state=JobState.DONE, changed=True, dropped=await self._locked(swap))

    def _require_something_to_apply(self) -> None:
        sysroot = self._sysroot
        if sysroot.staged is None and not sysroot.rollback_queued():
            raise WrongState("nothing is staged and no rollback is queued", hint="use bootcctl upgrade first")

    async def _unlock(self, report: Report) -> Outcome:
        report(Progress(phase=Phase.STAGE, cancellable=False))
        self._require_something_to_apply()
        if not self._sysroot.is_staged_locked():
            return Outcome(state=JobState.DONE)
        await self._locked(lambda: self._sysroot.set_staged_lock(False))
        return Outcome(state=JobState.DONE, changed=True)

    async def _reboot(self) -> None:
        command = ["systemctl", "reboot", "--message=Initiated by bootcd"]
        try:
            done = await process.run(command, deadline_secs=_REBOOT_DEADLINE_SECS, limit=4096)
        except (OSError, TimeoutError) as error:
            raise BackendFailed("the system manager could not be asked to reboot") from error
        if done.status != 0:
            raise BackendFailed(
                "the system manager refused to reboot", hint="what is staged stays so; reboot by hand"
            )

    # what the verbs share

    def _switch_target(self, request: JobRequest) -> TrackedImage:
        return TrackedImage.registry(str(parse_reference(request.image)))

    def _reference(self, tracked: TrackedImage) -> ImageReference:
        """Return the reference to pull.

        Raises:
            Unsupported: the image does not come from a registry, or this host needs what is not built yet.
            SignatureRejected: the host wants signatures of it.
        """
        if tracked.transport != REGISTRY:
            raise Unsupported(f"images of transport {tracked.transport} cannot be pulled yet")
        reference = parse_reference(tracked.name)
        if tracked.signature is not SignaturePolicy.UNVERIFIED or not self._accepts_unsigned(reference):
            raise SignatureRejected(
                f"this host wants {reference.name} signed, and signatures cannot be verified yet",
                hint="use bootc for this image for now",
            )
        if (self._root / _SELINUX).exists() and self._root == Path("/"):
            raise Unsupported(
                "this host runs SELinux, and images cannot be labelled yet",
                hint="use bootc on this host for now",
            )
        return reference

    def _accepts_unsigned(self, reference: ImageReference) -> bool:
        try:
            data = read_bounded(self._root / POLICY_FILE, _POLICY_LIMIT)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise BackendFailed(f"/{POLICY_FILE} cannot be read") from error
        return accepts_unsigned(data, reference)

    def _registry(self) -> RegistryClient:
        settings = self._settings
        return RegistryClient(
            insecure=settings.insecure_registries,
            ca_file=settings.ca_file,
            credentials=load_credentials(settings.auth_files),
            parallel=settings.parallel_downloads,
            stall_timeout=settings.stall_timeout_secs,
            retries=settings.retries,
            chance=random.random,
            user_agent=f"bootcd/{__version__}",
        )

    async def _resolve(self, registry: RegistryClient, reference: ImageReference) -> ResolvedImage:
        architecture, variant = host_architecture(os.uname().machine)
        return await registry.resolve(reference, architecture=architecture, variant=variant)

    def _digest(self, deployment: Any) -> str:
        """Return the digest of a deployment's image, empty if it has none that can be read."""
        try:
            known = parse_merge_metadata(self._sysroot.repository.commit_metadata(deployment.get_csum()))
        except BackendFailed as error:
            log.warning("deployment %s: %s", deployment.get_csum(), error.message)
            return ""
        return known.manifest_digest if known else ""

    def _describe(self, tracked: TrackedImage, image: Image) -> ImageUpdate:
        return ImageUpdate(
            image=tracked.name,
            digest=image.digest,
            version=image.config.version or "",
            created=parse_timestamp(image.config.timestamp),
            download_bytes=sum(layer.size for layer in missing_layers(self._sysroot.repository, image)),
        )

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[None, None]:
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, self._sysroot.locked())
            yield

    async def _locked(self, action: Callable[[], T]) -> T:
        async with self._lock():
            return await asyncio.to_thread(action)


@asynccontextmanager
async def _ticking(action: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Call the action at an interval while the block runs, and once at its end."""

    async def tick() -> None:
        while True:
            action()
            await asyncio.sleep(_REPORT_INTERVAL_SECS)

    ticker = asyncio.create_task(tick())
    try:
        yield
        action()
    finally:
        ticker.cancel()


def _image(tracked: TrackedImage, resolved: ResolvedImage) -> Image:
    return Image(
        reference=tracked.image_ref_name,
        digest=resolved.digest,
        index_digest=resolved.index_digest or "",
        manifest=resolved.manifest,
        manifest_json=_text(resolved.manifest_bytes),
        config=resolved.config,
        config_json=_text(resolved.config_bytes),
    )


def _text(document: bytes) -> str:
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        raise InvalidManifest("a manifest or config is not UTF-8") from error


def _progress(counted: ImportProgress) -> Progress:
    fetching = counted.bytes_done < counted.bytes_total
    return Progress(
        phase=Phase.FETCH if fetching and not counted.merging else Phase.IMPORT,
        bytes_done=max(0, counted.bytes_done),
        bytes_total=counted.bytes_total,
        bytes_cached=counted.bytes_cached,
        steps_done=counted.layers_done,
        steps_total=counted.layers_total,
    )
