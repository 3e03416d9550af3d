"""The process of one job, put together: the kinds of work and the worker. Started as `python -m modules.services.job_worker DIRECTORY`.

What it does with them is in `modules/jobs/worker.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.core.job import JobKind
from modules.jobs.worker import run_worker
from modules.services.jobs import JOB_KINDS


def main(kinds: Sequence[JobKind] = JOB_KINDS) -> None:
    """Run one job; threads that a library left behind must not delay the end."""
    status = run_worker(Path(sys.argv[1]).resolve(), kinds)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
