"""A whole run on a graphics card: a base of a billion parameters in 4 bits, looked at, paused, resumed, proved; memory as the look foretold.

Prints its figures (`pytest -m gpu -s tests/training/test_gpu_run.py`): docs/lab-notes.md has those of one machine.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from modules.core.job import JobSnapshot
from modules.jobs.child import WorkerProcess
from modules.jobs.worker import Header
from modules.training.spec import ExamineArgs
from tests.tiny_models import write_folder
from tests.training.runs import Run, write_chats

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600)]

BILLION = {
    "num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 2048,
}  # fmt: skip


class Looking:
    """The context of a look."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secrets: dict[str, str] = {}

    def progress(self, done: float, total: float | None, unit: str, **metrics: object) -> None:
        """Nobody looks."""

    def log(self, line: str) -> None:
        """Nobody reads."""


def started(run: Run) -> WorkerProcess:
    """The job's process as the server starts it: a forked one could not use the card."""
    run.record.refresh()
    return WorkerProcess.start((sys.executable, "-m", "tests.training.train_worker"), run.directory, Header(run.record.story.attempts + 1, {}), network=False)


def ended(run: Run, worker: WorkerProcess) -> JobSnapshot:
    end_s = time.monotonic() + 200
    while not worker.ended():
        assert time.monotonic() < end_s, run.log()
        time.sleep(0.2)
    run.record.refresh()
    return run.record.snapshot()


def told(figures: str) -> None:
    print(f"\n{figures}")  # noqa: T201 - for the notes; they are what such a machine is rented for


@pytest.mark.parametrize("precision", ["4bit", "auto"])
def test_a_run_on_the_card_is_looked_at_paused_resumed_and_proved(tmp_path: Path, precision: str) -> None:
    from modules.training.preflight import examine

    base = write_folder(tmp_path / "base", "llama", **BILLION)
    options = {"precision": precision, "rank": 16, "alpha": 32, "learning_rate": 1e-3, "epochs": 4, "gradient_checkpointing": True, "held_out_percent": 10}
    run = Run(tmp_path, base, write_chats(tmp_path / "chats.jsonl", 160), batch_size=8, micro_batch_size=8, **options)
    worker = started(run)
    end_s = time.monotonic() + 120
    while len(run.curve()) < 3 and not worker.ended() and time.monotonic() < end_s:
        time.sleep(0.2)
    assert run.curve(), run.log()
    run.record.ask_to_stop("pause")
    paused = ended(run, worker)
    assert paused.status == "interrupted" and paused.paused, run.log()
    told(f"{precision}: paused at {paused.done} of {paused.total} {paused.unit}, {paused.metrics}")
    run.record.withdraw_stop()
    run.record.append("queued")
    done = ended(run, started(run))
    assert done.status == "done", f"{done.error} {run.log()}"
    told(f"{precision}: {done.result}, {done.metrics}")
    most = max(row.get("memory_bytes", 0) for row in run.curve())
    (tmp_path / "look").mkdir()
    examine(ExamineArgs(run=run.args.model_copy(update={"name": "look"})), Looking(tmp_path / "look"))
    told(f"{precision}: memory {most / 1e9:.2f} GB; the look: {(tmp_path / 'look' / 'examination.json').read_text()[:200]} … {probe_of(tmp_path / 'look')}")
    assert done.result is not None and done.result["held_out_loss"] < done.result["held_out_loss_before"]


def probe_of(directory: Path) -> str:
    import json

    return str(json.loads((directory / "examination.json").read_text()).get("probe"))
