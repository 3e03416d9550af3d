"""One process of a run that has several: started by torchrun as `-m modules.training.rank`, on the job's machine with `--job DIRECTORY`.

The leader, on the job's machine, knows the run and its files; it tells the others what the run is and where it stands. Knows no command (`distributed.py`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.core.errors import AppError
from modules.core.job import Cancelled
from modules.jobs.record import stop_reason
from modules.loaders.machine import size_text
from modules.training import adapter, sharding
from modules.training.checkpoints import Checkpoints, Snapshot
from modules.training.distributed import FAILURE, HALT, NEWS, SAVED
from modules.training.material import gather
from modules.training.ranks import Ranks
from modules.training.spec import CHECKPOINTS, TrainArgs
from modules.training.train import make_model, note_learned, put_best, say_beginning, use_threads
from modules.training.trainer import learn

NEWS_S = 0.25
PARENT_S = 0.5
SPEC = "job.json"


class RankContext:
    """The `JobContext` of a rank: the leader writes news for the job's process, the others are silent."""

    def __init__(self, directory: Path, *, leads: bool) -> None:
        self.directory = directory
        self.secrets: Mapping[str, str] = {}
        self._leads = leads
        self._written_s = 0.0
        self._lock = threading.Lock()

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        """See `JobContext`."""
        if not self._leads:
            return
        with self._lock:
            now = time.monotonic()
            if now - self._written_s >= NEWS_S:
                self._written_s = now
                self._put(NEWS, {"done": done, "total": total, "unit": unit, "metrics": metrics})
        if stop_reason(self.directory) is not None or (self.directory / HALT).exists():
            raise Cancelled("The run was asked to stop.")

    def log(self, line: str) -> None:
        """See `JobContext`."""
        if self._leads:
            os.write(2, f"{time.strftime('%H:%M:%S')} {line}\n".encode("utf-8", "replace"))

    def failed(self, error: BaseException) -> None:
        """What the job's process must know: the person's wish was followed, or an error that has a sentence."""
        if self._leads:
            kind = type(error).__name__
            self._put(FAILURE, {"kind": kind, "message": error.message if isinstance(error, AppError) else str(error)})

    def _put(self, name: str, values: dict[str, Any]) -> None:
        path = self.directory / name
        part = path.with_name(f"{name}.part")
        try:
            part.write_text(json.dumps(values, default=float), encoding="utf-8")
            part.replace(path)
        except OSError:  # a full disk: news are the first thing to do without
            part.unlink(missing_ok=True)


def main() -> int:
    """Make the steps of one rank; the exit status."""
    job = Path(sys.argv[sys.argv.index("--job") + 1]) if "--job" in sys.argv else None
    leads = job is not None and os.environ.get("LOCAL_RANK") == "0"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_over(int(os.environ.get("PADDOCK_JOB_PROCESS", "0")))
    directory = job or Path(tempfile.mkdtemp(prefix="paddock-rank-"))
    context = RankContext(directory, leads=leads)
    try:
        _learn(context, leads=leads)
    except (AppError, Cancelled) as error:
        context.failed(error)
        os.write(2, f"{error}\n".encode("utf-8", "replace"))
        return 1
    except BaseException:  # noqa: BLE001 - the top of a process: what happened belongs into the log of the job
        traceback.print_exc()
        return 1
    return 0


def _learn(context: RankContext, *, leads: bool) -> None:
    ranks = join(leads=leads)
    args = TrainArgs.model_validate_json(ranks.shared(_args_of(context.directory) if leads else b""))
    ranks = replace(ranks, divided=args.options.sharding == "fsdp2")
    use_threads(args.options, args.options.processes)
    material = gather(args, context.directory, context)
    _same_everywhere(material.data.digest, ranks)
    checkpoints = Checkpoints(context.directory / CHECKPOINTS, args.options.keep_checkpoints)
    checkpoint = checkpoints.newest() if leads else None
    packed = ranks.shared(checkpoint.read().to_bytes() if checkpoint else b"")
    model = make_model(material)
    if ranks.divided:
        sharding.divide(model)
        here, whole = sharding.held_bytes(model)
        context.log(f"The base model is divided: each of {ranks.count} ranks holds about {size_text(here)} of {size_text(whole)}.")
    if leads:
        say_beginning(material, model, checkpoint, context)
    learner = learn(material, model, context, Snapshot.from_bytes(packed) if packed else None, ranks)
    if leads:
        put_best(material, model, learner.standing, context)
        adapter.save(model, args.options, context.directory / SAVED, initial=material.initial, base_name=args.base)
        note_learned(context.directory, learner.ended)
    ranks.agreed([1.0])  # nobody goes before the leader has written


def join(*, leads: bool) -> Ranks:
    """Find the other ranks; who leads.

    Raises:
        RuntimeError: there are not as many as were started.
    """
    import torch
    import torch.distributed as dist

    on_graphics = torch.cuda.is_available()
    if on_graphics:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_graphics else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if ranks.count != int(os.environ["WORLD_SIZE"]):
        raise RuntimeError(f"{os.environ['WORLD_SIZE']} ranks were started and {ranks.count} are there")
    leader, leaders = ranks.total([ranks.rank if leads else 0, float(leads)])
    if leaders != 1:
        raise RuntimeError(f"{leaders:.0f} ranks want to lead; start the run on one machine as a job, on the others with the commands that it shows")
    return Ranks(ranks.rank, ranks.count, int(leader))


def _args_of(directory: Path) -> bytes:
    return json.dumps(json.loads((directory / SPEC).read_text(encoding="utf-8"))["args"]).encode()


def _same_everywhere(digest: str, ranks: Ranks) -> None:
    """Every machine must have the same data.

    Raises:
        AppError: this one has other data than the leader.
    """
    mine = int(digest[:12], 16)
    if ranks.agreed([float(mine)])[0] != mine:
        raise AppError("The data set on this machine is not the one of the first machine; copy it here.")


def _watch_over(job: int) -> None:
    """End when the job's process, or on another machine whatever started this, is gone: torchrun puts its children where a kill does not reach them."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and (not job or _lives(job)):
            time.sleep(PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of the libraries must not delay the end
