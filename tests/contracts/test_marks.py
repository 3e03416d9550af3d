"""Models with states go back to where they were marked: the same prompt again, an edit, a turn without the thinking before it, several replies to one prompt."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import AppError, OutOfMemory
from modules.core.generation import TokenLogprob
from modules.core.model import LoadedModel, Row
from modules.core.params import GenerationParams
from modules.engine import marking
from modules.engine.engine import Engine
from modules.loaders.registry import find_loader
from tests.contracts.test_spill import Ids
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox
from tests.loaders.greedy import row_of
from tests.tiny_recurrent import STATE_CONTEXT, write_hybrid_gguf, write_recurrent_gguf

COUNT = 8
TAIL_TOKENS = marking.TAIL_TOKENS
GREEDY = GenerationParams(temperature=0, max_tokens=COUNT, logprobs=5, ban_eos=True)
WRITERS = {"hybrid": write_hybrid_gguf, "recurrent": write_recurrent_gguf}
CLOSE = 1e-2  # logits beside neighbours: half precision in the cache rounds differently


@pytest.fixture(params=WRITERS)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LoadedModel]]:
    path: Path = WRITERS[request.param](tmp_path_factory.getbasetemp())
    spec, models = find_loader(path, "llama.cpp"), []

    def start(**options: Any) -> LoadedModel:
        models.append(spec.load(path, spec.options(threads=1, context_length=STATE_CONTEXT, **options), lambda stage, done: None))
        return models[-1]

    yield start
    for model in models:
        model.runner.close()


def ids_of(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(20, 250), k=count)


class Bench:
    """An engine, and the same model without any memory of what was before to compare with."""

    def __init__(self, load: Callable[..., LoadedModel], **options: Any) -> None:
        self.runner = load(**options).runner
        self.inbox = Inbox()
        self.engine = Engine(self.runner, Ids(), self.inbox)
        self.engine.spill_within(100_000_000)
        self._fresh, self._fresh_inbox = load(slots=1, spill_memory_gb=0).runner, Inbox()
        self.replies: list[list[int]] = []
        self.expected: list[list[TokenLogprob]] = []
        self._alone = Engine(self._fresh, Ids(), self._fresh_inbox)

    def ask(self, *prompts: list[int]) -> list[tuple[list[int], int]]:
        """Replies to prompts that are sent at once, each as it would be alone, and how much of each prompt was reused."""
        sent = threading.Event()
        holding = threading.Thread(target=self.engine.lend, args=(sent.wait, 0))  # or the first could have ended before the last is sent
        holding.start()
        generations = [self.engine.submit(prompt, GREEDY) for prompt in prompts]
        sent.set()
        holding.join()
        self.inbox.wait(*generations)
        found = []
        for prompt, generation in zip(prompts, generations, strict=True):
            alone = self._alone.submit(prompt, GREEDY)
            self._fresh_inbox.wait(alone)
            entries, expected = entries_of(self.inbox, generation), entries_of(self._fresh_inbox, alone)
            assert (entries[0].token_id, entries[0].logprob) == (expected[0].token_id, pytest.approx(expected[0].logprob, abs=2 * CLOSE))
            self.replies.append(self.inbox.ids(generation))
            self.expected.append(expected)
            found.append((self.replies[-1], self.inbox.started[generation].reused_tokens))
        return found

    def close(self) -> None:
        self.engine.close()
        self._alone.close()
        assert_same_but_for_ties(self.replies, self.expected)


def entries_of(inbox: Inbox, generation: Any) -> list[TokenLogprob]:
    return [entry for delta in inbox.deltas[generation] for entry in delta.logprobs]


@pytest.fixture
def bench(load: Callable[..., LoadedModel]) -> Iterator[Callable[..., Bench]]:
    benches = []

    def start(**options: Any) -> Bench:
        benches.append(Bench(load, **options))
        return benches[-1]

    yield start
    for one in benches:
        one.close()


def test_a_slot_returns_to_its_marks_as_if_nothing_had_been_behind_them(load) -> None:
    runner = load(slots=3).runner
    ids, other = ids_of(1, 90), ids_of(2, 90)
    after = {length: np.array(row_of(runner.forward([Row(2, length - 10, ids[length - 10 : length])])[0])) for length in range(10, 100, 10)}
    for begin in range(0, 90, 30):
        runner.forward([Row(0, begin, ids[begin : begin + 30])])
        runner.mark(0)
    assert runner.cuts(0) == (30, 60, 90)
    runner.forward([Row(0, 90, other[:20])])
    for cut, kept in ((80, 60), (59, 30)):
        assert runner.truncate(0, cut) == kept
        row = row_of(runner.forward([Row(0, kept, ids[kept : kept + 10])])[0])
        np.testing.assert_allclose(row, after[kept + 10], atol=CLOSE)
        runner.forward([Row(0, kept + 10, other[:9])])
    assert runner.cuts(0) == (30,)
    assert runner.truncate(0, 29) == 0
    assert runner.cuts(0) == ()


def test_another_slot_begins_at_a_mark_and_the_first_one_goes_on(load) -> None:
    runner = load(slots=3).runner
    ids = ids_of(3, 100)
    expected = [np.array(row_of(runner.forward([Row(2, begin, ids[begin:end])])[0])) for begin, end in ((0, 40), (40, 60), (60, 100))]
    runner.forward([Row(0, 0, ids[:40])])
    runner.mark(0)
    runner.forward([Row(0, 40, ids[40:60])])
    assert not runner.copy_prefix(0, 1, 39)
    assert not runner.copy_prefix(0, 1, 41)
    assert runner.copy_prefix(0, 1, 40)
    np.testing.assert_allclose(row_of(runner.forward([Row(1, 40, ids[40:60])])[0]), expected[1], atol=CLOSE)
    np.testing.assert_allclose(row_of(runner.forward([Row(0, 60, ids[60:])])[0]), expected[2], atol=CLOSE)
    assert runner.copy_prefix(0, 1, 100)  # all of it needs no mark
    assert runner.truncate(1, 99) == 40
    state = runner.save_state(0)
    assert (runner.state_bytes(0), runner.marks_bytes(0)) == (state.data.nbytes, state.marks[0].size_bytes)
    form, parts = runner.pack_state(state)
    runner.truncate(2, 0)
    assert runner.restore_state(2, runner.unpack_state(form, parts), 50) == 40
    np.testing.assert_allclose(row_of(runner.forward([Row(2, 40, ids[40:60])])[0]), expected[1], atol=CLOSE)


def test_a_mark_that_cannot_be_read_leaves_an_empty_slot(load) -> None:
    runner = load(slots=1).runner
    ids = ids_of(4, 60)
    expected = np.array(row_of(runner.forward([Row(0, 0, ids)])[0]))
    runner.truncate(0, 0)
    runner.forward([Row(0, 0, ids[:40])])
    runner.mark(0)
    runner.forward([Row(0, 40, ids[40:])])
    mark = runner._marks.last(0, 40)
    object.__setattr__(mark, "data", mark.data[:-8].copy())
    assert runner.truncate(0, 50) == 0
    np.testing.assert_allclose(row_of(runner.forward([Row(0, 0, ids)])[0]), expected, atol=CLOSE)


def test_a_step_that_failed_half_way_is_no_want_of_room_alone(load) -> None:
    runner = load(slots=2).runner
    runner.forward([Row(0, 0, ids_of(5, 20))])
    with pytest.raises(OutOfMemory):  # nothing of the step was done
        runner._finish(1)
    assert runner.truncate(0, 20) == 20
    runner._lengths[0] = 10  # the last ten were the part that was done
    with pytest.raises(AppError, match="half-way"):
        runner._finish(1)


def test_a_mark_for_which_there_is_no_memory_is_none_and_one_that_is_too_large_is_the_last_that_was_tried(load, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load(slots=2).runner
    runner.forward([Row(0, 0, ids_of(5, 40))])

    def full(*shape: Any) -> np.ndarray:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", full)
        runner.mark(0)
    assert (runner.can_mark, runner.cuts(0)) == (True, ())
    runner._marks.budget_bytes = 100
    runner.mark(0)
    assert (runner.can_mark, runner.cuts(0)) == (False, ())


def test_a_state_is_taken_back_to_a_mark_of_its_own_where_there_is_no_room_for_it_beside_others(load) -> None:
    runner = load(slots=3).runner
    for slot in range(2):
        runner.forward([Row(slot, 0, ids_of(6 + slot, 40))])
        runner.mark(slot)
        runner.forward([Row(slot, 40, ids_of(8 + slot, 20))])
        runner.mark(slot)
    state = runner.save_state(0)
    runner._marks.budget_bytes = runner._marks.size_bytes // 4
    runner.truncate(0, 0)
    assert runner.restore_state(2, state, 50) == 40
    assert runner._marks.size_bytes <= runner._marks.budget_bytes


def test_without_memory_for_them_there_are_no_marks(load) -> None:
    runner = load(slots=1, spill_memory_gb=0).runner
    runner.forward([Row(0, 0, ids_of(5, 40))])
    runner.mark(0)
    assert (runner.can_mark, runner.cuts(0)) == (False, ())


def test_the_same_prompt_again_is_read_near_its_end_alone(bench) -> None:
    one, prompt = bench(slots=2), ids_of(6, 300)
    one.ask(prompt)
    for _ in range(2):
        assert one.ask(prompt)[0][1] == 300 - TAIL_TOKENS


def test_a_turn_that_leaves_out_the_thinking_before_it_goes_on_at_the_end_of_the_prompt(bench) -> None:
    one, line = bench(slots=2), ids_of(7, 200)
    asks = ids_of(8, 6)  # what a template writes to ask for a reply
    one.ask([*line, *asks])
    line = [*line, *ids_of(9, 40)]  # the reply without its thinking, and the next message
    assert one.ask([*line, *asks])[0][1] == 200 + 6 - TAIL_TOKENS
    line = [*line, *ids_of(10, 40)]
    assert one.ask([*line, *asks])[0][1] == 240 + 6 - TAIL_TOKENS


def test_an_edit_reads_from_the_last_place_before_it(bench) -> None:
    one, line = bench(slots=2), ids_of(11, 150)
    ends = []
    for turn in range(3):
        reply, _ = one.ask(line)[0]
        ends.append(len(line) + len(reply) - 1)
        line = [*line, *reply, *ids_of(20 + turn, 60)]
    edited = [*line[: ends[0] + 20], *ids_of(30, 60)]
    assert one.ask(edited)[0][1] == ends[0]


def test_replies_to_one_prompt_share_its_reading(bench) -> None:
    one, prompt = bench(slots=4), ids_of(12, 400)
    reused = [tokens for _, tokens in one.ask(*[prompt] * 4)]
    assert sorted(reused) == [0, *[400 - TAIL_TOKENS] * 3]


def test_a_beginning_that_all_share_is_marked_when_it_is_known(bench) -> None:
    one, shared = bench(slots=3), ids_of(13, 300)
    prompts = [[*shared, *ids_of(40 + user, 50)] for user in range(4)]
    assert [one.ask(prompt)[0][1] for prompt in prompts] == [0, 0, 300, 300]
    together = bench(slots=3)
    assert [tokens for _, tokens in together.ask(*prompts[:3])] == [0, 300, 300]


def test_long_prompts_are_marked_on_the_way(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "EVERY_TOKENS", 256)
    one = bench(slots=1)
    marked = []
    mark = one.runner.mark
    one.runner.mark = lambda slot: (marked.append(one.runner._lengths[slot]), mark(slot))
    line = ids_of(14, 900)
    one.ask(line)
    assert marked == [256, 512, 900 - TAIL_TOKENS]  # one at 768 would be near the last
    assert one.ask([*line[:600], *ids_of(15, 100)])[0][1] == 512
    assert marked[3:] == [600, 700 - TAIL_TOKENS]


def test_what_lost_its_slot_comes_back_with_its_marks(bench) -> None:
    one, prompts = bench(slots=1), [ids_of(50 + user, 250) for user in range(2)]
    for _ in range(2):
        for prompt in prompts:
            one.ask(prompt)
    assert [one.ask(prompt)[0][1] for prompt in prompts] == [250 - TAIL_TOKENS] * 2
    assert one.engine.counters().spill_restores >= 2
