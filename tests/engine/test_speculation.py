"""Drafts change how many steps a text takes, and nothing else: the same tokens, ends, log-probabilities and memory as without."""

from __future__ import annotations

import threading
import time
import zlib

import numpy as np
import pytest

from modules.core.errors import OutOfMemory
from modules.core.model import DraftSource
from modules.core.params import GenerationParams
from modules.engine.events import FLUSH_S
from modules.engine.speculation import WHOLE_STEPS
from tests.engine.steady import steady
from tests.fakes import BOS, EOS, FakeRunner, next_byte, solo

GREEDY = GenerationParams(temperature=0, max_tokens=60)


def prompt(text: str) -> list[int]:
    return [BOS, *text.encode()]


def wrong_byte(ids) -> int:
    return 65


def sometimes(ids) -> int:
    """Right two times in three."""
    return next_byte(ids) if zlib.crc32(bytes(str(ids), "ascii")) % 3 else 65


def spread(ids) -> np.ndarray:
    """A model that is unsure: a few likely letters, which ones depends on all before."""
    return np.random.default_rng(zlib.crc32(np.array(ids, np.int32).tobytes())).normal(0, 2.5, 259).astype(np.float32)


def likeliest(ids) -> int:
    return int(spread(ids).argmax())


@pytest.fixture
def drafting(bench):
    """Engines with a draft model whose steps take a tenth of the model's, unless it is said otherwise."""

    def start(rule=next_byte, runner: FakeRunner | None = None, tokens: int = 4, share: float = 0.1, **options):
        runner = runner or FakeRunner()
        draft = FakeRunner(**({"slots": runner.n_slots, "context": runner.context_length} | options), rule=rule)
        engine, _, inbox = bench(runner, draft=DraftSource(draft, tokens))
        steady(engine, share)
        return engine, runner, inbox, draft

    return start


@pytest.mark.parametrize("rule", [next_byte, sometimes, wrong_byte])
def test_the_text_is_the_same_whatever_the_drafts(drafting, rule):
    engine, runner, inbox, _ = drafting(rule)
    generation = engine.submit(prompt("Once"), GREEDY)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("Once"), 60)
    usage, counters = inbox.last(generation).usage, engine.counters()
    assert inbox.last(generation).finish_reason == "length"
    assert usage.completion_tokens == counters.decode_tokens == 60
    assert (usage.drafted_tokens, usage.accepted_tokens) == (counters.drafted_tokens, counters.accepted_tokens)
    assert counters.prefill_tokens == len(prompt("Once"))
    assert runner.slots[0] == [*prompt("Once"), *inbox.ids(generation)][: len(runner.slots[0])]
    if rule is next_byte:
        assert usage.accepted_tokens == usage.drafted_tokens > 30
        assert counters.steps < 30
    if rule is wrong_byte:
        assert usage.accepted_tokens == 0 < usage.drafted_tokens


def test_a_request_can_go_without_drafts_beside_others_that_have_them(drafting):
    engine, runner, inbox, _ = drafting(tokens=4)
    gate = runner.gate = threading.Semaphore(0)  # until both are there
    without = engine.submit(prompt("Once"), GREEDY.model_copy(update={"drafts": False}))
    with_drafts = engine.submit(prompt("Twice"), GREEDY)
    gate.release(10_000)
    inbox.wait(without, with_drafts)
    assert inbox.ids(without) == solo(prompt("Once"), 60)
    assert inbox.ids(with_drafts) == solo(prompt("Twice"), 60)
    assert inbox.last(without).usage.drafted_tokens == 0
    assert inbox.last(with_drafts).usage.accepted_tokens > 20


def test_the_draft_model_is_closed_with_the_engine(drafting):
    engine, _, _, draft = drafting()
    assert not draft.closed
    assert engine.close()
    assert draft.closed


def test_drafting_that_never_proves_right_is_given_up(drafting):
    engine, _, inbox, _ = drafting(wrong_byte, FakeRunner(slots=1, context=1024), tokens=8)
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0, max_tokens=600))
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("a"), 600)
    assert 0 < engine.counters().drafted_tokens < 300


def test_drafting_that_takes_longer_than_it_saves_is_given_up(drafting):
    engine, _, inbox, _ = drafting(next_byte, FakeRunner(slots=1, context=512), share=3.0)
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0, max_tokens=120))
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("a"), 120)
    assert engine.counters().drafted_tokens < 10  # trials


def test_steps_of_both_models_are_measured(bench):
    runner, draft = FakeRunner(), FakeRunner()
    gate = runner.gate = threading.Semaphore(0)
    engine, _, inbox = bench(runner, draft=DraftSource(draft, 4))
    generations = [engine.submit(prompt(text * 30), GREEDY) for text in ("a", "b")]
    gate.release(10_000)  # both are there before the first step
    inbox.wait(*generations)
    assert [inbox.ids(generation) for generation in generations] == [solo(prompt(text * 30), 60) for text in ("a", "b")]
    payoff = engine._speculation._payoff
    assert payoff.steps.known(2)
    assert payoff.steps.of(2) > 0
    assert not any(payoff.steps.known(size) for size in range(11, 100))  # steps with prefill say nothing
    assert payoff._drafting.of(1) > 0


@pytest.mark.parametrize("rule", [next_byte, sometimes])
def test_many_at_once_are_each_as_alone(drafting, rule):
    engine, runner, inbox, _ = drafting(rule, FakeRunner(slots=8))
    gate = runner.gate = threading.Semaphore(0)
    prompts = [prompt("x" * length) for length in (1, 40, 7, 90, 3, 66, 12, 30)]
    generations = [engine.submit(ids, GREEDY) for ids in prompts]
    gate.release(10_000)
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 60)
    assert max(len(rows) for rows in runner.batches) == 8
    assert engine.counters().accepted_tokens > 0


@pytest.mark.parametrize("count", range(1, 12))
def test_it_ends_exactly_at_max_tokens(drafting, count):
    engine, _runner, inbox, _ = drafting()
    generations = [engine.submit(prompt(text), GenerationParams(temperature=0, max_tokens=count)) for text in ("a", "bc")]
    inbox.wait(*generations)
    for text, generation in zip(("a", "bc"), generations, strict=True):
        assert inbox.ids(generation) == solo(prompt(text), count)
        assert inbox.last(generation).finish_reason == "length"


def test_it_ends_exactly_at_the_end_of_the_context(drafting):
    engine, _, inbox, _ = drafting(runner=FakeRunner(slots=2, context=50))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0))
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("a"), 48)


@pytest.mark.parametrize("place", range(3, 12))
def test_a_stop_string_within_drafts_cuts_there_and_the_next_turn_goes_on_rightly(drafting, place):
    """The memory holds drafts beyond the end, which must be gone before the slot is used again."""
    written = solo(prompt("Hi"), 40)
    stop = bytes(written[20 + place : 22 + place]).decode()
    end = next(n for n in range(1, 40) if bytes(written[n - 1 : n + 1]).decode() == stop)
    engine, _runner, inbox, _ = drafting()
    first = engine.submit(prompt("Hi"), GREEDY.model_copy(update={"stop": (stop,)}))
    inbox.wait(first)
    assert inbox.text(first) == bytes(written[: end - 1]).decode()
    assert inbox.last(first).stop_string == stop
    turn = [*prompt("Hi"), *written[:end], *b"more"]
    second = engine.submit(turn, GREEDY)
    inbox.wait(second)
    assert inbox.started[second].reused_tokens >= len(prompt("Hi")) + end - 1
    assert inbox.ids(second) == solo(turn, 60)


def test_an_end_token_within_drafts_ends(drafting):
    def rule(ids):
        return EOS if len(ids) >= 30 else next_byte(ids)

    engine, _, inbox, _ = drafting(rule, FakeRunner(rule=rule))
    generation = engine.submit(prompt("abc"), GREEDY)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("abc"), 26)
    assert inbox.last(generation).finish_reason == "stop"
    assert engine.counters().accepted_tokens > 0


def test_after_a_cancel_the_slot_is_used_again_rightly(drafting):
    engine, runner, inbox, _ = drafting(sometimes, FakeRunner(slots=1))
    gate = runner.gate = threading.Semaphore(0)
    first = engine.submit(prompt("Hello"), GREEDY)
    while len(inbox.ids(first)) <= 8:
        gate.release()
        time.sleep(FLUSH_S)
    first.cancel()
    gate.release(10_000)
    inbox.wait(first)
    turn = [*prompt("Hello"), *inbox.ids(first), *b"!"]
    second = engine.submit(turn, GREEDY)
    inbox.wait(second)
    assert inbox.started[second].reused_tokens >= len(prompt("Hello")) + len(inbox.ids(first)) - 1
    assert inbox.ids(second) == solo(turn, 60)


@pytest.mark.parametrize("drafted", [next_byte, sometimes])
def test_little_room_is_kept_and_those_who_lost_their_slot_go_on_exactly(drafting, drafted):
    engine, _runner, inbox, _ = drafting(drafted, FakeRunner(slots=4, context=128, capacity=140))
    prompts = [prompt(letter * 20) for letter in "abcdef"]
    generations = [engine.submit(ids, GREEDY) for ids in prompts]
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 60)
    assert engine.counters().accepted_tokens > 0


SAMPLED = GenerationParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=80, seed=11, logprobs=2, ban_eos=True)


def test_what_is_drawn_with_drafts_is_distributed_as_the_model_says(drafting):
    """Second tokens of many seeds, against the probabilities behind the first ones (chi-square, 99.9 %)."""
    engine, _, inbox, _ = drafting(likeliest, FakeRunner(rule=spread))
    begun = prompt("Once")
    params = SAMPLED.model_copy(update={"logprobs": None, "max_tokens": 3, "logit_bias": dict.fromkeys(range(97, 103), 4.0)})
    generations = [engine.submit(begun, params.model_copy(update={"seed": seed})) for seed in range(60)]
    inbox.wait(*generations)
    for first in range(60, 600, 60):
        more = [engine.submit(begun, params.model_copy(update={"seed": first + seed})) for seed in range(60)]
        inbox.wait(*more)
        generations += more
    expected, seen = np.zeros(259), np.zeros(259)
    for generation in generations:
        ids = inbox.ids(generation)
        scores = spread([*begun, ids[0]]).astype(np.float64)
        scores[97:103] += 4.0
        scores[EOS] = -np.inf
        shares = np.exp(scores - scores.max())
        expected += shares / shares.sum()
        seen[ids[1]] += 1
    order = expected.argsort()[::-1]
    few = order[expected[order].cumsum() > len(generations) - 20]  # together one class
    classes = [(seen[place], expected[place]) for place in order if place not in few] + [(seen[few].sum(), expected[few].sum())]
    surprise = sum((got - due) ** 2 / due for got, due in classes)
    freedom = len(classes) - 1
    assert surprise < freedom + 3.1 * (2 * freedom) ** 0.5 + 6
    assert engine.counters().accepted_tokens > 100


@pytest.mark.parametrize("more", [
    {}, {"temperature": 0.3}, {"top_p": 0.8, "min_p": 0.05}, {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "penalty_range": 9},
    {"dry_multiplier": 0.8, "no_repeat_ngram_size": 3}, {"mirostat_mode": 2}, {"xtc_probability": 0.5, "xtc_threshold": 0.1}, {"temperature": 0, "repetition_penalty": 1.5},
])  # fmt: skip
def test_the_same_seed_draws_the_same_text(bench, drafting, more):
    """The sampler draws at each position from what it would see without drafts: its history, its coins, its penalties."""
    params = SAMPLED.model_copy(update=more)
    plain, _, quiet = bench(FakeRunner(rule=spread))
    expected = plain.submit(prompt("Once upon"), params)
    quiet.wait(expected)
    engine, _, inbox, _ = drafting(likeliest, FakeRunner(rule=spread))
    found = engine.submit(prompt("Once upon"), params)
    inbox.wait(found)
    assert inbox.ids(found) == quiet.ids(expected)
    assert inbox.text(found) == quiet.text(expected)
    assert [entry for delta in inbox.deltas[found] for entry in delta.logprobs] == [
        entry for delta in quiet.deltas[expected] for entry in delta.logprobs
    ]
    assert engine.counters().accepted_tokens > 0


def test_a_draft_model_reads_a_long_prompt_in_parts_and_then_drafts(drafting):
    engine, _, inbox, draft = drafting(runner=FakeRunner(slots=2, context=2048, batch=512), batch=512)
    long = prompt("long " * 150)
    generation = engine.submit(long, GREEDY)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(long, 60)
    assert max(sum(len(row.token_ids) for row in rows) for rows in draft.batches) <= 256
    assert engine.counters().accepted_tokens > 0


def test_beyond_the_context_of_the_draft_model_replies_go_on_without(drafting):
    engine, _, inbox, _ = drafting(context=40)
    generation = engine.submit(prompt("abcdefgh"), GREEDY)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("abcdefgh"), 60)
    assert 0 < engine.counters().accepted_tokens < 40


def test_a_draft_model_that_cannot_take_tokens_back_reads_again(drafting):
    engine, _, inbox, draft = drafting(sometimes)
    draft.truncate = lambda slot, length: FakeRunner.truncate(draft, slot, length if length >= len(draft.slots[slot]) else 0)
    generation = engine.submit(prompt("abc"), GREEDY)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("abc"), 60)
    assert engine.counters().accepted_tokens > 20


def test_a_full_draft_model_forgets_who_is_idle(drafting):
    engine, _, inbox, _ = drafting(runner=FakeRunner(slots=4), capacity=100)
    for text in ("one", "two", "three", "four", "five"):
        before = engine.counters().accepted_tokens
        generation = engine.submit(prompt(text), GREEDY)
        inbox.wait(generation)
        assert inbox.ids(generation) == solo(prompt(text), 60)
        assert engine.counters().accepted_tokens > before


class AllOrNothing(FakeRunner):
    """Memory like a recurrent model's: a part of a slot cannot be kept."""

    def truncate(self, slot: int, length: int) -> int:
        return super().truncate(slot, length if length >= len(self.slots[slot]) else 0)


def test_a_model_that_cannot_take_tokens_back_begins_again_and_drafts_no_more(drafting):
    runner = AllOrNothing(slots=2)
    engine, _, inbox, _ = drafting(wrong_byte, runner)
    generations = [engine.submit(prompt(text), GREEDY) for text in ("a", "bc")]
    inbox.wait(*generations)
    assert [inbox.ids(generation) for generation in generations] == [solo(prompt("a"), 60), solo(prompt("bc"), 60)]
    assert 0 < engine.counters().drafted_tokens <= 8


@pytest.mark.parametrize("place", range(5, 10))
def test_what_such_a_model_lost_at_an_end_is_not_reused(drafting, place):
    runner = AllOrNothing(slots=1)
    engine, _, inbox, _ = drafting(next_byte, runner)
    written = solo(prompt("Hi"), 12)
    first = engine.submit(prompt("Hi"), GREEDY.model_copy(update={"stop": (bytes(written[place : place + 3]).decode(),)}))
    inbox.wait(first)
    turn = [*prompt("Hi"), *written]
    second = engine.submit(turn, GREEDY)
    inbox.wait(second)
    assert inbox.ids(second) == solo(turn, 60)


@pytest.mark.parametrize("error", [OutOfMemory("The draft model is full."), RuntimeError("broken")])
def test_a_draft_model_that_fails_costs_no_reply(drafting, error):
    engine, _, inbox, draft = drafting()
    first = engine.submit(prompt("a"), GREEDY)
    inbox.wait(first)
    drafted = engine.counters().drafted_tokens
    draft.fail_with = error
    second = engine.submit(prompt("b"), GREEDY)
    inbox.wait(second)
    assert (inbox.ids(first), inbox.ids(second)) == (solo(prompt("a"), 60), solo(prompt("b"), 60))
    assert engine.counters().drafted_tokens == drafted > 0


def test_out_of_memory_in_a_step_with_drafts_loses_nothing(drafting):
    engine, runner, inbox, _ = drafting(runner=FakeRunner(slots=4, context=128))
    runner.memory_tokens = 150
    prompts = [prompt(letter * 20) for letter in "abcd"]
    generations = [engine.submit(ids, GREEDY) for ids in prompts]
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 60)


def test_sequences_take_turns_while_nothing_is_drafted(drafting):
    """As without a draft model; with drafts everybody decodes in every step, and for a while after them."""
    engine, _, inbox, _ = drafting(wrong_byte, share=5.0)
    crew = engine._scheduler.crew
    assert not crew.is_whole
    inbox.wait(engine.submit(prompt("Once upon"), GREEDY))
    assert not crew.is_whole and engine.counters().drafted_tokens == 0
    engine, _, inbox, _ = drafting()
    inbox.wait(engine.submit(prompt("Once upon"), GREEDY))
    assert engine._scheduler.crew.is_whole and engine.counters().drafted_tokens > 0
    inbox.wait(engine.submit(prompt("Once upon"), GREEDY.model_copy(update={"max_tokens": WHOLE_STEPS + 10, "drafts": False})))
    assert not engine._scheduler.crew.is_whole
