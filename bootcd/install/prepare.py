"""An image on its way to an installation: fetched, looked into, and found fit for this machine.

All of it comes before the first byte is written to the target.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bootcd.engine.source import open_source
from bootcd.engine.trust import Trust
from bootcd.host import process, selinux
from bootcd.host.clock import Clock
from bootcd.install.boundimages import require_bound_images
from bootcd.install.grub import Choice, Method, choose_bootloader
from bootcd.install.report import Reporter, Step
from bootcd.install.settings import Bootloader, BoundImages, InstallSettings, merge_files
from bootcd.install.spool import Spool
from bootcd.install.survey import BOUND_IMAGES, Survey, survey_image
from bootcd.install.tools import require_tools
from bootcd.model.errors import InvalidManifest, Unsupported
from bootcd.model.job import WorkerSettings
from bootcd.model.trust import Verdict
from bootcd.oci.manifest import host_architecture
from bootcd.oci.resolve import ResolvedImage
from bootcd.ostree.fetch import OpenBlob
from bootcd.ostree.image import Image, check_bootable
from bootcd.ostree.prepare_root import CONFIG_PATHS, Composefs, composefs_of, makes_composefs
from bootcd.ostreefmt.kargs import rust_architecture
from bootcd.ostreefmt.origin import REGISTRY, SignaturePolicy, TrackedImage

_MODPROBE_DEADLINE_SECS = 30
_MKIMAGE = ("usr/bin/grub-mkimage", "usr/bin/grub2-mkimage", "usr/sbin/grub2-mkimage")


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for every kind of installation."""

    source: TrackedImage
    target: TrackedImage
    settings: WorkerSettings
    clock: Clock
    host_files: tuple[tuple[str, bytes], ...] = ()
    "Drop-ins of the administrator, as `merge_files` takes them."
    kargs: tuple[str, ...] = ()
    karg_deletes: tuple[str, ...] = ()
    root_keys: bytes = b""
    generic: bool = False
    stateroot: str | None = None
    bootloader: Bootloader | None = None
    skip_boot_uuid: bool = False
    disable_selinux: bool = False
    run_fetch_check: bool = False
    spool: Path = Path("/var/tmp")  # noqa: S108  # for files without names
    bound_images: BoundImages = BoundImages.PULL
    machine: str = os.uname().machine


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image that is here and can be installed."""

    options: Options
    resolved: ResolvedImage
    open_blob: OpenBlob
    survey: Survey
    settings: InstallSettings
    choice: Choice
    target: TrackedImage
    "What the system is to follow."
    verdict: Verdict
    "Why the signature policy of this machine lets it in."
    fsverity: bool
    "Its files are sealed one by one."


@asynccontextmanager
async def prepared(options: Options, reporter: Reporter) -> AsyncGenerator[Prepared, None]:
    """Have an image at hand for the length of a block.

    Raises: what fetching and reading it raises.
        SignatureRejected: this machine's signature policy does not let it in.
        NotBootable: it is no host image, lacks a kernel or a boot loader, or its bound images are malformed.
        NoMatchingPlatform: it is for other machines.
        Unsupported: it needs what cannot be done here.
    """
    reference = options.source.image_ref_name
    architecture, variant = host_architecture(options.machine)
    Trust(options.settings, options.clock).require_possible(options.source)
    async with AsyncExitStack() as stack:
        reporter.step(Step.RESOLVE)
        source = await stack.enter_async_context(open_source(options.source, options.settings))
        resolved = await source.resolve(architecture=architecture, variant=variant)
        verdict = await Trust(options.settings, options.clock).judge(options.source, source, resolved)
        check_bootable(image_of(options.source, resolved, verdict))
        if options.run_fetch_check and options.target != options.source:
            followed = await stack.enter_async_context(open_source(options.target, options.settings))
            await followed.resolve(architecture=architecture, variant=variant)
        open_blob: OpenBlob = source.open_blob
        layers = resolved.manifest.layers
        if options.source.transport == REGISTRY:
            spool = Spool(options.spool)
            stack.callback(spool.close)
            counted = _Counter(reporter, Step.FETCH, resolved)
            await spool.fill(layers, open_blob, counted.add)
            open_blob = spool.open_blob
        counted = _Counter(reporter, Step.SURVEY, resolved)
        survey = await survey_image(resolved.manifest, resolved.config, open_blob, on_layer=counted.add)
        survey.require_kernel(reference)
        _require_labels(survey, options)
        fsverity = _wants_fsverity(survey, reference)
        if options.bound_images is BoundImages.PULL:
            if require_bound_images(survey):
                require_tools(["podman"])
        elif survey.below(BOUND_IMAGES):
            reporter.warning(f"{reference} has logically bound images, which are not installed")
        files = [*survey.settings_files(), *options.host_files]
        settings = merge_files(files, rust_architecture(options.machine))
        choice = choose_bootloader(
            frozenset(survey.files),
            options.machine,
            options.bootloader or settings.bootloader,
            bootupd_works=await _kernel_knows_fat(),
            reference=reference,
        )
        if choice.method is Method.MODULES and not survey.has(*_MKIMAGE):
            require_tools(["grub-mkimage"])
        target = options.target
        if settings.enforce_container_sigpolicy:
            target = TrackedImage(target.transport, target.name, SignaturePolicy.CONTAINER_POLICY)
        yield Prepared(options, resolved, open_blob, survey, settings, choice, target, verdict, fsverity)


async def image_settings(source: TrackedImage, worker: WorkerSettings) -> InstallSettings:
    """Return what an image says about its own installation; for errors see `prepared`."""
    machine = os.uname().machine
    architecture, variant = host_architecture(machine)
    async with open_source(source, worker) as opened:
        resolved = await opened.resolve(architecture=architecture, variant=variant)
        survey = await survey_image(resolved.manifest, resolved.config, opened.open_blob)
    return merge_files(survey.settings_files(), rust_architecture(machine))


def _require_labels(survey: Survey, options: Options) -> None:
    if not survey.enforces_selinux or options.disable_selinux or not selinux.is_on(Path("/")):
        return
    if not selinux.may_write_unknown_labels():
        raise Unsupported(
            f"SELinux of this machine does not let the labels of {options.source.image_ref_name} be written",
            hint="run it in the domain install_t, or with --disable-selinux and without its protection",
        )


def _wants_fsverity(survey: Survey, reference: str) -> bool:
    config = next((survey.files[path] for path in CONFIG_PATHS if path in survey.files), None)
    wanted = composefs_of(config or b"")
    if wanted in (Composefs.NEEDED, Composefs.SEALED) and not makes_composefs():
        raise Unsupported(
            f"{reference} boots from composefs, which libostree of this machine cannot make",
            hint="install it where libostree is 2024.7 or newer",
        )
    return wanted is Composefs.SEALED


async def _kernel_knows_fat() -> bool:
    """Whether bootupd can do its work: it mounts the EFI system partition, which we do not."""
    try:
        await process.run(["modprobe", "--quiet", "vfat"], deadline_secs=_MODPROBE_DEADLINE_SECS, limit=4096)
    except (OSError, TimeoutError):
        pass  # it may be built in
    return "\tvfat\n" in await asyncio.to_thread(Path("/proc/filesystems").read_text)


def image_of(tracked: TrackedImage, resolved: ResolvedImage, verdict: Verdict) -> Image:
    """Return what the importer takes; it names the image's ref after `tracked`."""
    try:
        manifest, config = resolved.manifest_bytes.decode(), resolved.config_bytes.decode()
    except UnicodeDecodeError as error:
        raise InvalidManifest("a manifest or config is not UTF-8") from error
    return Image(
        reference=tracked.image_ref_name,
        digest=resolved.digest,
        index_digest=resolved.index_digest or "",
        manifest=resolved.manifest,
        manifest_json=manifest,
        config=resolved.config,
        config_json=config,
        verdict=verdict,
    )


class _Counter:
    """Adds up the bytes of an image's layers for the reporter."""

    def __init__(self, reporter: Reporter, step: Step, resolved: ResolvedImage) -> None:
        self._reporter, self._step = reporter, step
        unique = {layer.digest: layer.size for layer in resolved.manifest.layers}
        self._done, self._total = 0, sum(unique.values())
        reporter.step(step, 0, self._total)

    def add(self, count: int) -> None:
        self._done += count
        self._reporter.step(self._step, min(self._done, self._total), self._total)
