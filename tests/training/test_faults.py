"""What may happen to a run: pause, cancel, a wish to end, a full disk, changed data, another adapter of its name, death at the worst moment."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time

import pytest

from modules.core.job import Cancelled
from modules.training.feed import Feed
from modules.training.learner import Learner
from modules.training.material import gather
from modules.training.publication import Publication
from modules.training.ranks import ALONE
from modules.training.train import LEARNED, make_model
from modules.training.trainer import make_engine
from tests.training.runs import Run, write_chats

pytestmark = pytest.mark.processes


@pytest.fixture
def data(tmp_path):
    return write_chats(tmp_path / "chats.jsonl")


def left_in(run: Run) -> list[str]:
    return sorted(path.name for path in run.loras.iterdir())


def test_a_paused_run_goes_on_as_if_it_had_not_been(data, tiny, tmp_path):
    alone = Run(tmp_path / "alone", tiny.folder, data, dropout=0.1, epochs=12)
    alone.whole()
    run = Run(tmp_path / "run", tiny.folder, data, dropout=0.1, epochs=12)
    for reason, said in (("pause", ""), ("close", "The server was stopped")):
        run.start().wait_for_step(max(run.losses(), default=0) + 5)
        began_s = time.monotonic()
        snapshot = run.stop(reason)
        assert time.monotonic() - began_s < 4
        assert (snapshot.status, snapshot.paused) == ("interrupted", reason == "pause")
        assert said in snapshot.error
        assert run.checkpoints.newest().step == max(run.losses()), "nothing of what was learned is lost"
        assert left_in(run) == []
    run.whole()
    assert run.losses() == alone.losses()
    assert run.adapter() == alone.adapter()


class Impatient:
    """A context in this process, of a person who wants to stop."""

    def __init__(self, directory):
        self.directory, self.secrets, self.told, self.stop = directory, {}, [], False

    def progress(self, done, total, unit, **metrics):
        self.told.append((time.monotonic(), unit))
        if self.stop:
            raise Cancelled("The job was asked to stop.")

    def log(self, line):
        """Nobody reads."""


@pytest.mark.parametrize("reason", ["pause", "cancel"])
def test_a_step_that_takes_long_is_told_of_and_does_not_keep_a_checkpoint_waiting(data, tiny, tmp_path, reason):
    run = Run(tmp_path, tiny.folder, data)
    context = Impatient(run.directory)
    material = gather(run.args, run.directory, context)
    model = make_model(material)
    feed = Feed(material.train, run.args.options)
    learner = Learner(material, make_engine(model, material, feed), feed, ALONE, context)
    learner.begin()
    try:
        learner.changing()
        learner.stepped(3.0, 1.0, 0.01, 100)
        time.sleep(1.5)  # a step is being made
        steps = [at_s for at_s, unit in context.told if unit == "steps"]
        assert max(later - earlier for earlier, later in itertools.pairwise(steps)) < 1.0
        run.record.ask_to_stop(reason)
        context.stop = True
        time.sleep(3.5)
        found = run.checkpoints.newest()
        assert (found.step if found else None) == (1 if reason == "pause" else None)
        with pytest.raises(Cancelled):
            learner.check()
    finally:
        learner.close()


def test_a_cancelled_run_leaves_nothing(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, epochs=50, save_every_steps=1)
    run.start().wait_for_step(4)
    assert run.stop("cancel").status == "cancelled"
    assert left_in(run) == []
    assert run.checkpoints.newest() is None
    assert not list(run.directory.glob("**/.part-*"))


def test_a_run_that_is_to_end_keeps_what_it_has_learned(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, epochs=50)
    run.start().wait_for_step(4)
    (run.directory / "finish").touch()
    snapshot = run.end()
    assert snapshot.status == "done", snapshot.error
    assert 4 <= snapshot.result["steps"] < 200
    assert snapshot.result["ended"] == "as the person wished"
    assert left_in(run) == ["learned"]
    assert json.loads((run.loras / "learned" / "training.json").read_text())["run"]["steps"] == snapshot.result["steps"]


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(data, tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be made here")
    try:
        run = Run(tmp_path, tiny.folder, data, epochs=4, save_every_steps=3)
        (run.directory / "checkpoints").symlink_to(disk)
        run.killed(4)
        assert run.checkpoints.newest().step == 3
        (disk / "big").write_bytes(b"x" * 880_000)
        run.whole()
        assert run.log().count("could not be written (the disk is full)") >= 3
        assert run.checkpoints.newest().step == 3, "the last good one stays"
        assert sorted(path.name for path in disk.iterdir()) == ["big", "step-3"], "the half one is gone"
        assert len(run.losses()) == 16
        assert left_in(run) == ["learned"]
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_run_whose_data_was_changed_does_not_go_on(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, save_every_steps=1)
    run.killed(4)
    whole = data.read_text()
    data.write_text(whole.replace("Arr", "Oh", 1))
    snapshot = run.start().end()
    assert snapshot.status == "failed"
    assert "was changed since this run was at step" in snapshot.error
    data.write_text(whole)
    run.whole()


def test_another_adapter_of_its_name_is_never_overwritten(data, tiny, tmp_path):
    other = tmp_path / "loras" / "learned"
    run = Run(tmp_path, tiny.folder, data, epochs=12)
    run.start().wait_for_step(2)
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes(b"theirs")
    snapshot = run.end()
    assert snapshot.status == "failed"
    assert "There is an adapter “learned” already" in snapshot.error
    assert run.start().end().status == "failed", "nor at a start"
    assert (other / "adapter_model.safetensors").read_bytes() == b"theirs"
    assert left_in(run) == ["learned"]
    shutil.rmtree(other)
    steps = len(run.losses())
    run.whole()
    assert len(run.losses()) == steps, "no step is made again"


def test_a_run_that_died_after_learning_goes_on_with_what_is_missing(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data)
    run.whole()
    adapter = run.adapter()
    folder = run.loras / "learned"
    (run.directory / "events.jsonl").unlink()
    half = run.loras / f".learned.part-{run.directory.name}"
    folder.rename(half)  # killed before the rename, then after it
    for _ in range(2):
        assert (run.directory / LEARNED).is_file()
        (run.directory / "proof.json").unlink()
        (folder / "README.md").unlink(missing_ok=True)
        (run.directory / "events.jsonl").unlink(missing_ok=True)
        run.record.append("queued")
        run.record.refresh()
        run.whole()
        assert run.adapter() == adapter
        assert (folder / "README.md").is_file()
        assert (run.directory / "proof.json").is_file()
        assert left_in(run) == ["learned"]


def test_what_is_withdrawn_is_ones_own(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data)
    other = run.loras / "learned"
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes(b"theirs")
    Publication(run.args, run.directory).withdraw()
    assert (other / "adapter_model.safetensors").is_file()
