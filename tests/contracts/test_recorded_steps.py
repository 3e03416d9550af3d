"""Steps that are recorded and played back compute what plain steps compute, in every architecture that runs in slots; the card's part is in tests/loaders/test_gpu.py."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.model import Row
from modules.loaders.transformers import agreement
from modules.loaders.transformers.agreement import choose_runner, record_steps
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.recorded import RecordedSteps, Step, power_of_two
from modules.loaders.transformers.runner import SlotRunner
from tests.contracts.test_architectures import BATCHING, prompts_of, runner_of
from tests.loaders.greedy import decode, generate
from tests.tiny_models import make_model


class Tape:
    """Plays a step by running it, into the tensor of the recording, as a card does. Counts."""

    def __init__(self) -> None:
        self.recorded = 0
        self.played = 0

    def __call__(self, step: Step) -> Step:
        self.recorded += 1
        logits = step()

        def play() -> Any:
            self.played += 1
            return logits.copy_(step())

        return play


def recording(runner: Any, network: Network) -> Tape:
    tape = Tape()
    runner.recorded = RecordedSteps(network, runner.n_slots, tape)
    return tape


@pytest.mark.parametrize("kind", BATCHING)
def test_what_is_played_back_equals_generate(kind: str) -> None:
    model, runner = runner_of(kind, slots=5)
    tape = recording(runner, runner._network)
    prompts, counts = prompts_of(7)
    replies = decode(runner, prompts, counts, chunk=7)
    assert [reply.output for reply in replies] == [generate(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
    assert tape.played > tape.recorded > 0


def test_few_are_recorded_and_a_cache_that_moves_makes_them_void() -> None:
    model = make_model("llama", max_position_embeddings=2048)
    network = Network(model, 2048)
    runner = SlotRunner(network, 4, 512)
    tape = recording(runner, network)
    ids = prompts_of(1)[0][0]
    runner.forward([Row(0, 0, ids), Row(3, 0, ids)])
    for place in range(5):
        runner.forward([Row(slot, len(ids) + place, [7]) for slot in (0, 3)])
    assert (tape.recorded, tape.played) == (1, 5)
    runner.forward([Row(3, len(ids) + 5, [7])])
    assert tape.recorded == 1  # one row of the same span
    runner.forward([Row(0, len(ids) + 5, [7])])
    assert tape.recorded == 2  # the first slot alone
    long = (ids * 300)[:300]
    runner.forward([Row(1, 0, long)])  # the cache grows
    runner.forward([Row(0, len(ids) + 6, [7])])
    assert tape.recorded == 3
    assert len(runner.recorded._steps) == 1  # type: ignore[union-attr]
    played = runner.forward([Row(1, 300, [9])])[0]
    assert int(played.argmax()) == generate(model, [*long, 9], 1)[0]


def test_other_adapters_make_them_void() -> None:
    import torch

    model = make_model("llama")
    network = Network(model, 256)
    runner = SlotRunner(network, 1, 512)
    tape = recording(runner, network)
    runner.forward([Row(0, 0, [5, 6, 7])])
    runner.forward([Row(0, 3, [8])])
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    runner.recorded.forget()  # type: ignore[union-attr]
    runner.truncate(0, 3)
    found = runner.forward([Row(0, 3, [8])])[0]
    assert tape.recorded == 2
    assert int(found.argmax()) == generate(model, [5, 6, 7, 8], 1)[0]


def test_a_step_that_cannot_be_recorded_runs_plainly() -> None:
    def refuse(step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = make_model("llama")
    network = Network(model, 256)
    runner = SlotRunner(network, 2, 512)
    runner.recorded = RecordedSteps(network, 2, refuse)
    prompts, counts = prompts_of(3)
    replies = decode(runner, prompts, counts, chunk=7)
    assert [reply.output for reply in replies] == [generate(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
    assert "capturing" in runner.recorded.refused


def test_they_are_used_where_they_compute_the_same_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(make_model("llama"), 256)
    runner = choose_runner(network, 3, 512)
    assert "need a CUDA card" in record_steps(runner, network)
    tried = agreement._tried_steps
    times = iter([2.0, 1.0, 1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(agreement, "_tried_steps", lambda *given: (tried(*given)[0], next(times)))
    assert record_steps(runner, network, Tape()) == ""
    assert isinstance(runner, SlotRunner)
    assert runner.recorded is not None
    assert runner._lengths == [0, 0, 0]
    runner.recorded = None
    assert "not faster" in record_steps(runner, network, Tape())
    assert runner.recorded is None

    def stale(step: Step) -> Step:
        logits = step().clone()
        return lambda: logits

    assert "something else" in record_steps(runner, network, stale)
    assert runner.recorded is None
    alone = choose_runner(Network(make_model("mamba"), 256), 3, 512)
    assert "runs in slots" in record_steps(alone, network, Tape())


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (257, 512)])
def test_powers_of_two(number: int, power: int) -> None:
    assert power_of_two(number) == power
