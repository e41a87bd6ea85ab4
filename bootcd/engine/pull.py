"""The verbs that bring an image to the host: image source and storage joined.

The steps of an upgrade: resolve the reference, fetch and import what is missing, stage, clean up. Each
can be killed and run again; the booted and the rollback deployment are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootcd.engine.bound import BoundImages
from bootcd.engine.cleanup import clean_up
from bootcd.engine.description import describe
from bootcd.engine.hooks import Hooks, Point, Subject
from bootcd.engine.lock import lock, locked
from bootcd.engine.notes import release_notes
from bootcd.engine.protocol import Report
from bootcd.engine.source import ImageSource, RangedSource, open_source
from bootcd.engine.trust import Trust
from bootcd.engine.whole import require_whole
from bootcd.host import selinux
from bootcd.host.clock import Clock
from bootcd.model.errors import (
    BootcdError,
    Busy,
    DigestMismatch,
    InvalidManifest,
    ReadOnlyHost,
    Unsupported,
)
from bootcd.model.job import (
    LAYERS_SHOWN,
    ImageChanges,
    ImageUpdate,
    JobKind,
    JobRequest,
    JobState,
    LayerProgress,
    Outcome,
    Phase,
    Progress,
    WorkerSettings,
)
from bootcd.model.trust import Verdict, parse_verdict
from bootcd.oci.changes import layer_changes
from bootcd.oci.manifest import (
    ImageManifest,
    host_architecture,
    parse_config,
    parse_manifest,
)
from bootcd.oci.reference import parse_reference
from bootcd.oci.resolve import ResolvedImage
from bootcd.ostree.image import Image, check_bootable, missing_layers
from bootcd.ostree.status import read_host
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.metadata import INDEX_DIGEST, TRUST, cached_update_metadata, parse_merge_metadata
from bootcd.ostreefmt.origin import REGISTRY, RemoteSignature, SignaturePolicy, TrackedImage
from bootcd.update.downgrade import require_no_downgrade

if TYPE_CHECKING:
    from bootcd.ostree.fetch import ImportProgress, LayerCount

log = logging.getLogger(__name__)

_REPORT_INTERVAL_SECS = 0.2
_ID_CHARACTERS = 21
"Of a layer's digest, as bootc tells it."


class Pulls:
    def __init__(self, sysroot: Sysroot, settings: WorkerSettings, clock: Clock) -> None:
        self._sysroot = sysroot
        self._settings = settings
        self._clock = clock
        self._root = Path(settings.sysroot)
        self._trust = Trust(settings, clock)
        self._bound = BoundImages(sysroot, settings)
        self._hooks = Hooks.of(settings)

    def prepare_check(self, _: JobRequest) -> None:
        self._require_allowed(self._sysroot.tracked_image())

    def prepare_upgrade(self, request: JobRequest) -> None:
        self._sysroot.require_writable()
        self._require_labelling()
        self._require_allowed(self._upgrade_target(request), verified_only=request.verified_only)

    def prepare_switch(self, request: JobRequest) -> None:
        self._sysroot.require_writable()
        self._sysroot.require_unmodified()
        self._require_labelling()
        self._require_allowed(self._switch_target(request))

    # check

    async def check(self, _: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.RESOLVE))
        tracked = self._sysroot.tracked_image()
        self._require_allowed(tracked)
        async with open_source(tracked, self._settings) as source:
            if await source.current_digest() in self._digests(self._sysroot.newest):
                return Outcome(state=JobState.DONE)
            resolved = await self._resolve(source)
            if resolved.digest in self._digests(self._sysroot.newest):
                return Outcome(state=JobState.DONE)
            verdict = await self._trust.judge(tracked, source, resolved)
            image = _image(tracked, resolved, verdict)
            check_bootable(image)
            if not self._is_noted(image):  # else it was whole then
                await require_whole(source, tracked.name, missing_layers(self._sysroot.repository, image))
            notes = await release_notes(source, resolved)
        await self._note_update(image)
        found = {"has_notes": bool(notes), "changes": self._changes(image)}
        update = self._describe(tracked, image).model_copy(update=found)
        return Outcome(state=JobState.DONE, update=update, notes=notes)

    def _changes(self, image: Image) -> ImageChanges | None:
        """Return how an image differs from that of the newest deployment, if that can be told."""
        try:
            known = parse_merge_metadata(
                self._sysroot.repository.commit_metadata(self._sysroot.newest.get_csum())
            )
            manifest = parse_manifest(known.manifest_json.encode(), None) if known else None
            if known is None or not isinstance(manifest, ImageManifest):
                return None
            version = parse_config(known.config_json.encode()).version if known.config_json else None
        except BootcdError as error:
            log.warning("the image of the newest deployment cannot be compared: %s", error.message)
            return None
        changes = layer_changes(manifest, image.manifest)
        return changes.model_copy(
            update={"from_digest": known.manifest_digest, "from_version": version or ""}
        )

    def _digests(self, deployment: Any) -> set[str]:
        """Digests by which a deployment's image goes in the registry."""
        digest = self._sysroot.image_digest(deployment)
        metadata = self._sysroot.repository.commit_metadata(deployment.get_csum()) if digest else {}
        return {digest, metadata.get(INDEX_DIGEST, "")} - {""}

    def _is_noted(self, image: Image) -> bool:
        entries = cached_update_metadata(image.digest, image.manifest_json, image.config_json)
        noted = self._sysroot.repository.detached_metadata(self._sysroot.newest.get_csum())
        return entries.items() <= noted.items()

    async def _note_update(self, image: Image) -> None:
        """Leave the finding where bootc looks for it: with the commit of the newest deployment."""
        if self._is_noted(image):
            return
        repository = self._sysroot.repository
        entries = cached_update_metadata(image.digest, image.manifest_json, image.config_json)

        def note() -> None:
            repository.update_detached_metadata(self._sysroot.newest.get_csum(), entries)
            self._sysroot.tell_watchers()

        try:
            await locked(self._sysroot, note)
        except (Busy, ReadOnlyHost) as error:
            # What was asked for is the finding; the next check notes it.
            log.info("the finding is not noted for bootc: %s", error.message)

    # upgrade and switch

    async def upgrade(self, request: JobRequest, report: Report) -> Outcome:
        return await self._bring(request, self._upgrade_target(request), report)

    async def switch(self, request: JobRequest, report: Report) -> Outcome:
        return await self._bring(request, self._switch_target(request), report)

    async def _bring(self, request: JobRequest, tracked: TrackedImage, report: Report) -> Outcome:
        """Make the next boot be into the newest version of an image, whatever is here of it."""
        report(Progress(phase=Phase.RESOLVE))
        self._require_allowed(tracked, verified_only=request.verified_only)
        async with open_source(tracked, self._settings) as source:
            newest = self._sysroot.newest
            same = newest is not None and self._sysroot.image(newest) == tracked
            # Registries that count what is fetched do not count this question.
            if (
                same
                and self._sysroot.staged is None
                and await source.current_digest() in self._digests(newest)
            ):
                _require_expected(request, self._digests(newest))
                return Outcome(state=JobState.DONE)
            resolved = await self._resolve(source)
            _require_expected(request, {resolved.digest, resolved.index_digest or resolved.digest})
            here = same and self._sysroot.image_digest(newest) == resolved.digest
            if here and self._sysroot.staged is None:
                return Outcome(state=JobState.DONE)
            verdict = await self._trust.judge(tracked, source, resolved, verified_only=request.verified_only)
            if here:
                return await self._relock(request, tracked, resolved, verdict, report)
            return await self._take(request, source, tracked, resolved, verdict, report)

    async def _relock(
        self,
        request: JobRequest,
        tracked: TrackedImage,
        resolved: ResolvedImage,
        verdict: Verdict,
        report: Report,
    ) -> Outcome:
        """The wanted image is staged already: only whether a reboot applies it may change."""
        update = self._describe(tracked, _image(tracked, resolved, verdict))
        if update.trust is None:
            metadata = self._sysroot.repository.commit_metadata(self._sysroot.newest.get_csum())
            update = update.model_copy(update={"trust": parse_verdict(metadata.get(TRUST, ""))})
        if self._sysroot.is_staged_locked() == request.download_only:
            return Outcome(state=JobState.DONE, update=update)
        report(Progress(phase=Phase.STAGE, cancellable=False))
        await locked(self._sysroot, lambda: self._sysroot.set_staged_lock(request.download_only))
        return Outcome(state=JobState.DONE, changed=True, update=update)

    async def _take(
        self,
        request: JobRequest,
        source: ImageSource,
        tracked: TrackedImage,
        resolved: ResolvedImage,
        verdict: Verdict,
        report: Report,
    ) -> Outcome:
        # Only here: most jobs find nothing new.
        from bootcd.ostree.fetch import ImportProgress
        from bootcd.ostree.importer import Importer

        image = _image(tracked, resolved, verdict)
        check_bootable(image)
        update = self._describe(tracked, image)
        self._require_allowed_age(request, update)
        subject = Subject.of_update(request, update)
        await self._hooks.require(Point.PRE_STAGE, subject, report, Progress(phase=Phase.RESOLVE))
        async with lock(self._sysroot):
            self._require_unchanged(request, tracked)
            self._require_allowed_age(request, update)
            repository = self._sysroot.repository
            update = self._describe(tracked, image)
            importer = Importer(
                repository,
                parallel=self._settings.parallel_downloads,
                memory_bytes=self._settings.memory_bytes,
                now=self._clock.now(),
                label_commit=self._sysroot.booted.get_csum() if self._sysroot.booted else "",
            )
            counted = ImportProgress()
            async with _ticking(lambda: report(_progress(counted, image))):
                when = self._settings.partial_pulls
                ranged = source if isinstance(source, RangedSource) and when != "never" else None
                result = await importer.run(
                    image,
                    source.open_blob,
                    counted,
                    read_range=ranged.read_range if ranged else None,
                    partial="auto" if when == "never" else when,
                    proof=self._settings.partial_proof,
                )
            update = update.model_copy(update={"trust": result.verdict})
            done = _progress(counted, image)
            await self._bound.pull(result.commit, report)
            report(done.model_copy(update={"phase": Phase.STAGE, "cancellable": False}))
            await asyncio.to_thread(self._sysroot.stage, result.commit, tracked, locked=request.download_only)
            report(done.model_copy(update={"phase": Phase.CLEANUP, "cancellable": False}))
            if request.kind is JobKind.SWITCH and not request.retain:
                await asyncio.to_thread(self._sysroot.drop_followed_ref)
            await clean_up(self._sysroot, self._bound)
        after = done.model_copy(update={"phase": Phase.CLEANUP, "cancellable": False})
        return Outcome(
            state=JobState.DONE,
            changed=True,
            update=update,
            warnings=await self._hooks.tell(Point.POST_STAGE, subject, report, after),
            bytes_fetched=result.bytes_fetched,
            bytes_reused=done.bytes_cached,
        )

    def _require_unchanged(self, request: JobRequest, tracked: TrackedImage) -> None:
        """Refuse to replace what another program staged since the job looked."""
        self._sysroot.require_unmodified()
        if request.kind is JobKind.UPGRADE and self._upgrade_target(request) != tracked:
            raise Busy("another program has made this host track another image meanwhile", hint="try again")

    def _require_allowed_age(self, request: JobRequest, update: ImageUpdate) -> None:
        """Refuse to go back by an upgrade; who names an image or a rollback says where to go."""
        if request.kind is JobKind.UPGRADE and not request.allow_downgrade:
            require_no_downgrade(update, read_host(self._sysroot).status)

    # what the verbs share

    def _upgrade_target(self, request: JobRequest) -> TrackedImage:
        """Return the image an upgrade pulls: the tracked one, by another tag if one is asked for.

        For errors see `Sysroot.tracked_image`. Raises Unsupported if an image of this transport has no tags.
        """
        tracked = self._sysroot.tracked_image()
        if not request.tag:
            return tracked
        if tracked.transport != REGISTRY:
            raise Unsupported(
                f"an image of transport {tracked.transport} is not chosen by a tag",
                hint="name the image: bootcctl switch IMAGE",
            )
        reference = replace(parse_reference(tracked.name), tag=request.tag, digest=None)
        return replace(tracked, name=str(reference))

    def _switch_target(self, request: JobRequest) -> TrackedImage:
        registry = request.transport == REGISTRY
        name = str(parse_reference(request.image)) if registry else request.image
        target = TrackedImage.unverified(request.transport, name)
        if request.enforce_container_sigpolicy:
            return replace(target, signature=SignaturePolicy.CONTAINER_POLICY)
        return target

    def _require_allowed(self, tracked: TrackedImage, *, verified_only: bool = False) -> None:
        """Refuse an image this host may not run.

        Raises:
            Unsupported: it cannot be read, or this host needs what is not built yet.
            SignatureRejected: no signature could make the host's policy let it in.
            InvalidConfig: the policy is malformed or missing.
        """
        open_source(tracked, self._settings)
        self._trust.require_possible(tracked, verified_only=verified_only)

    def _require_labelling(self) -> None:
        """Refuse to begin where the files of another system could not be labelled in the end."""
        if self._root == Path("/") and selinux.is_on(self._root) and not selinux.may_write_unknown_labels():
            raise Unsupported(
                "SELinux of this host does not let this service write labels that its policy does not know",
                hint="label /usr/bin/bootcd-worker as /usr/bin/ostree is labelled, see bootcd(8)",
            )

    async def _resolve(self, source: ImageSource) -> ResolvedImage:
        architecture, variant = host_architecture(os.uname().machine)
        return await source.resolve(architecture=architecture, variant=variant)

    def _describe(self, tracked: TrackedImage, image: Image) -> ImageUpdate:
        missing = missing_layers(self._sysroot.repository, image)
        known = {"download_bytes": sum(layer.size for layer in missing), "trust": image.verdict}
        return describe(tracked, image.digest, image.manifest, image.config).model_copy(update=known)


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


def _require_expected(request: JobRequest, digests: set[str]) -> None:
    """Refuse an image of none of the digests but the one the caller decided on. Raises DigestMismatch."""
    if request.expect_digest and request.expect_digest not in digests:
        actual = min(digests, default="")
        raise DigestMismatch(
            f"the newest version is {actual or 'of no known digest'}, not {request.expect_digest}",
            hint="check for updates again, and decide anew",
            expected=request.expect_digest,
            actual=actual,
        )


def _image(tracked: TrackedImage, resolved: ResolvedImage, verdict: Verdict) -> Image:
    remote = tracked.signature.remote if isinstance(tracked.signature, RemoteSignature) else ""
    return Image(
        reference=tracked.image_ref_name,
        digest=resolved.digest,
        index_digest=resolved.index_digest or "",
        manifest=resolved.manifest,
        manifest_json=_text(resolved.manifest_bytes),
        config=resolved.config,
        config_json=_text(resolved.config_bytes),
        # That the policy asks for nothing is not why an image comes in which a remote has to sign.
        verdict=verdict if verdict.verified or not remote else None,
        remote=remote,
    )


def _text(document: bytes) -> str:
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        raise InvalidManifest("a manifest or config is not UTF-8") from error


def _progress(counted: ImportProgress, image: Image) -> Progress:
    fetching = counted.bytes_done < counted.bytes_total
    flying = [layer for layer in counted.layers if layer.bytes_done < layer.bytes_total]
    complete = [layer for layer in counted.layers if layer.bytes_done == layer.bytes_total]
    # Few, as they go out several times a second; the newest are what nobody was told of yet.
    shown = [*complete[len(complete) - max(0, LAYERS_SHOWN - len(flying)) :], *flying][-LAYERS_SHOWN:]
    return Progress(
        phase=Phase.FETCH if fetching and not counted.merging else Phase.IMPORT,
        bytes_done=max(0, counted.bytes_done),
        bytes_total=counted.bytes_total,
        bytes_cached=counted.bytes_cached,
        steps_done=counted.layers_done,
        steps_total=counted.layers_total,
        steps_cached=counted.layers_cached,
        digest=image.digest,
        layers=tuple(map(_layer_progress, shown)),
    )


def _layer_progress(layer: LayerCount) -> LayerProgress:
    return LayerProgress(
        id=layer.digest.partition(":")[2][:_ID_CHARACTERS],
        kind="chunk" if layer.is_chunk else "layer",
        bytes_done=layer.bytes_done,
        bytes_total=layer.bytes_total,
    )
