"""Runs in processes of their own that can be paused, cancelled, and killed at a step. They are forked from one that has the libraries already."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from modules.core.job import JobContext, JobKind, JobSnapshot
from modules.core.model import TemplateSource
from modules.jobs.record import JobRecord, JobSpec
from modules.jobs.worker import Header, run_worker
from modules.training.checkpoints import Checkpoints
from modules.training.options import TrainingOptions
from modules.training.samples import DatasetSpec
from modules.training.spec import CHECKPOINTS, CURVE, SAMPLES, TrainArgs
from modules.training.train import run
from tests.tiny_models import SPECIAL, TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.training.warm"])
LIMIT_S = 60
CHAT = TemplateSource(text=TEMPLATE, origin="test", bos_token=SPECIAL[0], eos_token=SPECIAL[2])
SMALL: dict[str, Any] = {
    "rank": 4, "alpha": 8, "batch_size": 4, "micro_batch_size": 2, "epochs": 3, "learning_rate": 0.01, "warmup_steps": 2, "threads": 1,
    "held_out_percent": 0, "save_every_minutes": 0, "sample_tokens": 4, "drop_duplicates": False, "sample_every_steps": 1000,
}  # fmt: skip


def write_chats(path: Path, count: int = 16) -> Path:
    """Short chats of uneven length, with one manner of answering."""
    draw = random.Random(0)
    words = ["fox", "ball", "tree", "bird", "rain", "bread", "hat", "coat", "market", "salt"]
    rows = []
    for number in range(count):
        said = " ".join(draw.choices(words, k=draw.randint(1, 6)))
        answer = f"Arr, {' '.join(draw.choices(words, k=draw.randint(1, 5)))}!"
        rows.append({"messages": [{"role": "user", "content": f"{number} {said}"}, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Doomed:
    """A context whose process is killed a moment after it has told of a step."""

    def __init__(self, inner: JobContext, kill_at: int, delay_s: float) -> None:
        self.directory, self.secrets, self.log = inner.directory, inner.secrets, inner.log
        self._inner = inner
        self._kill_at = kill_at
        self._delay_s = delay_s

    def progress(self, done: float, total: float | None, unit: str, **metrics: Any) -> None:
        """Tell, and be killed."""
        if unit == "steps" and metrics.get("loss") is not None and 0 < self._kill_at <= done:
            self._kill_at = 0
            threading.Timer(self._delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        self._inner.progress(done, total, unit, **metrics)


def work(directory: str, kill_at: int, delay_s: float) -> None:
    """The process of a job."""
    path = Path(directory)
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    record = JobRecord.open(path)
    sys.stdin = io.TextIOWrapper(io.BytesIO(Header(record.story.attempts + 1, {}).to_line()))
    kind = JobKind("train", "Train", TrainArgs, lambda args, context: run(args, Doomed(context, kill_at, delay_s)), "compute", subject="name")
    os._exit(run_worker(path, (kind,)))


class Run:
    """One run and its directory."""

    def __init__(self, root: Path, base: Path, data: Path, name: str = "learned", **changes: Any) -> None:
        self.loras = root / "loras"
        self.loras.mkdir(parents=True, exist_ok=True)
        jobs = root / "jobs"
        jobs.mkdir(exist_ok=True)
        top = {key: changes.pop(key) for key in tuple(changes) if key in TrainArgs.model_fields}
        dataset = DatasetSpec(path=data, name=data.name, format="messages", columns={"messages": "messages"})
        values: dict[str, Any] = {"dataset": dataset, "template": CHAT, **top}
        self.args = TrainArgs(name=name, base=base.name, base_path=base, loras_dir=self.loras, options=TrainingOptions(**{**SMALL, **changes}), **values)
        spec = JobSpec(kind="train", args=self.args.model_dump(mode="json"), owner="ann", title="Train", created_s=time.time())
        self.record = JobRecord.create(jobs, spec)
        self.directory = self.record.directory
        self.process: Any = None

    def start(self, kill_at: int = 0, delay_s: float = 0.0) -> Run:
        """Begin, or go on; killed so many seconds after a step was told of."""
        if self.record.story.ending or self.record.story.started:
            self.record.withdraw_stop()
            self.record.append("queued")
        self.process = FORKING.Process(target=work, args=(str(self.directory), kill_at, delay_s))
        self.process.start()
        return self

    def end(self, limit_s: float = LIMIT_S) -> JobSnapshot:
        """Wait for the process; how the job stands then."""
        self.process.join(limit_s)
        assert self.process.exitcode is not None, f"still runs: {self.log()}"
        self.record.refresh()
        return self.record.snapshot()

    def whole(self, **options: Any) -> JobSnapshot:
        """Begin or go on, to the end."""
        snapshot = self.start(**options).end()
        assert snapshot.status == "done", f"{snapshot.error}\n{self.log()}"
        return snapshot

    def killed(self, at: int, delay_s: float = 0.0) -> None:
        """Begin or go on, and be killed at a step."""
        self.start(at, delay_s).process.join(LIMIT_S)
        assert self.process.exitcode == -signal.SIGKILL, self.log()
        self.record.refresh()

    def stop(self, reason: Any) -> JobSnapshot:
        """What a person's button does."""
        self.record.ask_to_stop(reason)
        os.kill(self.process.pid, signal.SIGTERM)
        return self.end()

    def wait_for_step(self, step: int) -> None:
        """Until so many steps were made."""
        end_s = time.monotonic() + LIMIT_S
        while not any(row["step"] >= step and "loss" in row for row in self.curve()):
            assert time.monotonic() < end_s and self.process.exitcode is None, self.log()
            time.sleep(0.005)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.directory / CHECKPOINTS, self.args.options.keep_checkpoints)

    def curve(self) -> list[dict[str, Any]]:
        return _lines(self.directory / CURVE)

    def samples(self) -> list[dict[str, Any]]:
        return _lines(self.directory / SAMPLES)

    def log(self) -> str:
        path = self.directory / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def adapter(self) -> bytes:
        """The published weights."""
        return (self.loras / self.args.name / "adapter_model.safetensors").read_bytes()

    def losses(self) -> dict[int, float]:
        return {row["step"]: row["loss"] for row in self.curve() if "loss" in row}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
