"""The errors Paddock raises on purpose.

    AppError
    ├── NotFound               a name or id that does not exist (or is not yours)
    ├── InvalidRequest         a value outside its limits
    │   ├── ContextOverflow    prompt longer than the context
    │   └── NotOffered         the model's engine or server has no such thing
    ├── Busy                   queue full; carries the place asked for
    ├── QuotaExceeded          as many tokens as one person may have in a day
    ├── NoModelLoaded          nothing to answer with
    ├── LoadFailed             a model could not be loaded
    │   ├── MissingRequirement a package or device is absent
    │   ├── UnsupportedFormat  the files are not what a loader reads
    │   └── OutOfMemory        needs more memory than there is
    ├── EngineCrashed          the child process of a model ended
    ├── RemoteError            another server that holds a model refused or failed
    ├── HubError               the model hub refused or failed
    ├── JobConflict            two jobs want the same thing
    ├── Conflict               somebody else changed it meanwhile
    └── Forbidden              not allowed for this user

A message says what happened, the limit and the value, and the cure. This module knows nothing of HTTP or of the page:
`api/errors.py` and `ui/notices.py` map these classes to status codes and notices.
"""

from __future__ import annotations

from typing import Any


class AppError(Exception):
    """Base of every error shown to a person: `message` is a whole sentence."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def kind(self) -> str:
        """Class name, the stable word that crosses process borders."""
        return type(self).__name__


class NotFound(AppError):
    """A name or id that does not exist."""


class InvalidRequest(AppError):
    """A value outside its limits; `details["field"]` names it where known."""


class ContextOverflow(InvalidRequest):
    """A prompt longer than the context of the model."""


class NotOffered(InvalidRequest):
    """The engine or server of a model has no such thing."""


class Busy(AppError):
    """The queue is full."""


class QuotaExceeded(AppError):
    """A person has had computed what they may in a day; `details["retry_after_s"]` says when that begins anew."""


class NoModelLoaded(AppError):
    """No model is there to answer."""


class LoadFailed(AppError):
    """A model could not be loaded."""


class MissingRequirement(LoadFailed):
    """A package or a device that the load needs is absent."""


class UnsupportedFormat(LoadFailed):
    """The files are broken or of a kind that no loader reads."""


class OutOfMemory(LoadFailed):
    """The model needs more memory than this machine has free."""


class EngineCrashed(AppError):
    """The child process that held the model ended."""


class RemoteError(AppError):
    """Another server, which holds the model, refused or failed."""


class HubError(AppError):
    """The model hub refused or failed."""


class JobConflict(AppError):
    """Two jobs want the same thing."""


class Conflict(AppError):
    """The thing was changed by somebody else since it was read."""


class Forbidden(AppError):
    """Not allowed for this user."""


ERROR_CLASSES: tuple[type[AppError], ...] = (
    AppError, NotFound, InvalidRequest, ContextOverflow, NotOffered, Busy, QuotaExceeded, NoModelLoaded, LoadFailed, MissingRequirement,
    UnsupportedFormat, OutOfMemory, EngineCrashed, RemoteError, HubError, JobConflict, Conflict, Forbidden,
)  # fmt: skip


def error_from(kind: str, message: str, details: dict[str, Any] | None = None) -> AppError:
    """Rebuild an error that crossed a process border; an unknown kind becomes `AppError`."""
    for cls in ERROR_CLASSES:
        if cls.__name__ == kind:
            return cls(message, **(details or {}))
    return AppError(message, **(details or {}))


def first_line(error: BaseException) -> str:
    """What a library said, cut to a length that fits into a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:250]


def in_short(error: BaseException) -> str:
    """Kind and first line of an error, to stand in a sentence."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
