"""What is known of good and bad boots, as the bus carries it. The journal of a bad one is for root alone."""

from __future__ import annotations

from dbus_fast import Variant

from bootcd.bus.entries import microseconds
from bootcd.bus.errors import clean_text
from bootcd.bus.schema import variant
from bootcd.model.health import BootHealth, FailedBoot


def boot_health_entries(health: BootHealth | None) -> dict[str, Variant]:
    """Return Manager.BootHealth: empty while this boot is not judged."""
    if health is None:
        return {}
    return {
        "good": variant("b", health.good),
        "digest": variant("s", health.digest),
        "version": variant("s", health.version),
        "time": variant("t", microseconds(health.time)),
        "problems": variant("as", [clean_text(line) for line in health.problems]),
        "warnings": variant("as", [clean_text(line) for line in health.warnings]),
        "action": variant("s", health.action),
        "reason": variant("s", clean_text(health.reason)),
    }


def failed_version_entries(failure: FailedBoot) -> dict[str, Variant]:
    """Return one of Manager.FailedVersions."""
    return {
        "digest": variant("s", failure.digest),
        "image": variant("s", failure.image),
        "version": variant("s", failure.version),
        "time": variant("t", microseconds(failure.time)),
        "reasons": variant("as", [clean_text(line) for line in failure.reasons]),
        "state": variant("s", failure.state.value),
    }
