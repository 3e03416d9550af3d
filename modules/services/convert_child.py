"""The process that reads pickled weights and writes safetensors: `python -m modules.services.convert_child`.

One JSON request on standard input; lines of JSON on standard output: how far it is, then the result or an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

from modules.core.errors import AppError
from modules.core.process import be_expendable
from modules.weights.convert import ConvertRequest, convert, limit_memory

OOM_SCORE = 900
TOLD_S = 0.2


def main() -> int:
    """Convert what the request names."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    told_s = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TOLD_S or done == total:
            told_s = time.monotonic()
            say(done=done, total=total)

    warnings.simplefilter("ignore")
    be_expendable(OOM_SCORE)
    request = ConvertRequest.model_validate_json(sys.stdin.buffer.read())
    try:
        limit_memory(request)
        say(tensors=convert(request, tell))
    except AppError as error:
        say(error=error.message)
    except OSError as error:
        say(error=f"The disk refused: {error.strerror or error}. Free some space or check its permissions, then try again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
