"""Steps that are recorded and played back compute what plain steps compute, in every architecture that runs in slots; the card's part is in tests/loaders/test_gpu.py."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from modules.core.errors import AppError, OutOfMemory
from modules.core.model import Row
from modules.loaders.transformers import agreement
from modules.loaders.transformers.agreement import choose_runner, record_steps
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.recorded import (
    CHANGED_STEPS,
    LACKING_STEPS,
    RecordedSteps,
    Step,
    cuda_recording,
    power_of_two,
)
from modules.loaders.transformers.runner import SlotRunner
from modules.loaders.transformers.slot_cache import SlotCache
from tests.contracts.test_architectures import BATCHING, fill_memory, prompts_of, runner_of
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
    for recorded in [1] * CHANGED_STEPS + [2, 2]:  # adapters may soon be others again
        runner.truncate(0, 3)
        found = runner.forward([Row(0, 3, [8])])[0]
        assert tape.recorded == recorded
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
    times = iter([1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 1.0, 2.0])
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

    def forgetful(step: Step) -> Step:
        def play() -> Any:
            stores = [*runner._open_cache()._keys.values(), *runner._open_cache()._values.values()]
            held = [store.clone() for store in stores]
            logits = step()
            for store, before in zip(stores, held, strict=True):
                store.copy_(before)
            return logits

        return play

    runner = choose_runner(network, 3, 512)  # whose cache has nothing of this in it
    assert "something else" in record_steps(runner, network, forgetful), "one that writes nothing into the cache"
    alone = choose_runner(Network(make_model("mamba"), 256), 3, 512)
    assert "runs in slots" in record_steps(alone, network, Tape())


def test_what_a_recording_reads_stays_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card reads addresses, so a tensor that is collected may become somebody else's under a recording."""
    seen: list[weakref.ref[Any]] = []
    plan = SlotCache.plan

    def watched(cache: SlotCache, rows: list[int], positions: Any, length: int, **more: Any) -> None:
        if more.get("slots") is not None:
            seen.extend(weakref.ref(tensor) for tensor in (more["slots"], positions))
        plan(cache, rows, positions, length, **more)

    def as_a_card(step: Step) -> Step:
        logits = step()
        return lambda: logits

    monkeypatch.setattr(SlotCache, "plan", watched)
    network = Network(make_model("llama"), 256)
    runner = SlotRunner(network, 2, 512)
    runner.recorded = RecordedSteps(network, 2, as_a_card)
    runner.forward([Row(0, 0, [5, 6, 7])])
    runner.forward([Row(0, 3, [8])])
    runner.forward([Row(1, 0, [5, 6, 7])])  # the cache is told of another step
    gc.collect()
    assert len(seen) == 4 and all(one() is not None for one in seen)
    runner.recorded.forget()
    gc.collect()
    assert all(one() is None for one in seen)


def test_a_cache_that_cannot_grow_ends_one_step_and_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(make_model("llama", max_position_embeddings=2048), 2048)
    runner = SlotRunner(network, 2, 512)
    runner.forward([Row(0, 0, [5] * 20), Row(1, 0, [6] * 256)])
    recording(runner, network)
    fill_memory(monkeypatch)
    with pytest.raises(OutOfMemory):
        runner.forward([Row(1, 256, [7])])
    assert runner.recorded is not None and not runner.recorded.refused
    runner.forward([Row(0, 20, [7])])
    monkeypatch.undo()  # there is memory again
    runner.forward([Row(1, 256, [7])])


def test_no_room_for_a_recording_is_no_lack_of_room_for_the_step() -> None:
    def refuse(step: Step) -> Step:
        step()
        raise OutOfMemory("There is no memory left for this step.")

    network = Network(make_model("llama"), 256)
    runner = SlotRunner(network, 1, 512)
    runner.recorded = RecordedSteps(network, 1, refuse)
    runner.forward([Row(0, 0, [5, 6, 7])])
    assert len(runner.forward([Row(0, 3, [8])])) == 1
    assert not runner.recorded.refused  # there may be room another time
    tape = runner.recorded._record = Tape()
    for _ in range(LACKING_STEPS + 1):
        assert not tape.recorded
        runner.truncate(0, 3)
        runner.forward([Row(0, 3, [8])])
    assert tape.recorded == 1


def test_where_memory_runs_out_recordings_give_theirs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(make_model("llama", max_position_embeddings=2048), 2048)
    runner = SlotRunner(network, 2, 512)
    recording(runner, network)
    runner.forward([Row(0, 0, [5] * 20)])
    runner.forward([Row(0, 20, [7])])
    assert runner.recorded is not None and runner.recorded.count == 1
    fill_memory(monkeypatch)
    with pytest.raises(OutOfMemory):
        runner.forward([Row(1, 0, [6] * 300)])
    assert runner.recorded.count == 0


class Graph:
    """Something that can be asked whether it is still there."""


class Card:
    """As much of `torch.cuda` as a recording uses; a recording that breaks off leaves its stream in use, as PyTorch's does."""

    def __init__(self, *, breaks: bool) -> None:
        self.stream_in_use, self.breaks, self.replays = "present", breaks, 0
        self.modes: list[str] = []
        self.used: list[str] = []  # pools of recordings
        self.pools = self.streams = 0

    def graph_pool_handle(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    def Stream(self) -> Any:
        self.streams += 1
        return SimpleNamespace(wait_stream=lambda _: None)

    def current_stream(self) -> Any:
        return SimpleNamespace(name=self.stream_in_use, wait_stream=lambda _: None)

    def set_stream(self, stream: Any) -> None:
        self.stream_in_use = stream.name

    def CUDAGraph(self) -> Any:
        graph = Graph()
        graph.replay = self._replay  # type: ignore[attr-defined]
        return graph

    def _replay(self) -> None:
        self.replays += 1

    @contextmanager
    def stream(self, _: Any) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: Any, *, pool: str, capture_error_mode: str = "global") -> Iterator[None]:
        self.modes.append(capture_error_mode)
        self.used.append(pool)
        self.stream_in_use = "recording"
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        if self.breaks:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.stream_in_use = "present"


@pytest.mark.parametrize("breaks", [False, True])
def test_a_recording_leaves_other_threads_and_the_stream_alone(breaks: bool) -> None:
    card = Card(breaks=breaks)
    record = cuda_recording(SimpleNamespace(cuda=card))
    steps = 0

    def step() -> Any:
        nonlocal steps
        steps += 1
        return steps

    with pytest.raises(RuntimeError) if breaks else nullcontext():
        play = record(step)
        assert (play(), card.replays) == (steps, 1)
    assert (card.modes, card.stream_in_use) == (["thread_local"], "present")


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_a_copy_of_the_logits_that_has_no_room_is_no_room(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(kind)
    network = Network(model, 256)
    runner = choose_runner(network, 1, 512)
    runner.forward([Row(0, 0, [5, 6, 7])])

    def no_room(_: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(network, "rows", no_room)
        with pytest.raises(OutOfMemory):
            runner.forward([Row(0, 3, [8])])
    assert int(runner.forward([Row(0, 3, [8])])[0].argmax()) == generate(model, [5, 6, 7, 8], 1)[0]


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (257, 512)])
def test_powers_of_two(number: int, power: int) -> None:
    assert power_of_two(number) == power


def test_recordings_share_memory_until_the_last_of_them_is_gone() -> None:
    card = Card(breaks=False)
    record = cuda_recording(SimpleNamespace(cuda=card))
    plays = [record(lambda: 1), record(lambda: 2)]
    plays.clear()
    gc.collect()
    plays.append(record(lambda: 3))
    assert card.used == ["pool 1", "pool 1", "pool 2"]
    assert card.streams == 1


def test_the_reason_is_the_first_error_and_not_that_of_ending_a_recording() -> None:
    network = Network(make_model("llama"), 256)
    runner = SlotRunner(network, 1, 512)
    runner.recorded = RecordedSteps(network, 1, cuda_recording(SimpleNamespace(cuda=Card(breaks=True))))
    runner.forward([Row(0, 0, [5, 6, 7])])
    seen = []
    run = network.run

    def fail_in_a_recording(*given: Any, **more: Any) -> Any:
        seen.append(1)
        if len(seen) == 5:  # behind the one that grows and the warm-ups
            raise AppError("operation not permitted when stream is capturing")
        return run(*given, **more)

    network.run = fail_in_a_recording  # type: ignore[method-assign]
    runner.forward([Row(0, 3, [8])])
    assert "capturing" in runner.recorded.refused
