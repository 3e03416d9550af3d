"""A checkpoint is whole or counts for nothing, the last good one stays, and what a full disk cannot take leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from modules.training.checkpoints import (
    COMPLETE,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointError,
    Checkpoints,
    Snapshot,
)
from modules.training.curve import Lines


def tensors(value: float, size: int = 8) -> dict:
    import torch

    return {"a.weight": torch.full((size, 4), value), "b.weight": torch.arange(4.0) * value}


def save(checkpoints: Checkpoints, step: int, *, best_step: int = -1, size: int = 8) -> None:
    optimizer = {"optimizer": {"state": {0: {"exp_avg": tensors(step, size)["a.weight"]}}, "param_groups": [{"lr": 0.1, "params": [0]}]}, "schedule": {"last_epoch": step}}
    checkpoints.save(step, tensors(step, size), optimizer, {"step": step, "best_step": best_step})


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_was_saved_is_read_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.newest() is None
    save(checkpoints, 7)
    found = checkpoints.newest()
    assert found.step == 7
    for snapshot in (found.read(), Snapshot.from_bytes(found.read().to_bytes())):
        assert snapshot.state == {"step": 7, "best_step": -1}
        assert snapshot.optimizer["schedule"] == {"last_epoch": 7}
        assert snapshot.optimizer["optimizer"]["state"][0]["exp_avg"].equal(tensors(7)["a.weight"])
        assert {name: tensor.tolist() for name, tensor in snapshot.weights.items()} == {name: tensor.tolist() for name, tensor in tensors(7).items()}


def test_only_the_newest_are_kept_and_the_best_weights_as_long_as_they_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_best(1, tensors(1))
    for step in (2, 9, 10):
        save(checkpoints, step, best_step=1)
    assert names(tmp_path) == ["best-1", "step-10", "step-9"]
    checkpoints.save_best(11, tensors(11))
    assert checkpoints.best(1).weights().keys() == tensors(1).keys(), "the checkpoint of step 10 still names it"
    save(checkpoints, 12, best_step=11)
    assert names(tmp_path) == ["best-11", "step-10", "step-12"]


@pytest.mark.parametrize("damage", ["no marker", "torn marker", "shorter", "changed", "missing"])
def test_a_damaged_checkpoint_counts_for_nothing(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    save(checkpoints, 2)
    folder = tmp_path / "step-2"
    weights = (folder / WEIGHTS).read_bytes()
    if damage == "no marker":
        (folder / COMPLETE).unlink()
    elif damage == "torn marker":
        (folder / COMPLETE).write_text((folder / COMPLETE).read_text()[:20])
    elif damage == "shorter":
        (folder / OPTIMIZER).write_bytes((folder / OPTIMIZER).read_bytes()[:-1])
    elif damage == "changed":
        (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    else:
        (folder / STATE).unlink()
    assert checkpoints.newest().step == 1
    save(checkpoints, 2)
    assert checkpoints.newest().step == 2, "it is written anew when its step comes again"


def test_the_marker_names_every_file(tmp_path):
    save(Checkpoints(tmp_path, keep=1), 3)
    marker = json.loads((tmp_path / "step-3" / COMPLETE).read_text())
    assert marker["step"] == 3
    assert sorted(marker["files"]) == sorted({WEIGHTS, OPTIMIZER, STATE})


def test_a_start_clears_what_was_half_done_and_what_lies_ahead(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(checkpoints, step)
    checkpoints.save_best(3, tensors(3))
    (tmp_path / ".part-step-4").mkdir()
    checkpoints.tidy(2)
    assert names(tmp_path) == ["step-1", "step-2"]
    checkpoints.clear()
    assert not tmp_path.exists()


def test_a_pickle_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, tensors(1), {"optimizer": Harm()}, {"step": 1})
    with pytest.raises(Exception, match="weights_only"):
        checkpoints.newest().read()
    assert not (tmp_path / "harm").exists()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be made here")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_a_full_disk_keeps_the_last_good_one_and_no_half_one(small_disk):
    checkpoints = Checkpoints(small_disk / "c", keep=2)
    save(checkpoints, 1)
    for size in (70_000, 24_000):  # the weights do not fit; the weights do, and the optimizer does not
        with pytest.raises(CheckpointError, match="Earlier ones stay; free some space"):
            save(checkpoints, 2, size=size)
        assert names(small_disk / "c") == ["step-1"]
        assert checkpoints.newest().step == 1
    save(checkpoints, 2)
    assert checkpoints.newest().step == 2


def test_lines_on_a_full_disk_are_whole_or_not_there(small_disk):
    lines = Lines(small_disk / "curve.jsonl")
    lines.append(step=1, loss=0.5)
    (small_disk / "big").write_bytes(b"x" * 900_000)
    for step in range(2, 4000):
        lines.append(step=step, loss=1 / 3, note="x" * 100)
    rows = [json.loads(line) for line in (small_disk / "curve.jsonl").read_text().splitlines()]
    assert rows[0] == {"step": 1, "loss": 0.5}
    assert 10 < len(rows) < 3998


def test_lines_are_cut_back(tmp_path):
    lines = Lines(tmp_path / "curve.jsonl")
    lines.cut(0)
    lines.append(step=1, loss=float("nan"), held_out_loss=None)
    size = lines.size_bytes
    lines.append(step=2)
    lines.cut(size)
    lines.cut(size + 1000)
    assert (tmp_path / "curve.jsonl").read_text() == '{"step": 1}\n'
