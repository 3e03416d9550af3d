"""A run from its arguments to a published adapter: what it writes down, what it tells, when it ends; and that a step is the same however it is divided."""

from __future__ import annotations

import json
import re

import pytest

from modules.loaders.fingerprint import fingerprint, read_fingerprint
from modules.training.probe import probe
from modules.training.samples import DatasetSpec, Encoded
from tests.tiny_models import tiny_config, write_folder, write_tokenizer
from tests.training.runs import Run, write_chats

pytestmark = pytest.mark.processes


class Quiet:
    """A context of a look, in this process."""

    def __init__(self, directory):
        self.directory, self.secrets = directory, {}

    def progress(self, *done, **metrics):
        """Nobody asks to stop."""

    def log(self, line):
        """Nobody reads."""


def huge_model(folder):
    """The headers of a model of seventy billion weights, which take no room on the disk."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    config = tiny_config("llama", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
    (folder / "config.json").write_text(config.to_json_string())
    rows = 70_000_000_000 // 8192
    header = json.dumps({"model.layers.79.mlp.up_proj.weight": {"dtype": "F16", "shape": [rows, 8192], "data_offsets": [0, rows * 8192 * 2]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rows * 8192 * 2)
    return folder


@pytest.fixture
def data(tmp_path):
    return write_chats(tmp_path / "chats.jsonl", 24)


def test_a_run_learns_publishes_and_proves(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, held_out_percent=25, evaluate_every_steps=3, sample_every_steps=4, sample_prompts=("fox ball",), prompts=("red ball",), epochs=4)
    snapshot = run.whole()
    result, rows = snapshot.result, run.curve()
    steps = [row for row in rows if "loss" in row]
    looks = [row for row in rows if "held_out_loss" in row]
    assert [row["step"] for row in steps] == list(range(1, result["steps"] + 1))
    assert set(steps[-1]) == {"step", "epoch", "loss", "learning_rate", "tokens_per_s", "memory_bytes", "gradient_norm", "time_s"}
    assert steps[-1]["epoch"] == pytest.approx(4, abs=0.3)
    assert [row["step"] for row in looks] == sorted({*range(0, result["steps"] + 1, 3), result["steps"]})
    assert looks[-1]["held_out_loss"] < looks[0]["held_out_loss"] - 0.3
    assert result["held_out_loss"] == pytest.approx(looks[-1]["held_out_loss"], abs=1e-4)
    assert result["held_out_loss_before"] == pytest.approx(looks[0]["held_out_loss"], abs=1e-4)
    assert result["verdict"] in ("green", "amber", "red")
    assert [row["step"] for row in run.samples()] == sorted({*range(0, result["steps"] + 1, 4), result["steps"]})
    assert all(row["prompt"] == "fox ball" and row["text"] for row in run.samples())
    folder = tmp_path / "loras" / "learned"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"]
    record = json.loads((folder / "training.json").read_text())
    assert record["run"]["steps"] == result["steps"]
    assert record["proof"]["verdict"] == result["verdict"]
    assert read_fingerprint(folder) == fingerprint(tiny.folder)
    assert [path.name for path in run.loras.iterdir()] == ["learned"]
    reports = [json.loads(line) for line in (run.directory / "events.jsonl").read_text().splitlines()]
    told = {name for event in reports if event.get("unit") == "steps" for name in event.get("metrics", {})}
    assert told >= {"loss", "held_out_loss", "learning_rate", "tokens_per_s", "memory_bytes", "epoch", "trainable", "parameters"}
    assert "parameters learn (" in run.log()
    assert "{'loss'" not in run.log(), "the library prints nothing"


def test_a_step_is_the_same_however_it_is_divided(data, tiny, tmp_path):
    ways = {"whole": {"micro_batch_size": 4}, "one by one": {"micro_batch_size": 1}, "uneven": {"micro_batch_size": 3}, "packed": {"micro_batch_size": 4, "packing": True}}
    runs = {way: Run(tmp_path / way, tiny.folder, data, epochs=2, **options) for way, options in ways.items()}
    for run in runs.values():
        run.whole()
    losses = {way: run.losses() for way, run in runs.items()}
    for way in ("one by one", "packed"):
        assert losses[way] == pytest.approx(losses["whole"], abs=2e-5), way
    assert max(losses["whole"].values()) - min(losses["whole"].values()) > 0.5
    assert len(losses["uneven"]) == len(losses["whole"])


def test_pairs_are_learned_and_their_steps_do_not_depend_on_micro_batches(tiny, tmp_path):
    data = tmp_path / "pairs.jsonl"
    words = ["fox", "ball", "tree", "bird", "rain", "bread", "hat", "coat"]
    rows = [{"prompt": f"{word} {number}", "chosen": f"Arr, the {word}!", "rejected": f"The {word} {word}."} for number, word in enumerate(words)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetSpec(path=data, name="pairs", format="preference", columns={name: name for name in ("prompt", "chosen", "rejected")})
    losses = []
    for micro in (4, 1):
        run = Run(tmp_path / str(micro), tiny.folder, data, dataset=dataset, held_out=dataset, micro_batch_size=micro, epochs=4, preference="dpo", prompts=("fox",))
        result = run.whole().result
        losses.append(run.losses())
        looks = [row["held_out_loss"] for row in run.curve() if "held_out_loss" in row]
        assert looks[0] == pytest.approx(0.6931, abs=1e-3)
        assert result["held_out_loss"] == pytest.approx(looks[-1], abs=1e-6), "measured as it is learned"
        assert looks[-1] < 0.4
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[0][1] == pytest.approx(0.6931, abs=1e-3), "nothing is preferred at the beginning"
    assert losses[0][max(losses[0])] < 0.4


def test_a_low_loss_ends_the_run(data, tiny, tmp_path):
    with data.open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "never answered"}]}) + "\n")
    run = Run(tmp_path, tiny.folder, data, epochs=50, stop_at_loss=3.5)
    result = run.whole().result
    last = list(run.losses().values())[-10:]
    assert result["steps"] < 300
    assert result["ended"] == "the loss is low enough"
    assert sum(last) / 10 < 3.5
    assert "Of those to learn, 1 have no reply of an assistant to learn; 24 sequences are left." in run.log()


def test_the_best_weights_are_kept_when_the_held_out_loss_rises(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, epochs=60, held_out_percent=25, evaluate_every_steps=4, patience=3, learning_rate=0.03, scheduler="constant", prompts=("fox",))
    run.killed(6)
    result = run.whole().result
    looks = {row["step"]: row["held_out_loss"] for row in run.curve() if "held_out_loss" in row and row["step"]}
    best = min(looks, key=looks.__getitem__)
    assert result["ended"] == "the held-out loss falls no more"
    assert result["steps"] == max(looks) == best + 12
    assert result["held_out_loss"] == pytest.approx(looks[best], abs=1e-4)
    assert f"as it was at step {best}" in run.log()


def test_a_loss_that_is_no_number_ends_the_run_with_advice(data, tiny, tmp_path):
    run = Run(tmp_path, tiny.folder, data, epochs=20, precision="float16", alpha=4096, learning_rate=10, max_grad_norm=0, save_every_steps=1)
    snapshot = run.start().end()
    assert snapshot.status == "failed"
    assert "The loss is not a number any more at step" in snapshot.error
    assert "smaller learning rate (this one had 10)" in snapshot.error
    assert [path.name for path in run.loras.iterdir()] == []


def test_learning_goes_on_from_an_adapter(data, tiny, tmp_path):
    first = Run(tmp_path, tiny.folder, data, name="first")
    first.whole()
    second = Run(tmp_path, tiny.folder, data, name="second", continue_from=first.loras / "first", max_steps=1, warmup_steps=0, learning_rate=1e-9)
    second.whole()
    from safetensors.torch import load  # here: each worker reads this file, and torch takes seconds

    before, after = load(first.adapter()), load(second.adapter())
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    assert second.losses()[1] < first.losses()[1] - 0.3
    other = write_folder(tmp_path / "other", seed=5)
    third = Run(tmp_path, other, data, name="third", continue_from=first.loras / "first").start().end()
    assert third.status == "failed"
    assert "was trained on another base model: other differs in its weights" in third.error


def test_what_does_not_fit_is_refused_before_it_is_loaded(data, tmp_path):
    base = huge_model(tmp_path / "huge")
    snapshot = Run(tmp_path, base, data).start().end()
    assert snapshot.status == "failed"
    assert re.search(r"Training huge needs about \d{3}\.\d GB of memory and [\d.]+ [GM]B is free; choose a smaller batch", snapshot.error)


def test_two_tried_steps_say_how_much_less_would_do(data, tiny, tmp_path):
    run = Run(tmp_path / "run", huge_model(tmp_path / "huge"), data, micro_batch_size=2)
    found = probe(run.args, [Encoded((1, 2, 3), (-100, 2, 3), "here")] * 8, Quiet(tmp_path))
    assert found.forecast_bytes > 100 << 30
    assert "needs about" in found.problem
    assert "Try micro_batch_size 1, which changes nothing else; or gradient_checkpointing; or precision 4bit; or a smaller rank" in found.problem
    assert found.seconds_per_step == 0


def test_two_tried_steps_tell_what_the_run_will_take(data, tiny, tmp_path):
    import torch

    torch.set_num_threads(1)
    run = Run(tmp_path / "run", tiny.folder, data, epochs=8)
    sequences = [Encoded((1, *range(3, 3 + length)), (-100, *range(3, 3 + length)), "here") for length in range(2, 34)]
    found = probe(run.args, sequences, Quiet(tmp_path))
    assert (found.steps, found.problem, found.device) == (64, "", "processor" if not torch.cuda.is_available() else found.device)
    assert found.trainable == 8192 < found.parameters
    assert found.peak_bytes > 100 << 20
    assert found.hours == pytest.approx(found.seconds_per_step * 64 / 3600, abs=1e-3)
    assert 0 < found.seconds_per_step < 10
    assert not list(tmp_path.glob("probe-*"))
