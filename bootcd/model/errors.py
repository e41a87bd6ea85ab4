"""The exception tree: one class per thing a caller does differently.

An error crosses three borders: from the worker process to the daemon (as `ErrorInfo`), from the
daemon to a D-Bus client (as the error name `org.bootcd1.Error.<name>` and one sentence) and from
the client to a person (sentence and hint). What crosses is only what is in here: a name, a
sentence, a hint and plain fields. Never a traceback, a source path or the name of a Python type.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

BUS_ERROR_PREFIX = "org.bootcd1.Error."


class ErrorInfo(BaseModel):
    """An error as it is written to disk and sent between processes."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    name: str
    message: str
    hint: str = ""
    fields: dict[str, str | int | bool] = {}


class BootcdError(Exception):
    """Root of all errors this product raises on purpose.

    `name` is stable: it is the last part of the bus error name and the key of an exit code.
    `message` is one sentence without a full stop that names what and where; `hint` says what to do.
    `fields` carry the same facts for programs.
    """

    name: ClassVar[str] = "Failed"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **fields: str | int | bool) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    @property
    def bus_name(self) -> str:
        return BUS_ERROR_PREFIX + self.name

    def info(self) -> ErrorInfo:
        return ErrorInfo(name=self.name, message=self.message, hint=self.hint, fields=self.fields)


class InternalError(BootcdError):
    """A defect of ours; the journal has the details under the given reference."""

    name = "Failed"


# The request itself


class InvalidArguments(BootcdError):
    """An option that is unknown, of the wrong type or out of range."""

    name = "InvalidArguments"


class InvalidImage(BootcdError):
    """A text that is no image reference."""

    name = "InvalidImage"


class InvalidConfig(BootcdError):
    """A configuration file that cannot be read; fields: `path`, `line` where known."""

    name = "InvalidConfig"


class AccessDenied(BootcdError):
    """The caller may not do this."""

    name = "AccessDenied"


# The moment


class Busy(BootcdError):
    """Another job is at work; fields: `job` (object path), `uuid`."""

    name = "Busy"
    retryable = True


class Inhibited(BootcdError):
    """Somebody asked that it is not done for now; fields: `what`, `who`, `why`, `uid`."""

    name = "Inhibited"
    retryable = True


class LimitsExceeded(BootcdError):
    """The caller has, or all together have, as much as there may be."""

    name = "LimitsExceeded"
    retryable = True


class WrongState(BootcdError):
    """The verb makes no sense now, such as apply with nothing staged."""

    name = "WrongState"


class StaleGeneration(BootcdError):
    """What is deployed has changed since the caller looked; fields: `expected`, `actual`."""

    name = "StaleGeneration"


class NoSuchJob(BootcdError):
    """No job goes by the uuid given, or it has been forgotten."""

    name = "NoSuchJob"


class NoSuchDeployment(BootcdError):
    """No deployment goes by the name given; field: `deployment`."""

    name = "NoSuchDeployment"


class NotCancellable(BootcdError):
    """The job has ended, or is at a step that must run to its end."""

    name = "NotCancellable"


class Cancelled(BootcdError):
    """Somebody asked the job to stop."""

    name = "Cancelled"


class Interrupted(BootcdError):
    """The worker ended without a word: killed, crashed, or the power went."""

    name = "Interrupted"
    retryable = True


class Stalled(BootcdError):
    """No byte and no step for longer than allowed."""

    name = "Stalled"
    retryable = True


# The host


class NotBootcSystem(BootcdError):
    """The host was not booted from an ostree deployment."""

    name = "NotBootcSystem"


class LocalModifications(BootcdError):
    """Layered packages or overrides, which an image update would lose."""

    name = "LocalModifications"


class ReadOnlyHost(BootcdError):
    """The host's storage cannot be written."""

    name = "ReadOnlyHost"


class OutOfSpace(BootcdError):
    """The disk has no room for it; fields: `needed_bytes`, `available_bytes`, `path`."""

    name = "OutOfSpace"
    retryable = True


class BackendFailed(BootcdError):
    """libostree or a host tool refused; the message carries its words."""

    name = "BackendFailed"


class HookFailed(BootcdError):
    """A hook of the host refused, or could not be asked; field: `hook`, its path."""

    name = "HookFailed"
    retryable = True


class FleetLockRefused(BootcdError):
    """The fleet does not let this host reboot now; fields: `url`, `kind` of the refusal."""

    name = "FleetLockRefused"
    retryable = True


class FleetLockUnavailable(BootcdError):
    """Nobody says whether this host may reboot now; field: `url`."""

    name = "FleetLockUnavailable"
    retryable = True


class Unsupported(BootcdError):
    """Something this version, or what drives this host, cannot do."""

    name = "Unsupported"


# The image


class InvalidManifest(BootcdError):
    """A manifest, index or config that breaks the specification or a limit."""

    name = "InvalidManifest"


class InvalidLayer(BootcdError):
    """A layer that is no archive this product accepts; fields: `layer`, `entry` where known."""

    name = "InvalidLayer"


class NoMatchingPlatform(BootcdError):
    """The image has no variant for this host's architecture."""

    name = "NoMatchingPlatform"


class NotBootable(BootcdError):
    """An image that is no bootable host image."""

    name = "NotBootable"


class SignatureRejected(BootcdError):
    """The host's signature policy does not let this image in."""

    name = "SignatureRejected"


class DowngradeRefused(BootcdError):
    """An older version of what is here, without leave; fields: `digest`, and `newer` of what is here."""

    name = "DowngradeRefused"


class DigestMismatch(BootcdError):
    """Content whose digest is not the one asked for; fields: `expected`, `actual`."""

    name = "DigestMismatch"


# Local media. Field of both: `image`.


class MediumUnavailable(BootcdError):
    """A place in the file system that is not there or cannot be read, such as a stick taken away."""

    name = "MediumUnavailable"
    retryable = True


class InvalidLayout(BootcdError):
    """A directory or archive that does not hold an image the way its transport says."""

    name = "InvalidLayout"


# The registry. Fields of all: `registry`, `repository`, `reference`.


class RegistryError(BootcdError):
    """Root of what a registry or the way to it does wrong; never raised itself."""

    name = "RegistryFailed"


class RegistryUnavailable(RegistryError):
    """No connection, no answer in time, or a 5xx answer."""

    name = "RegistryUnavailable"
    retryable = True


class RegistryTlsFailed(RegistryError):
    """The server's certificate was not accepted."""

    name = "RegistryTlsFailed"


class RegistryAuthRequired(RegistryError):
    """401: no credential, or one the registry does not accept."""

    name = "RegistryAuth"


class RegistryDenied(RegistryError):
    """403: the credential is known and may not read this."""

    name = "RegistryDenied"


class RegistryBlocked(RegistryError):
    """The host's own files forbid to ask this registry."""

    name = "RegistryBlocked"


class RegistryRateLimited(RegistryError):
    """429 until the retries were used up; field: `retry_after_secs` where given."""

    name = "RegistryRateLimited"
    retryable = True


class NotFound(RegistryError):
    """404: no such repository, tag, digest or blob. Of local media likewise, with the field `image`."""

    name = "NotFound"


class RegistryProtocolError(RegistryError):
    """An answer that is not of the distribution protocol, such as a captive portal's page."""

    name = "RegistryProtocol"


class Truncated(RegistryError):
    """The connection was cut, and resuming it was tried as often as allowed."""

    name = "Truncated"
    retryable = True


def all_errors() -> dict[str, type[BootcdError]]:
    """Return every concrete error class by its stable name."""
    found: dict[str, type[BootcdError]] = {}
    pending: list[type[BootcdError]] = [BootcdError]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls not in (BootcdError, RegistryError):
            found[cls.name] = cls
    return found


def error_from_info(info: ErrorInfo) -> BootcdError:
    """Rebuild the error another process reported; an unknown name becomes `InternalError`."""
    cls = all_errors().get(info.name, InternalError)
    return cls(info.message, hint=info.hint, **info.fields)
