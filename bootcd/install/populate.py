"""What every kind of installation does with a mounted root: import, deploy, add, make bootable, flush."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bootcd.host import selinux
from bootcd.install import system
from bootcd.install.bootloader import BootPlace, install_bootloader
from bootcd.install.esp import Esp
from bootcd.install.grub import Method
from bootcd.install.prepare import Prepared, image_of
from bootcd.install.report import Reporter, Step
from bootcd.install.settings import BoundImages, InstallSettings
from bootcd.install.tools import run_tool
from bootcd.model.errors import BackendFailed
from bootcd.ostree.boundimages import read_bound_images
from bootcd.ostree.fetch import ImportProgress, to_its_end
from bootcd.ostree.fresh import deploy_first, image_arguments, initialise
from bootcd.ostree.importer import Importer
from bootcd.ostree.physical import label_physical_root
from bootcd.ostree.sysroot import Sysroot
from bootcd.podman import BoundImageStore

_TICK_SECS = 0.2
_FLUSH = 'fsfreeze --freeze "$1" && fsfreeze --unfreeze "$1"'
_DEFAULT_STATEROOT = "default"


@dataclass(frozen=True, slots=True)
class Deployed:
    path: Path
    commit: str


def root_kargs(spec: str, settings: InstallSettings) -> list[str]:
    """Return the kernel arguments that find a root file system; none where the firmware's table does."""
    return ["rw"] if settings.discoverable_partitions or not spec else [f"root={spec}", "rw"]


async def populate(
    prepared: Prepared, root: Path, kargs: Sequence[str], reporter: Reporter, *, boot_spec: str = ""
) -> Deployed:
    """Import and deploy the image into a root file system.

    Args:
        kargs: those that find the root file system.
        boot_spec: source of the separate file system at /boot, as in fstab(5); empty for none.
    """
    options, settings = prepared.options, prepared.settings
    stateroot = options.stateroot or settings.stateroot or _DEFAULT_STATEROOT
    append = settings.ostree.bls_append_except_default if settings.ostree else None
    sysroot = await asyncio.to_thread(
        initialise, root, stateroot, append_except_default=append, fsverity=prepared.fsverity
    )
    commit = await _import(prepared, sysroot, reporter)
    if options.bound_images is BoundImages.PULL:
        await _pull_bound(prepared, root, sysroot, commit, reporter)
    reporter.step(Step.DEPLOY)
    arguments = system.first_kargs(
        [*kargs, *([f"boot={boot_spec}"] if boot_spec else [])],
        settings.kargs or (),
        await asyncio.to_thread(image_arguments, sysroot, commit),
        [*(settings.karg_deletes or ()), *options.karg_deletes],
        [*options.kargs, *(["selinux=0"] if options.disable_selinux else [])],
    )
    deployment = await to_its_end(deploy_first, sysroot, stateroot, commit, prepared.target, arguments)
    if boot_spec:
        system.add_fstab_line(deployment, system.boot_fstab_line(boot_spec))
    if options.root_keys:
        system.add_root_keys(deployment, options.root_keys)
    document = system.aleph(
        source=options.source,
        target=prepared.target,
        digest=prepared.resolved.digest,
        config=prepared.resolved.config,
        selinux=_selinux_state(prepared),
    )
    system.write_aleph(root, document)
    return Deployed(deployment, commit)


def _selinux_state(prepared: Prepared) -> str:
    """Return the word bootc has for SELinux of the image and of this machine."""
    if prepared.options.disable_selinux:
        return "force-target-disabled"
    if not prepared.survey.enforces_selinux:
        return "disabled"
    return "enabled" if selinux.is_on(Path("/")) else "host-disabled"


async def label(prepared: Prepared, root: Path, deployed: Deployed) -> None:
    """Give what an installation made itself the labels of the image's SELinux policy, as the last thing."""
    if prepared.survey.enforces_selinux:
        added = [system.FSTAB, system.ROOT_KEYS, str(Path(system.ROOT_KEYS).parent)]
        await to_its_end(label_physical_root, deployed.commit, root, deployed.path, added)


async def _import(prepared: Prepared, sysroot: Sysroot, reporter: Reporter) -> str:
    settings = prepared.options.settings
    importer = Importer(
        sysroot.repository,
        parallel=settings.parallel_downloads,
        memory_bytes=settings.memory_bytes,
        now=prepared.options.clock.now(),
    )
    progress = ImportProgress()

    async def tell() -> None:
        while True:
            reporter.step(Step.IMPORT, progress.bytes_done, progress.bytes_total)
            await asyncio.sleep(_TICK_SECS)

    ticker = asyncio.create_task(tell())
    try:
        image = image_of(prepared.target, prepared.resolved, prepared.verdict)
        result = await importer.run(image, prepared.open_blob, progress)
    finally:
        ticker.cancel()
    return result.commit


async def _pull_bound(
    prepared: Prepared, root: Path, sysroot: Sysroot, commit: str, reporter: Reporter
) -> None:
    images = await asyncio.to_thread(read_bound_images, sysroot.repository, commit)
    if not images:
        return
    reporter.step(Step.BOUND_IMAGES)
    settings = prepared.options.settings
    store = BoundImageStore(
        root / "ostree/bootc/storage",
        auth_files=settings.auth_files,
        insecure_registries=settings.insecure_registries,
    )
    await store.create()
    for image in images:
        await store.pull(image)


async def make_bootable(
    prepared: Prepared,
    place: BootPlace,
    esp: Esp | None,
    reporter: Reporter,
    *,
    bootupd_works: bool = True,
) -> None:
    """Install the boot loader that was chosen; where bootupd turned out not to work, what it would copy."""
    reporter.step(Step.BOOTLOADER)
    choice = prepared.choice
    if choice.method is Method.BOOTUPD and not bootupd_works:
        if not choice.efi_files:
            raise BackendFailed("bootupd cannot be run, because this kernel shows no partitions of the disk")
        choice = replace(choice, method=Method.READY)
    bootupd = prepared.settings.bootupd
    await install_bootloader(
        choice,
        place,
        esp,
        machine=prepared.options.machine,
        generic=prepared.options.generic,
        static_only=prepared.options.skip_boot_uuid or bool(bootupd and bootupd.skip_boot_uuid),
    )


async def finalize(*filesystems: Path) -> None:
    """Have file systems trimmed, read-only and flushed, their journals included."""
    for root in filesystems:
        await run_tool(["fstrim", "--quiet-unsupported", str(root)], "trim the file system")
        await run_tool(["mount", "-o", "remount,ro", str(root)], "make the file system read-only")
        # One program, which ends whatever becomes of this one: nobody could use a file system left frozen.
        command = ["sh", "-c", _FLUSH, "sh", str(root)]
        flushing = asyncio.ensure_future(run_tool(command, "flush the file system"))
        try:
            await asyncio.shield(flushing)
        except asyncio.CancelledError:
            await asyncio.wait([flushing])
            raise
