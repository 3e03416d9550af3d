"""Calls into llguidance, whose panics are no exceptions in Python's sense. Knows no shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules.core.errors import AppError


def ask(call: Callable[..., Any], *values: Any) -> Any:
    """What the library answers.

    Raises:
        AppError: it panicked, which is no Exception.
    """
    try:
        return call(*values)
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise AppError(f"What the text should look like could not be followed ({str(error)[:100]}). Ask for another shape.") from error
