"""Conversations that take turns in too few slots are read once: through the real engine, over both back ends and odd architectures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import AppError
from modules.core.generation import TokenLogprob
from modules.core.model import LoadedModel, Row, Runner
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from modules.loaders.transformers.agreement import choose_runner
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.single_runner import SingleRunner
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox
from tests.loaders.greedy import row_of
from tests.tiny_models import CONTEXT, TinyFiles, make_model, write_folder, write_gguf, write_window_gguf

BUDGET = 100_000_000
COUNT = 8
GREEDY = GenerationParams(temperature=0, max_tokens=COUNT, logprobs=5, ban_eos=True)
VOCAB = 320
KINDS = [("llama.cpp", {}), ("llama.cpp", {"kv_type": "q8_0"}), ("llama.cpp", {"kv_type": "q4_0"}), ("transformers", {})]  # loaders, and numbers of the cache
KV_TYPES = ["f16", "q8_0", "q4_0"]


class Ids:
    """A tokenizer for prompts that are made of ids."""

    vocab_size, bos_id, adds_bos, end_ids = VOCAB, None, False, frozenset({2})

    def encode(self, text: str, **_: bool) -> list[int]:
        return []

    def piece(self, token_id: int) -> bytes:
        return b"x"

    def is_special(self, token_id: int) -> bool:
        return False


def load(path: Path, name: str, **options: Any) -> LoadedModel:
    spec = find_loader(path, name)
    return spec.load(path, spec.options(threads=1, **options), lambda stage, done: None)


def alternate(engine: Engine, inbox: Inbox, beginnings: list[list[int]], turns: int) -> tuple[list[list[int]], list[list[TokenLogprob]], list[int]]:
    """Each conversation in turn: the replies, and how much of each prompt was reused."""
    lines = [list(beginning) for beginning in beginnings]
    replies, entries, reused = [], [], []
    for turn in range(turns):
        for line in lines:
            line += [10 + turn, 11, 12]
            generation = engine.submit(line, GREEDY)
            inbox.wait(generation)
            line += inbox.ids(generation)
            replies.append(inbox.ids(generation))
            entries.append([entry for delta in inbox.deltas[generation] for entry in delta.logprobs])
            reused.append(inbox.started[generation].reused_tokens)
    return replies, entries, reused


def check_turns(runner: Runner, tokenizer: Any, lengths: list[int], turns: int = 3, text: list[int] | None = None) -> None:
    """Conversations of some lengths that share their first ten tokens, in turn: with saved states each is read once, and the replies are the same."""
    text = text or random.Random(5).choices(range(20, 250), k=10 + sum(lengths))
    beginnings = [text[:10] + text[10 + place * lengths[0] :][:length] for place, length in enumerate(lengths)]
    results = []
    for budget in (0, BUDGET):
        for slot in range(runner.n_slots):
            runner.truncate(slot, 0)
        inbox = Inbox()
        engine = Engine(Borrowed(runner), tokenizer, inbox)
        engine.spill_within(budget)
        results.append(alternate(engine, inbox, beginnings, turns))
        counters = engine.counters()
        assert engine.close()
    (expected, entries, again), (found, _, reused) = results
    assert_same_but_for_ties(found, entries)
    assert len(expected) == len(found)
    known = [10 + length + (turn - 1) * (3 + COUNT) + 3 + COUNT - 1 for turn in range(1, turns) for length in lengths]
    assert reused[len(lengths) :] == known  # all that was computed before: not the last token of the reply
    assert max(again) <= 10
    assert counters.restored_tokens == sum(known)
    assert counters.spilled_tokens > 0
    assert 0 < counters.spilled_bytes <= BUDGET
    assert counters.prefill_tokens == sum(lengths) + 10 * len(lengths) - sum(reused[: len(lengths)]) + len(lengths) * (3 + (turns - 1) * 4)


class Borrowed:
    """A runner that outlives its engine."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def close(self) -> None:
        for slot in range(self._runner.n_slots):
            self._runner.truncate(slot, 0)


@pytest.fixture
def loaded() -> Iterator[Callable[..., LoadedModel]]:
    models = []

    def start(path: Path, name: str, **options: Any) -> LoadedModel:
        models.append(load(path, name, **options))
        return models[-1]

    yield start
    for model in models:
        model.runner.close()


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_long_conversations_of_two_in_one_slot_are_read_once(loaded, root: Path, starter_dir: Path, starter_gguf: Path, name: str, options: dict[str, Any]) -> None:
    model = loaded(starter_gguf if name == "llama.cpp" else starter_dir, name, slots=1, context_length=1024, **options)
    text = model.tokenizer.encode((root / "docs" / "training.md").read_text("utf-8")[:6000], add_special=True, parse_special=False)
    check_turns(model.runner, model.tokenizer, [250, 230], turns=2, text=text)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_cache_that_holds_one_of_two_slots(loaded, tiny: TinyFiles, kv_type: str) -> None:
    model = loaded(tiny.gguf, "llama.cpp", slots=2, context_length=CONTEXT, cache_tokens=CONTEXT, kv_type=kv_type)
    check_turns(model.runner, Ids(), [170, 160])


@pytest.mark.parametrize("kind", ["lfm2", "bloom"])
def test_architectures_that_cannot_go_back(kind: str) -> None:
    runner = choose_runner(Network(make_model(kind), CONTEXT), 1, 512)
    assert isinstance(runner, SingleRunner)
    check_turns(runner, Ids(), [120, 110])


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_sliding_window_in_llama_cpp(loaded, tiny: TinyFiles, kv_type: str) -> None:
    model = loaded(write_window_gguf(tiny.models.parent), "llama.cpp", slots=1, context_length=CONTEXT, kv_type=kv_type)
    check_turns(model.runner, Ids(), [120, 110])


def test_rotary_sections_keep_the_positions_of_text(loaded, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "qwen2")
    path = write_gguf(tmp_path / "sections.gguf", source, rope_sections=(4, 6, 6, 0))
    model = loaded(path, "llama.cpp", slots=1, context_length=CONTEXT)
    check_turns(model.runner, Ids(), [120, 110])


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_a_state_goes_into_another_slot_and_can_be_cut(loaded, tiny: TinyFiles, name: str, options: dict[str, Any]) -> None:
    runner = loaded(tiny.gguf if name == "llama.cpp" else tiny.folder, name, slots=3, context_length=CONTEXT, **options).runner
    ids = random.Random(2).choices(range(20, 250), k=100)
    runner.forward([Row(0, 0, ids)])
    runner.copy_prefix(0, 1, 50)  # cells that two slots share
    state = runner.save_state(0)
    assert runner.state_bytes(0) > 0
    assert runner.state_bytes(2) == 0
    expected = row_of(runner.forward([Row(0, 100, [7])])[0]).copy()
    cut = row_of(runner.forward([Row(1, 50, [7])])[0]).copy()
    assert runner.restore_state(2, state, 100) == 100
    np.testing.assert_array_equal(row_of(runner.forward([Row(2, 100, [7])])[0]), expected)
    runner.truncate(2, 0)
    assert runner.restore_state(2, state, 50) == 50
    np.testing.assert_array_equal(row_of(runner.forward([Row(2, 50, [7])])[0]), cut)


def test_what_llama_cpp_cannot_take_back_leaves_the_slot_empty(loaded, tiny: TinyFiles) -> None:
    first, second = (loaded(tiny.gguf, "llama.cpp", slots=2, context_length=CONTEXT, cache_tokens=CONTEXT).runner for _ in range(2))
    ids = random.Random(2).choices(range(20, 250), k=150)
    first.forward([Row(0, 0, ids)])
    state = first.save_state(0)
    assert second.restore_state(0, state, 150) == 0  # another context may have another kind of cache: that would end the process
    assert first.restore_state(1, state, 150) == 0  # no room for both
    first.forward([Row(1, 0, ids[:100])])
    first.truncate(0, 0)
    assert first.restore_state(0, state, 150) == 150
    first.close()
    assert first.state_bytes(0) == 0
    with pytest.raises(AppError, match="unloaded"):
        first.save_state(0)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_replies_that_lost_their_slot_are_not_read_again(loaded, tiny: TinyFiles, name: str, options: dict[str, Any]) -> None:
    runner = loaded(tiny.gguf if name == "llama.cpp" else tiny.folder, name, slots=3, context_length=CONTEXT, **options).runner
    prompts = [random.Random(number).choices(range(20, 250), k=100) for number in range(3)]
    params = GREEDY.model_copy(update={"max_tokens": 60})
    results = []
    for room, budget in ((runner.capacity_tokens, 0), (400, BUDGET)):
        narrow, inbox = Borrowed(runner), Inbox()
        narrow.capacity_tokens = room
        engine = Engine(narrow, Ids(), inbox)
        engine.spill_within(budget)
        engine.pause()
        generations = [engine.submit(prompt, params) for prompt in prompts]
        engine.pause(False)
        inbox.wait(*generations)
        counters = engine.counters()
        assert engine.close()
        assert counters.prefill_tokens == 300  # each prompt once
        results.append((generations, inbox))
    assert counters.restored_tokens > 100
    entries = [[entry for delta in results[0][1].deltas[generation] for entry in delta.logprobs] for generation in results[0][0]]
    assert_same_but_for_ties([results[1][1].ids(generation) for generation in results[1][0]], entries)
