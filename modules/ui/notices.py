"""Errors as sentences in the page: the one place where a handler's exception becomes a notice.

Knows the error classes of core and Gradio's notices. An unexpected exception is logged with its trace and shown as one plain sentence.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from modules.core.errors import (
    AppError,
    Busy,
    Conflict,
    InvalidRequest,
    JobConflict,
    NoModelLoaded,
    NotFound,
    QuotaExceeded,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

log = logging.getLogger(__name__)

# Classes that the person can answer at once are hints; everything else went wrong
HINTS: tuple[type[AppError], ...] = (Busy, Conflict, InvalidRequest, JobConflict, NoModelLoaded, NotFound, QuotaExceeded)
UNEXPECTED = "Something unexpected went wrong; the server's log has the details. Try again, or restart Paddock."


def sentence(error: BaseException) -> str:
    """What to tell the person about an error; unexpected ones are logged."""
    if isinstance(error, AppError):
        return error.message
    log.error("Unexpected error in the page", exc_info=error)
    return UNEXPECTED


def notify(error: BaseException) -> None:
    """Show an error as a notice of the running event."""
    import gradio as gr

    if isinstance(error, HINTS):
        gr.Info(sentence(error), title="Note", duration=8)
    else:
        gr.Warning(sentence(error), title="That did not work", duration=12)


async def attempt(work: Awaitable[object], *, notice: bool = True) -> str:
    """Await some work of a handler: empty when it went well, else the sentence, with `notice` also shown as one."""
    try:
        await work
    except Exception as error:
        if notice or not isinstance(error, AppError):
            notify(error)
        return sentence(error)
    return ""


def as_text(text: str) -> str:
    """Words of a file inside Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|~&-])", r"\\\1", text)
