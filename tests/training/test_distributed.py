"""One run in several processes is the same run: on two machines, with a divided base model, when a process dies, paused and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from modules.core.errors import InvalidRequest
from modules.training.distributed import COMMANDS, SAVED, learn_together, shell_command, torchrun
from modules.training.material import gather
from modules.training.options import TrainingOptions
from modules.training.outcome import Outcome, conclude
from modules.training.publication import Publication
from modules.training.standing import Standing
from tests.training.runs import LIMIT_S, ROOT, Run, write_chats

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]
STARTS_S = 150  # a process with all libraries takes seconds to begin, on a busy machine many
OPTIONS = {"dropout": 0.1, "epochs": 20, "save_every_steps": 2, "held_out_percent": 20, "evaluate_every_steps": 20, "prompts": ("fox",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def data(folder):
    return write_chats(folder / "chats.jsonl", 20)


@pytest.fixture(scope="module")
def alone(folder, data, tiny):
    """The run in one process."""
    run = Run(folder / "alone", tiny.folder, data, **OPTIONS)
    run.whole()
    return run


class Silent:
    """A context in this process."""

    def __init__(self, directory):
        directory.mkdir()
        self.directory, self.secrets = directory, {}

    def progress(self, *done, **metrics):
        """Nobody asks to stop."""

    def log(self, line):
        """Nobody reads."""


def same(run: Run, alone: Run) -> None:
    """The same losses, on the way and held out, and the same adapter."""
    assert run.losses() == pytest.approx(alone.losses(), abs=1e-4)
    looks = [[row["held_out_loss"] for row in one.curve() if "held_out_loss" in row] for one in (run, alone)]
    assert len(looks[0]) >= 4
    assert looks[0] == pytest.approx(looks[1], abs=1e-4)
    from safetensors.torch import load  # here: each worker reads this file, and torch takes seconds

    mine, theirs = load(run.adapter()), load(alone.adapter())
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-4


def ranks_of(run: Run) -> list[psutil.Process]:
    """Processes that make steps of a run, on what it takes for this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if str(run.directory) in line and "modules.training.rank" in line and "torch.distributed.run" not in line:
                found.append(process)
    return found


def wait_for(condition, limit_s: float = STARTS_S) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@contextlib.contextmanager
def other_machine(run: Run) -> Iterator[subprocess.Popen]:
    """What a person starts there: the command that the first machine shows."""
    wait_for((run.directory / COMMANDS).exists)
    (command,) = json.loads((run.directory / COMMANDS).read_text())
    setting, program, *words = shlex.split(command)
    name, _, value = setting.partition("=")
    assert program == ".venv/bin/python"
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env={**os.environ, name: value}, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def test_two_machines(folder, data, tiny, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run = Run(folder / "machines", tiny.folder, data, nodes=2, rendezvous=address, **OPTIONS)
    run.start()
    with other_machine(run) as other:
        snapshot = run.end(STARTS_S)
        assert snapshot.status == "done", run.log()
        assert other.wait(LIMIT_S) == 0
    same(run, alone)


def test_two_processes_with_a_divided_base_model_of_which_one_dies_paused_and_resumed(folder, data, tiny, alone):
    run = Run(folder / "processes", tiny.folder, data, processes=2, sharding="fsdp2", **OPTIONS)
    run.start()
    wait_for(lambda: len(run.losses()) >= 3)
    first = ranks_of(run)
    assert len(first) == 2
    first[-1].kill()
    wait_for(lambda: "Going on from the checkpoint of step" in run.log())
    assert "Gloo connectFullMesh failed" not in run.log(), "they find each other at once"
    began = max(run.losses())
    wait_for(lambda: max(run.losses()) >= began + 2)
    snapshot = run.stop("pause")
    assert (snapshot.status, snapshot.paused) == ("interrupted", True), run.log()
    assert ranks_of(run) == []
    kept = run.checkpoints.newest().step
    assert kept == max(run.losses()) < max(alone.losses())
    run.start()
    snapshot = run.end(STARTS_S)
    assert snapshot.status == "done", run.log()
    assert f"Going on from the checkpoint of step {kept}" in run.log()
    assert "each of 2 ranks holds" in run.log()
    same(run, alone)


def test_a_model_that_fits_only_together_is_published_without_a_proof(folder, alone):
    context = Silent(folder / "kept")
    args = alone.args.model_copy(update={"name": "kept"})
    shutil.copytree(alone.loras / "learned", context.directory / SAVED)
    standing = Standing.model_validate(alone.checkpoints.newest().read().state)
    result = conclude(Outcome(gather(args, context.directory, context), None, standing, "", Publication(args, context.directory), context))
    assert (alone.loras / "kept" / "adapter_model.safetensors").read_bytes() == alone.adapter()
    assert (result["verdict"], result["steps"], result["held_out_loss"]) == ("", standing.step, pytest.approx(standing.held_out_last))
    assert json.loads((alone.loras / "kept" / "training.json").read_text())["proof"] is None


def test_the_command_names_the_run_and_the_first_machine():
    options = TrainingOptions(nodes=3, processes=4, rendezvous="10.0.0.5:29500")
    words = shlex.split(shell_command(options, "run-7", 2))
    assert words[:4] == ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", ".venv/bin/python", "-m", "torch.distributed.run"]
    assert dict(zip(words[4:-2:2], words[5:-2:2], strict=False)) == {
        "--nnodes": "3", "--nproc_per_node": "4", "--max_restarts": "2", "--rdzv_backend": "c10d", "--rdzv_endpoint": "10.0.0.5:29500",
        "--rdzv_id": "run-7", "--rdzv_conf": "is_host=0,join_timeout=3600",
    }  # fmt: skip
    assert words[-2:] == ["-m", "modules.training.rank"]
    assert "is_host=1" in " ".join(torchrun(options, "run-7", 0))


@pytest.mark.parametrize(
    ("options", "said"), [({"rendezvous": "somewhere"}, "is no address:port"), ({"rendezvous": "a:1", "pissa": True}, "pissa takes its beginning")]
)
def test_what_cannot_be_together_is_refused(folder, data, tiny, options, said):
    run = Run(folder / "refused", tiny.folder, data, nodes=2, **options)
    with pytest.raises(InvalidRequest, match=said):
        learn_together(run.args, run.record)
