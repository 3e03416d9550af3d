"""The engine over both real back ends with the starter model: together as alone, stopped in mid-prefill, reuse, preemption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.generation import TokenLogprob
from modules.core.model import LoadedModel, Row, Runner
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox

SLOTS = 8
COUNT = 24
GREEDY = GenerationParams(temperature=0, max_tokens=COUNT, logprobs=5)
QUESTIONS = (
    "How do I load a model?", "What is a LoRA?", "What is a preset?", "Where do I put model files?", "How do I use the API?",
    "What is temperature?", "What is a chat template?", "What is the notebook?",
)  # fmt: skip


class Watched:
    """A runner that can be held before each step, and counts; everything else is the real one."""

    def __init__(self, runner: Runner, capacity_tokens: int | None = None) -> None:
        self._runner = runner
        self.capacity_tokens = capacity_tokens or runner.capacity_tokens
        self.gate: threading.Semaphore | None = None
        self.entered = threading.Semaphore(0)

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def forward(self, rows: list[Row]):
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=20)
        return self._runner.forward(rows)

    def close(self) -> None:
        for slot in range(self._runner.n_slots):
            self._runner.truncate(slot, 0)


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def model(request, starter_dir: Path, starter_gguf: Path) -> Iterator[LoadedModel]:
    path = starter_gguf if request.param == "llama.cpp" else starter_dir
    spec = find_loader(path, request.param)
    loaded = spec.load(path, spec.options(context_length=512, slots=SLOTS), lambda stage, done: None)
    yield loaded
    loaded.runner.close()


@pytest.fixture
def start(model: LoadedModel):
    engines = []

    def begin(capacity_tokens: int | None = None) -> tuple[Engine, Watched, Inbox]:
        runner, inbox = Watched(model.runner, capacity_tokens), Inbox()
        engines.append((Engine(runner, model.tokenizer, inbox), runner))
        return engines[-1][0], runner, inbox

    yield begin
    for engine, runner in engines:
        runner.gate = None
        assert engine.close()


@pytest.fixture(scope="module")
def prompts(model: LoadedModel) -> list[list[int]]:
    encode = model.tokenizer.encode
    bos = [model.tokenizer.bos_id]
    return [
        bos + encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", add_special=False, parse_special=True)
        for question in QUESTIONS
    ]


def entries(inbox: Inbox, generation) -> list[TokenLogprob]:
    return [entry for delta in inbox.deltas[generation] for entry in delta.logprobs]


@pytest.fixture
def alone(start, prompts) -> list[list[TokenLogprob]]:
    """Each prompt by itself in an engine whose slots are empty."""
    engine, _, inbox = start()
    outputs = []
    for prompt in prompts:
        engine.call(lambda: None)
        generation = engine.submit(prompt, GREEDY)
        inbox.wait(generation)
        outputs.append(entries(inbox, generation))
    assert engine.counters().reused_tokens == 0
    assert engine.close()
    return outputs


def test_eight_together_are_each_as_alone(start, prompts, alone):
    engine, runner, inbox = start()
    gate = runner.gate = threading.Semaphore(0)
    generations = [engine.submit(prompt, GREEDY) for prompt in prompts]
    gate.release(100_000)
    inbox.wait(*generations)
    assert_same_but_for_ties([inbox.ids(generation) for generation in generations], alone)
    most = engine.counters().steps
    assert most < sum(map(len, alone))  # they shared steps
    assert len(set(inbox.order[: 2 * SLOTS])) > SLOTS / 2


def test_stop_in_mid_prefill_frees_the_slot_before_the_next_step(start, prompts, alone):
    engine, runner, inbox = start()
    engine._scheduler.pace.prefill_s_per_token = 1.0  # as a slow model: 128 tokens a step alone
    gate = runner.gate = threading.Semaphore(0)
    long = engine.submit(prompts[1] * 20, GREEDY)
    assert runner.entered.acquire(timeout=10)
    engine._scheduler.pace.prefill_s_per_token = 1.0
    gate.release()
    assert runner.entered.acquire(timeout=10)
    before = engine.counters()
    assert before.running == 1
    long.cancel()
    gate.release()
    inbox.wait(long)
    after = engine.counters()
    assert (after.running, after.cancelled) == (0, 1)
    assert after.steps - before.steps <= 1
    assert inbox.ids(long) == []
    gate.release(100_000)
    again = engine.submit(prompts[0], GREEDY)
    inbox.wait(again)
    assert_same_but_for_ties([inbox.ids(again)], alone[:1])


def test_the_next_turn_computes_only_what_is_new(start, prompts):
    engine, _, inbox = start()
    first = engine.submit(prompts[1], GREEDY)
    inbox.wait(first)
    turn = prompts[1] + inbox.ids(first) + prompts[2][1:]
    second = engine.submit(turn, GREEDY)
    inbox.wait(second)
    known = len(prompts[1]) + len(inbox.ids(first)) - 1
    assert known <= inbox.started[second].reused_tokens <= known + 1
    assert engine.counters().prefill_tokens == len(prompts[1]) + len(turn) - inbox.started[second].reused_tokens
    engine.call(lambda: None)  # empties the slots
    whole = engine.submit(turn, GREEDY)
    inbox.wait(whole)
    assert inbox.started[whole].reused_tokens == 0
    assert_same_but_for_ties([inbox.ids(second)], [entries(inbox, whole)])


def test_a_prefix_is_shared_with_a_reply_that_is_still_running(start, prompts, alone):
    engine, runner, inbox = start()
    gate = runner.gate = threading.Semaphore(0)
    first = engine.submit(prompts[2], GREEDY)
    assert runner.entered.acquire(timeout=10)
    second = engine.submit(prompts[2], GREEDY)
    gate.release(100_000)
    inbox.wait(first, second)
    assert inbox.started[second].reused_tokens == len(prompts[2]) - 1
    assert_same_but_for_ties([inbox.ids(first), inbox.ids(second)], [alone[2], alone[2]])


def test_samples_of_one_prompt_read_it_once(start, prompts):
    engine, runner, inbox = start()
    gate = runner.gate = threading.Semaphore(0)
    prompt = prompts[0] + prompts[1][1:] + prompts[2][1:]
    samples = [engine.submit(prompt, GenerationParams(temperature=1, max_tokens=4, ban_eos=True)) for _ in range(4)]
    gate.release(100_000)
    inbox.wait(*samples)
    assert engine.counters().prefill_tokens == len(prompt) + 3
    assert sorted(inbox.started[sample].reused_tokens for sample in samples) == [0, *[len(prompt) - 1] * 3]
    assert [inbox.last(sample).usage.completion_tokens for sample in samples] == [4] * 4


def test_replies_that_lost_their_slot_continue_exactly(start, prompts, alone):
    room = max(len(prompt) for prompt in prompts) + COUNT + 40
    engine, runner, inbox = start(capacity_tokens=room)
    gate = runner.gate = threading.Semaphore(0)
    generations = [engine.submit(prompt, GREEDY) for prompt in prompts]
    gate.release(100_000)
    inbox.wait(*generations)
    assert_same_but_for_ties([inbox.ids(generation) for generation in generations], alone)
    everything = sum(len(prompt) - inbox.started[g].reused_tokens for prompt, g in zip(prompts, generations, strict=True))
    assert engine.counters().prefill_tokens > everything  # some was computed twice


def test_the_same_seed_writes_the_same_text(start, prompts):
    engine, _, inbox = start()
    params = GenerationParams(temperature=1.2, top_p=0.95, max_tokens=COUNT, deterministic=True)
    first = engine.submit(prompts[7], params)
    inbox.wait(first)
    again = engine.submit(prompts[7], params.model_copy(update={"seed": inbox.started[first].seed}))
    inbox.wait(again)
    assert inbox.text(again) == inbox.text(first)


def test_log_probabilities_agree_with_the_score_of_the_same_text(start, prompts):
    engine, _, inbox = start()
    generation = engine.submit(prompts[1], GREEDY.model_copy(update={"logprobs": 3}))
    inbox.wait(generation)
    written = entries(inbox, generation)
    scores = engine.score(prompts[1] + inbox.ids(generation))[len(prompts[1]) - 1 :]
    assert [entry.logprob for entry in written] == pytest.approx(scores, abs=0.05)
    assert all(entry.top[0].token_id == entry.token_id and len(entry.top) == 3 for entry in written)
