"""The process of a run and of nothing else, where a machine has not what other jobs want: `python -m tests.training.train_worker DIRECTORY`."""

import os
import sys
from pathlib import Path

from modules.core.job import JobKind
from modules.jobs.worker import run_worker
from modules.training.spec import TrainArgs
from modules.training.train import run

if __name__ == "__main__":
    status = run_worker(Path(sys.argv[1]).resolve(), (JobKind("train", "Train", TrainArgs, run, "compute", subject="name"),))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
