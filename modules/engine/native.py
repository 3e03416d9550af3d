"""Calls into llguidance, whose panics are no exceptions in Python's sense, and which follows names in names by calling itself. Knows no shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modules.core.errors import AppError

STACK_BYTES = 256 << 20  # of addresses; memory is taken as it is used. What is allowed took up to 29 MB


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


class DeepCalls:
    """Makes calls with so much stack that nothing of an allowed size exhausts it, which would end the process. Several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def make(self, call: Callable[..., Any], *values: Any) -> Any:
        """What the call returns or raises, on a thread of its own.

        Raises:
            AppError: the system gives no such thread.
        """
        with ThreadPoolExecutor(1, "shapes") as thread:
            with self._lock:  # the size holds for whatever thread is started next
                threading.stack_size(STACK_BYTES)
                try:
                    made = thread.submit(call, *values)
                except RuntimeError as error:
                    raise AppError(f"There is no memory to read what the text should look like ({error}). Close programs or unload a model, then send again.") from error
                finally:
                    threading.stack_size(0)
            return made.result()
