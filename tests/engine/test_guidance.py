"""Guidance: both sides of a reply stay together whatever happens, and each token is chosen from the rows of both."""

from __future__ import annotations

import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from modules.core.errors import ContextOverflow, InvalidRequest, NotOffered, OutOfMemory
from modules.core.model import DraftSource
from modules.core.params import GenerationParams
from modules.engine.guidance import combined, pair
from modules.engine.logits import NumpyRow
from modules.engine.sequence import Sequence
from tests.engine.steady import steady
from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence, step
from tests.fakes import BOS, VOCAB_SIZE, FakeRunner

GREEDY = GenerationParams(temperature=0, max_tokens=30, ban_eos=True)


def spread(ids) -> np.ndarray:
    """A model that is unsure: which tokens are likely depends on all before."""
    return np.random.default_rng(zlib.crc32(np.array(ids, np.int32).tobytes())).normal(0, 2.5, VOCAB_SIZE).astype(np.float32)


def prompt(text: str) -> list[int]:
    return [BOS, *text.encode()]


def log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def defined(positive: np.ndarray, negative: np.ndarray, scale: float) -> np.ndarray:
    """The paper's formula."""
    ours, theirs = log_softmax(positive), log_softmax(negative)
    return scale * (ours - theirs) + theirs


def guided(scale: float, negative: str = "", **more: object) -> GenerationParams:
    return GREEDY.model_copy(update={"guidance_scale": scale, "negative_prompt": negative, "banned_tokens": (256, 257, 258), **more})


def expected(positive: list[int], negative: list[int], scale: float, count: int = 30) -> list[int]:
    """The greedy reply of the unsure model, by the formula and nothing else; special tokens are banned."""
    written: list[int] = []
    for _ in range(count):
        row = defined(spread([*positive, *written]), spread([*negative, *written]), scale)
        written.append(int(row[:256].argmax()))
    return written


# ---- the formula ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 300), scale=st.floats(-0.5, 2.5))
def test_rows_are_combined_as_defined(seed: int, size: int, scale: float) -> None:
    positive, negative = np.random.default_rng(seed).normal(0, 4, (2, size)).astype(np.float32)
    row = combined(NumpyRow(positive), NumpyRow(negative), scale)
    assert np.allclose(row, defined(positive, negative, scale), atol=1e-4)


def test_what_either_side_excludes_stays_excluded() -> None:
    positive, negative = spread([1]), spread([2])
    positive[3] = negative[5] = positive[7] = negative[7] = -np.inf
    row = combined(NumpyRow(positive), NumpyRow(negative), 1.5)
    assert np.flatnonzero(row == -np.inf).tolist() == [3, 5, 7]
    assert not np.isnan(row).any()
    assert np.isfinite(positive).sum() == VOCAB_SIZE - 2, "what the runner gave was not written to"


# ---- both sides stay together --------------------------------------------------------------------------------------


class GuidedMachine(SchedulerMachine):
    """Guided sequences among the others: all rules and invariants hold, and no side is ever without the other."""

    def scheduler_of(self, runner: FakeRunner):
        scheduler = make(runner)
        plan = scheduler.plan

        def checked():
            shares = plan()
            working = {share.sequence: share for share in shares}
            for share in shares:
                if share.sequence.paired and share.completes:
                    (reply,) = (one for one in scheduler.running if share.sequence in one.sides)
                    assert all(working[side].completes and len(working[side].row.token_ids) == 1 for side in reply.sides)
            return shares

        scheduler.plan = checked
        return scheduler

    @rule(
        shared=st.integers(0, 25),
        own=st.lists(st.integers(0, 3), min_size=1, max_size=10),
        negative=st.integers(0, 25),
        behind=st.lists(st.integers(0, 3), min_size=0, max_size=5),
        count=st.integers(1, 40),
        client=st.sampled_from("abc"),
        target=SchedulerMachine.alive,
    )
    def submit_guided(self, shared, own, negative, behind, count, client):
        room = self.runner.capacity_tokens
        positive_ids, negative_ids = [*range(shared), *own], [*range(negative), *behind] or [own[-1]]
        longest = max(len(positive_ids), len(negative_ids))
        count = min(count, self.runner.context_length - longest, (room - len(positive_ids) - len(negative_ids)) // 2)
        new = sequence(positive_ids, max(1, count), client, limit=min(self.runner.context_length, room))
        if count > 0 and self.runner.n_slots > 1:
            pair(new, Sequence(negative_ids, len(negative_ids) + count), 1.5)
        self.all.append(new)
        self.scheduler.submit(new)
        return new

    @invariant()
    def sides_share_their_fate(self):
        for one in getattr(self, "all", ()):
            if one.negative is not None:
                assert (one.slot < 0) == (one.negative.slot < 0)
                assert one.ids[one.prompt_length :] == one.negative.ids[one.negative.prompt_length :]


TestGuidedMachine = GuidedMachine.TestCase
TestGuidedMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_both_sides_get_slots_at_once_or_wait_together() -> None:
    runner = FakeRunner(slots=3)
    scheduler = make(runner)
    first, second, third = sequence([1] * 20), sequence([2] * 20), sequence([3] * 20)
    for one, negative in ((first, [7]), (second, [8] * 30)):
        pair(one, Sequence(negative, len(negative) + 8), 1.5)
    for one in (first, second, third):
        scheduler.submit(one)
    step(scheduler, runner)
    assert [one.slot >= 0 for one in (first, second, second.negative, third)] == [True, False, False, False]  # nobody overtakes
    run_all(scheduler, runner)
    for one in (first, second, third):
        check_output(one)


def test_two_guided_replies_that_begin_alike_do_not_wait_for_each_other_for_ever() -> None:
    """The last token of a side comes with the other side, so who shares all of it must not wait for that one."""
    runner = FakeRunner(slots=4, batch=16)
    scheduler = make(runner)
    system = list(range(60))
    first, second = sequence([*system, 1]), sequence([*system, 1, 2])
    pair(first, Sequence([*system, 1, 2, 3], 80), 1.5)
    pair(second, Sequence(list(system), 80), 1.5)
    for one in (first, second):
        scheduler.submit(one)
    run_all(scheduler, runner, limit=200)
    check_output(first)
    check_output(second)


def test_a_slot_that_others_need_is_given_up_by_both_sides() -> None:
    runner = FakeRunner(slots=2)
    scheduler = make(runner)
    talks = [sequence([number] * 20) for number in range(2)]
    for talk in talks:
        scheduler.submit(talk)
    run_all(scheduler, runner)
    onward = sequence([*talks[1].ids, 7], 20)
    pair(onward, Sequence([9] * 10, 30), 1.5)
    scheduler.submit(onward)
    for _ in range(5):
        step(scheduler, runner)
    assert (onward.slot, onward.negative.slot) == (1, 0)
    scheduler.empty_for(0, 10)
    assert not runner.slots[0]
    assert (onward.slot, onward.negative.slot) == (-1, -1)
    run_all(scheduler, runner)
    check_output(onward)


# ---- the engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [-0.5, 0.0, 1.5, 2.5])
@pytest.mark.parametrize("negative", ["", "Rude and long, longer than the other one."])
def test_a_guided_reply_is_written_from_both_rows(bench, scale, negative):
    engine, runner, inbox = bench(FakeRunner(rule=spread))
    generation = engine.submit(prompt("Once"), guided(scale, negative, logprobs=1))
    inbox.wait(generation)
    behind = prompt(negative) if negative else [ord("e")]
    written = expected(prompt("Once"), behind, scale)
    assert inbox.ids(generation) == written
    usage = inbox.last(generation).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 30)
    first = inbox.deltas[generation][0].logprobs[0]
    row = log_softmax(defined(spread(prompt("Once")), spread(behind), scale))
    assert abs(first.logprob - row[written[0]]) < 1e-4
    assert sorted(map(len, runner.slots)) == [0, 0, *sorted((4 + 30, len(behind) + 29))]


def test_a_scale_of_one_takes_one_slot_and_changes_nothing(bench):
    engine, runner, inbox = bench(FakeRunner(rule=spread))
    plain = engine.submit(prompt("Once"), guided(1.0))
    inbox.wait(plain)
    engine.call(lambda: None)
    same = engine.submit(prompt("Once"), guided(1.0, "Rude."))
    inbox.wait(same)
    assert inbox.ids(same) == inbox.ids(plain)
    assert sum(map(bool, runner.slots)) == 1


def test_guided_and_plain_replies_in_little_room_are_each_as_alone(bench):
    """Preemptions, shared beginnings and a cancelled one: nobody's text is another's."""
    engine, runner, inbox = bench(FakeRunner(slots=5, context=96, capacity=200, batch=24, rule=spread))
    gate = runner.gate = threading.Semaphore(0)
    asked = []
    for number in range(6):
        text = "Be kind. " + "abcdef"[number] * (3 + 4 * number)
        negative = ("", "Be rude.", "Be kind. a")[number % 3]
        asked.append((engine.submit(prompt(text), guided(1.5, negative)), prompt(text), prompt(negative) if negative else prompt(text)[-1:]))
    plain = engine.submit(prompt("Be kind."), guided(1.0))
    gone = engine.submit(prompt("Be kind, and go."), guided(2.0, "Be kind, and stay."))
    gate.release(40)
    for _ in range(41):
        assert runner.entered.acquire(timeout=10)
    gone.cancel()
    gate.release(100_000)
    inbox.wait(plain, gone, *(generation for generation, _, _ in asked))
    for generation, positive, negative in asked:
        assert inbox.ids(generation) == expected(positive, negative, 1.5)
    assert inbox.ids(plain) == expected(prompt("Be kind."), prompt("Be kind."), 1.0)
    assert (engine.counters().running, engine.counters().waiting) == (0, 0)


class Short(FakeRunner):
    """Runs out of memory when the first beginning is copied."""

    refusals = 1

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise OutOfMemory("No room for a copy.")
        return super().copy_prefix(source, target, length)


@pytest.mark.parametrize("sides", [("Be rude, as rude as you can be!", "Once"), ("Once", "Be rude, as rude as you can be!")])
def test_a_side_that_fails_to_begin_harms_neither(bench, sides):
    runner = Short(rule=spread)
    engine, _, inbox = bench(runner)
    before = engine.submit(prompt("Be rude, as rude as you can be, and then some more, again and again."), guided(1.0))
    inbox.wait(before)
    generation = engine.submit(prompt(sides[0]), guided(1.5, sides[1]))
    inbox.wait(generation)
    assert runner.refusals == 0
    assert inbox.ids(generation) == expected(prompt(sides[0]), prompt(sides[1]), 1.5)


def test_a_failed_step_ends_a_guided_reply_once(bench):
    runner = FakeRunner(rule=spread)
    engine, _, inbox = bench(runner)
    runner.fail_with = ValueError("broken")
    failed = engine.submit(prompt("Once"), guided(1.5))
    inbox.wait(failed)
    assert "broken" in str(inbox.errors[failed])
    again = engine.submit(prompt("Once"), guided(1.5))
    inbox.wait(again)
    assert inbox.ids(again) == expected(prompt("Once"), [ord("e")], 1.5)


@pytest.mark.parametrize("memory", [12, 40])
def test_less_memory_than_promised_ends_a_guided_reply_that_is_alone_with_a_sentence(bench, memory):
    runner = FakeRunner(rule=spread)
    runner.memory_tokens = memory
    engine, _, inbox = bench(runner)
    generation = engine.submit(prompt("Once"), guided(1.5, "Rude and long."))
    inbox.wait(generation)
    assert "ran out of memory" in str(inbox.errors[generation])
    assert inbox.ids(generation) == expected(prompt("Once"), prompt("Rude and long."), 1.5)[: (memory - 5 - 15) // 2 + 1 if memory == 40 else 0]
    assert (engine.counters().running, engine.counters().waiting) == (0, 0)


def test_nothing_is_drafted_for_a_guided_reply(bench):
    draft = FakeRunner(rule=lambda ids: int(spread(ids).argmax()))
    engine, _, inbox = bench(FakeRunner(rule=spread), draft=DraftSource(draft, 4))
    steady(engine)
    generation, beside = engine.submit(prompt("Once"), guided(1.5)), engine.submit(prompt("Twice"), guided(1.0))
    inbox.wait(generation, beside)
    assert inbox.last(generation).usage.drafted_tokens == 0 < inbox.last(beside).usage.drafted_tokens
    assert inbox.ids(generation) == expected(prompt("Once"), [ord("e")], 1.5)


@pytest.mark.parametrize("text", ["Once upon", ""])
def test_the_prompt_is_reported_without_guidance(bench, text):
    engine, _, inbox = bench(FakeRunner(rule=spread))
    generation = engine.submit(prompt(text), guided(1.5, "Rude.", prompt_logprobs=0))
    inbox.wait(generation)
    told = [entry.logprob for delta in inbox.deltas[generation] for entry in delta.prompt_logprobs]
    ids = prompt(text)
    assert np.allclose(told, [0.0, *(log_softmax(spread(ids[:place]))[ids[place]] for place in range(1, len(ids)))], atol=1e-4)
    assert inbox.ids(generation) == expected(ids, prompt("Rude."), 1.5)


def test_the_likeliest_next_tokens_are_guided_too(bench):
    engine, _, inbox = bench(FakeRunner(rule=spread))
    generation = engine.submit(prompt("Once"), GenerationParams(guidance_scale=2, negative_prompt="Rude."), probe=3)
    inbox.wait(generation)
    row = log_softmax(defined(spread(prompt("Once")), spread(prompt("Rude.")), 2))
    assert [entry.token_id for entry in inbox.last(generation).logprobs] == (-row).argsort()[:3].tolist()


# ---- limits --------------------------------------------------------------------------------------------------------


def test_what_is_not_possible_is_refused_with_a_sentence(bench):
    engine, _, inbox = bench(FakeRunner(slots=1))
    with pytest.raises(NotOffered, match="in 2 slots at once, and the model has 1. Load it with 2 slots or more.*guidance_scale to 1") as refused:
        engine.submit(prompt("Once"), guided(1.5))
    assert refused.value.details["field"] == "guidance_scale"
    only = engine.submit(prompt("Once"), guided(1.5, prompt_only=True))  # nothing is written, so nothing is guided
    inbox.wait(only)
    engine, _, _ = bench(FakeRunner(slots=2, context=64, capacity=64))
    with pytest.raises(InvalidRequest, match="set guidance_scale to 1, or deterministic to false"):
        engine.submit(prompt("Once"), guided(1.5, deterministic=True))
    with pytest.raises(ContextOverflow, match="negative prompt has 71 tokens; the context is 64 here.*Shorten the negative prompt") as refused:
        engine.submit(prompt("Once"), guided(1.5, "x" * 70))
    assert refused.value.details["field"] == "negative_prompt"
    with pytest.raises(ContextOverflow, match="prompt has 41 tokens and the negative prompt 22; the model holds 64 in all.*Shorten one"):
        engine.submit(prompt("o" * 40), guided(1.5, "x" * 21))


def test_a_reply_ends_where_one_side_has_no_more_room(bench):
    engine, _, inbox = bench(FakeRunner(slots=2, context=64, capacity=64, rule=spread))
    generation = engine.submit(prompt("Once"), guided(1.5, "x" * 28, max_tokens=0))
    inbox.wait(generation)
    assert len(inbox.ids(generation)) == (64 - 5 - 29) // 2
    assert inbox.last(generation).finish_reason == "length"
    engine, _, inbox = bench(FakeRunner(slots=2, context=64, rule=spread))
    generation = engine.submit(prompt("Once"), guided(1.5, "x" * 50, max_tokens=0))
    inbox.wait(generation)
    assert len(inbox.ids(generation)) == 64 - 51


def test_the_token_that_begins_a_text_stands_once(bench):
    engine, _, inbox = bench(FakeRunner(rule=spread))
    generation = engine.submit(prompt("Once"), guided(1.5, "<s>"))
    inbox.wait(generation)
    assert inbox.ids(generation) == expected(prompt("Once"), [BOS], 1.5)


async def test_a_model_with_one_slot_says_that_it_takes_no_guidance(start):
    one, more = await start(slots=1), await start(slots=2)
    assert set(one.card.ignores) == {"guidance_scale", "negative_prompt"}
    assert one.card.ignores["guidance_scale"] == "Guidance writes in 2 slots at once, and this model has 1."
    assert more.card.ignores == {}
