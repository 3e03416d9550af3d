"""A child process that reads what may bring native code down, so that its end is no end of the server. Asked with JSON, answers with JSON.

Knows nothing of what is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.process import child_environment, how_it_ended
from modules.core.settings import PROJECT_ROOT


def answer_of(command: Sequence[str], request: str, *, name: str, limit_s: float, too_long: str) -> dict[str, Any]:
    """What the child says.

    Raises:
        InvalidRequest: `too_long` when it took longer than the limit; that `name` could not be read when it fell.
    """
    try:
        done = subprocess.run(
            command, input=request.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=PROJECT_ROOT, env=child_environment(os.environ), start_new_session=True, timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InvalidRequest(too_long) from error
    if done.returncode:
        raise InvalidRequest(f"{name} could not be read: {how_it_ended(done.returncode)}. Fetch or write the file again.")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
