"""A reboot of the host, asked of its system manager."""

from __future__ import annotations

from bootcd.host import process
from bootcd.model.errors import BackendFailed

_DEADLINE_SECS = 30


async def reboot(*, soft: bool = False) -> None:
    """Ask for a reboot, or for one of user space alone. Raises BackendFailed."""
    command = ["systemctl", "soft-reboot" if soft else "reboot", "--message=Initiated by bootcd"]
    try:
        done = await process.run(command, deadline_secs=_DEADLINE_SECS, limit=4096)
    except (OSError, TimeoutError) as error:
        raise BackendFailed("the system manager could not be asked to reboot") from error
    if done.status != 0:
        raise BackendFailed(
            "the system manager refused to reboot", hint="what is staged stays so; reboot by hand"
        )
