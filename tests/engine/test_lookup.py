"""Drafts looked up in what was written before: the right place, and the same text as without."""

from __future__ import annotations

import threading

import pytest

from modules.core.model import DraftSource, ImageToken
from modules.core.params import GenerationParams
from modules.engine.lookup import READ_AT_ONCE, SURE_TOKENS, LookupDrafter
from modules.engine.payoff import StepTimes
from modules.engine.sequence import Sequence
from tests.engine.steady import steady
from tests.fakes import BOS, EOS, FakeRunner, solo


def sequence(ids: list[int], slot: int = 0, ends: frozenset[int] = frozenset()) -> Sequence:
    made = Sequence(ids, 10_000, end_ids=ends)
    made.slot = slot
    return made


def guess(drafter: LookupDrafter, of: Sequence, count: int = 4) -> list[int]:
    return drafter.propose([(of, count)])[0]


def test_what_followed_the_last_three_tokens_at_their_latest_place_is_proposed():
    text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 8, 9, 1, 2, 3]
    assert guess(LookupDrafter(), sequence(text)) == [6, 7, 8, 9]
    assert guess(LookupDrafter(), sequence(text), 2) == [6, 7]


@pytest.mark.parametrize("text", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 2, 3], [5, 1, 2, 3, 9, 1, 2]])
def test_new_tokens_have_no_guess(text):
    assert guess(LookupDrafter(), sequence(text)) == []


def test_an_image_that_followed_is_no_guess():
    image = [ImageToken(number) for number in range(500, 504)]
    assert guess(LookupDrafter(), sequence([1, 2, 3, *image, 4, 1, 2, 3])) == []
    assert guess(LookupDrafter(), sequence([1, 2, 3, 4, *image, 5, 1, 2, 3])) == [4]


def test_a_text_that_repeats_itself_goes_on_repeating():
    assert guess(LookupDrafter(), sequence([1, 2, 1, 2, 1, 2]), 5) == [1, 2, 1, 2, 1]
    assert guess(LookupDrafter(), sequence([7, 7, 7, 7]), 3) == [7, 7, 7]


def test_a_longer_match_is_taken_before_a_later_one_and_guessed_further():
    run = list(range(10, 20))
    text = [*run, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 17, 18, 19, 50, 51, 52, 53, 54, 55, 56, 57, *run]
    assert guess(LookupDrafter(), sequence(text), 16) == [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 17, 18, 19, 50, 51, 52]
    assert guess(LookupDrafter(), sequence([*text[:-10], 1, 17, 18, 19]), 16) == [50, 51, 52, 53, 54, 55]


def test_a_guess_stops_before_an_end():
    assert guess(LookupDrafter(), sequence([1, 2, 3, 4, EOS, 1, 2, 3], ends=frozenset({EOS}))) == [4]


def test_a_slot_that_another_sequence_took_starts_anew():
    drafter = LookupDrafter()
    first = sequence([1, 2, 3, 4, 1, 2, 3])
    assert guess(drafter, first) == [4, 1, 2, 3]
    assert guess(drafter, sequence([9, 8, 1, 2, 3])) == []
    first.ids += [5, 1, 2, 3]
    assert guess(drafter, first) == [5, 1, 2, 3]


def copies(ids: list[int]) -> int:
    """A model that writes what stands behind the word "copy" at the beginning, over and over, with a hitch now and then."""
    if len(ids) < 25:
        return 33
    source = ids[5:25]
    written = len(ids) - 25
    return 33 if written % 17 == 16 else source[written % 20]


def copied(prompt: list[int], count: int) -> list[int]:
    """What that model writes behind a prompt."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(copies(ids))
    return ids[len(prompt) :]


@pytest.mark.parametrize("together", [1, 4])
def test_a_reply_that_repeats_its_prompt_takes_fewer_steps_and_is_the_same(bench, together):
    engine, runner, inbox = bench(FakeRunner(rule=copies, context=512), draft=DraftSource(None, 6))
    steady(engine, share=0.0)
    gate = runner.gate = threading.Semaphore(0)  # until all are there
    prompts = [[BOS, *b"copy", *(f"{number}" + "bcdefghijklmnopqrstu").encode()][:25] for number in range(together)]
    generations = [engine.submit(prompt, GenerationParams(temperature=0, max_tokens=200)) for prompt in prompts]
    gate.release(10_000)
    inbox.wait(*generations)
    for prompt, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == copied(prompt, 200)
    counters = engine.counters()
    assert counters.accepted_tokens > 100 * together
    assert counters.steps < 90


def test_a_text_without_repeats_is_the_same_and_costs_nothing(bench):
    engine, runner, inbox = bench(FakeRunner(), draft=DraftSource(None, 4))
    steady(engine, share=0.0)
    prompt = [BOS, *b"Once"]
    generation = engine.submit(prompt, GenerationParams(temperature=0, max_tokens=100))
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt, 100)
    assert sum(len(row.token_ids) for rows in runner.batches for row in rows) <= len(prompt) + 100 + engine.counters().drafted_tokens


def test_it_is_sure_of_what_followed_a_long_match():
    run, one = list(range(10, 18)), LookupDrafter()
    long, short = sequence([*run, 30, 31, 32, *run]), sequence([*run, 30, 31, 32, *run[-7:]], slot=1)
    assert guess(one, long)[0] == guess(one, short)[0] == 30
    assert (long.record.sure, short.record.sure) == (True, False)


def test_a_copy_is_drafted_from_its_beginning_where_few_tokens_do_not_pay(bench):
    """A step of three takes two and a half times as long, one of nine nearly four times: a trial of two says no, and a long match says that eight will be right."""
    engine, _, inbox = bench(FakeRunner(rule=copies, context=512), draft=DraftSource(None, 16))
    steps = engine._speculation._payoff.steps = Known({1: 0.010, 3: 0.025, 9: 0.038, 17: 0.060})
    prompt = [BOS, *b"copy", *b"1bcdefghijklmnopqrst"][:25]
    generation = engine.submit(prompt, GenerationParams(temperature=0, max_tokens=200))
    inbox.wait(generation)
    usage = inbox.last(generation).usage
    assert usage.accepted_tokens > 40
    assert steps.reach > 16


@pytest.mark.parametrize("same", range(1, 11))
def test_who_is_careful_guesses_only_what_followed_a_long_match(same):
    run, careful = list(range(10, 20)), LookupDrafter(only_sure=True)
    text = sequence([*run, 30, 31, 32, *run[-same:]])
    assert guess(careful, text) == ([30, 31, 32, *run[-same:]][:4] if same >= SURE_TOKENS else [])
    assert not careful._seen[0].short


@pytest.mark.parametrize("careful", [False, True])
def test_a_long_prompt_is_looked_through_in_several_steps(careful):
    """So that who writes beside it does not stand still; what is found meanwhile is right."""
    run, drafter = list(range(10, 20)), LookupDrafter(only_sure=careful)
    text = sequence([*range(1000, 1000 + READ_AT_ONCE), *run, 30, 31, *range(50_000, 50_000 + 2 * READ_AT_ONCE), *run])
    found = [guess(drafter, text, 2) for _ in range(5)]
    assert found == [[], [30, 31], [30, 31], [30, 31], [30, 31]]
    assert drafter._seen[0].read == len(text.ids)


def test_several_long_prompts_share_what_is_looked_through_before_a_step():
    run, drafter = list(range(10, 20)), LookupDrafter(only_sure=True)
    texts = [sequence([*range(1000 * slot, 1000 * slot + READ_AT_ONCE), *run, 30, 31, *run], slot=slot) for slot in range(3)]
    wanted = [(text, 2) for text in texts]
    assert [sum(seen.read for seen in drafter._seen.values()) for _ in range(2) if drafter.propose(wanted)] == [READ_AT_ONCE + 3 * 3, 2 * READ_AT_ONCE + 3 * 3]
    for _ in range(2):
        found = drafter.propose(wanted)
    assert found == [[30, 31]] * 3


def test_who_has_ended_is_forgotten():
    drafter, first, second = LookupDrafter(), sequence([1, 2, 3, 4, 1, 2, 3]), sequence([1, 2, 3, 5, 1, 2, 3], slot=1)
    drafter.propose([(first, 4), (second, 4)])
    first.slot = -1
    assert guess(drafter, second) == [5, 1, 2, 3]
    assert list(drafter._seen) == [1]


def test_unasked_a_reply_with_a_seed_is_not_drafted_and_others_are(bench):
    """Two replies that stand in one step: only the one whose tokens nobody may want again is written in longer steps."""
    engine, runner, inbox = bench(FakeRunner(rule=copies, context=512), draft=DraftSource(None, 6, is_careful=True))
    steady(engine, share=0.0)
    gate = runner.gate = threading.Semaphore(0)  # until all are there
    prompts = [[BOS, *b"copy", *(f"{number}" + "bcdefghijklmnopqrstu").encode()][:25] for number in range(3)]
    wishes: list[dict[str, object]] = [{}, {"seed": 3}, {"drafts": False}]
    generations = [
        engine.submit(prompt, GenerationParams(temperature=0, max_tokens=200, **wish)) for prompt, wish in zip(prompts, wishes, strict=True)
    ]
    gate.release(10_000)
    inbox.wait(*generations)
    for prompt, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == copied(prompt, 200)
    accepted, *none = [inbox.last(generation).usage.accepted_tokens for generation in generations]
    assert accepted > 60
    assert none == [0, 0]


def test_who_was_told_to_draft_does_so_with_a_seed_too(bench):
    engine, _, inbox = bench(FakeRunner(rule=copies, context=512), draft=DraftSource(None, 6))
    steady(engine, share=0.0)
    generation = engine.submit([BOS, *b"copy", *b"1bcdefghijklmnopqrst"][:25], GenerationParams(temperature=0, max_tokens=200, seed=3))
    inbox.wait(generation)
    assert inbox.last(generation).usage.accepted_tokens > 100


class Known(StepTimes):
    """Steps whose times are known and stay."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        for size, each in seconds.items():
            for _ in range(3):
                super().note(size, each)

    def note(self, size: int, seconds: float) -> None:
        assert size > 0 <= seconds
