"""How far drafting goes, as reckoned from measured steps and from how often drafts were right."""

from __future__ import annotations

from itertools import pairwise

import pytest

from modules.engine.payoff import FIRST_WAIT, LONGEST_WAIT, DraftRecord, Payoff, StepTimes


def payoff(step_s, draft_s: float, most: int = 8, sequences: int = 1) -> Payoff:
    """With steps that take `step_s(tokens)` seconds, and each draft of all sequences `draft_s`."""
    drafting = StepTimes()
    drafting.note(sequences, draft_s)
    made = Payoff(most, drafting)
    for size in range(sequences, sequences * (most + 1) + 1):
        for _ in range(3):
            made.steps.note(size, step_s(size))
    return made


def settled(made: Payoff, right: float, sequences: int = 1, rounds: int = 60) -> list[DraftRecord]:
    """Records after so many rounds of whole drafts of which such a share of tokens is right, the first wrong one ending each."""
    records = [DraftRecord() for _ in range(sequences)]
    chance = 0.0
    for _ in range(rounds):
        made.decide(records)
        for record in records:
            accepted = 0
            while record.count and accepted < record.count:
                chance += right
                if chance < 1:
                    break
                chance -= 1
                accepted += 1
            if record.count:
                made.note(record, record.count, accepted)
    made.decide(records)
    return records


def flat(tokens: int) -> float:
    return 0.010


def linear(tokens: int) -> float:
    return 0.010 * tokens


def test_times_are_medians_with_straight_lines_between():
    times = StepTimes()
    assert times.of(3) == 0
    for seconds in (0.01, 0.01, 5.0):  # one that was disturbed
        times.note(1, seconds)
    times.note(5, 0.03)
    assert [times.of(size) for size in (1, 2, 3, 5, 9)] == pytest.approx([0.01, 0.015, 0.02, 0.03, 0.03])
    assert times.known(1)
    assert not times.known(5)


def test_nothing_is_drafted_before_a_plain_step_was_measured():
    made = Payoff(4, StepTimes())
    record = DraftRecord()
    made.decide([record])
    assert record.count == 0


def test_where_more_tokens_cost_nothing_drafts_are_as_long_as_they_are_likely():
    assert settled(payoff(flat, 0.0005), right=0.97)[0].count == 8
    assert 1 <= settled(payoff(flat, 0.0005), right=0.6)[0].count <= 5


def test_where_every_token_costs_a_step_nothing_is_drafted():
    assert settled(payoff(linear, 0.0005), right=0.97)[0].count == 0


def test_a_draft_model_as_slow_as_the_model_does_not_pay():
    assert settled(payoff(flat, 0.010), right=0.97)[0].count == 0


def test_a_size_that_was_never_tried_is_tried_for_one_step():
    made, record = Payoff(5, StepTimes()), DraftRecord()
    for _ in range(3):
        made.steps.note(1, 0.010)
    made.decide([record])
    assert record.count == 3  # nothing speaks against it yet
    made.steps.note(4, 0.100)
    made.note(record, 3, 3)
    made.decide([record])
    assert record.count == 0


def test_drafts_grow_by_doubling_the_largest_step_that_was_measured():
    made, record, counts = Payoff(16, StepTimes()), DraftRecord(), []
    for _ in range(3):
        made.steps.note(1, 0.010)
    for _ in range(8):
        made.decide([record])
        counts.append(record.count)
        made.steps.note(1 + record.count, 0.010)
        made.note(record, record.count, record.count)
    assert counts[0] == 3
    assert max(counts) == 16
    assert all(after <= 2 * before + 3 for before, after in pairwise(counts))


def test_only_the_sequence_that_can_be_guessed_is_drafted_for():
    made = payoff(lambda tokens: 0.010 + 0.002 * tokens, 0.0002, sequences=2)
    easy, hard = DraftRecord(), DraftRecord()
    for _ in range(80):
        made.decide([easy, hard])
        if easy.count:
            made.note(easy, easy.count, easy.count)
        if hard.count:
            made.note(hard, hard.count, 0)
    assert easy.count > 0
    assert hard.count == 0


def test_where_it_cannot_pay_however_right_it_is_tried_again_very_seldom():
    made, record = payoff(linear, 0.0005), DraftRecord()
    tried = []
    for step in range(3 * LONGEST_WAIT):
        made.decide([record])
        if record.count:
            tried.append(step)
            made.note(record, record.count, record.count)
    assert len(tried) == 2
    assert tried[0] >= LONGEST_WAIT


def test_what_was_given_up_is_tried_again_ever_more_seldom_and_taken_up_when_it_is_right():
    made = payoff(lambda tokens: 0.010 + 0.001 * tokens, 0.002)
    record = settled(made, right=0.0, rounds=FIRST_WAIT // 2)[0]
    tried = []
    for step in range(2000):
        made.decide([record])
        if record.count:
            tried.append(step)
            made.note(record, record.count, 0)
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= LONGEST_WAIT
    while not record.count:
        made.decide([record])
    for _ in range(40):
        made.decide([record])
        if record.count:
            made.note(record, record.count, record.count)
    assert record.count > 2


def test_what_the_drafter_is_sure_of_is_hoped_for_more_and_counted_apart():
    made = payoff(lambda tokens: 0.010 * (1 + 0.7 * (tokens - 1)), 0.0, most=8)  # a draft must be right three times in four
    unsure, sure = DraftRecord(), DraftRecord(sure=True)
    for record in (unsure, sure):
        made.decide([record])
    assert unsure.count == 0 < sure.count
    for _ in range(20):
        made.note(unsure, 2, 0)
    made.decide([sure])
    assert sure.count > 0
    for _ in range(20):
        made.note(sure, 8, 0)
    made.decide([DraftRecord(sure=True)])
    assert made._decided_for and not made._all[True].right > 1


def test_no_more_is_drafted_than_is_offered():
    made, little, much, none = payoff(flat, 0.0, most=8, sequences=3), DraftRecord(offered=2), DraftRecord(offered=7), DraftRecord(offered=0)
    for _ in range(30):
        made.decide([little, much, none])
        for record in (little, much):
            made.note(record, record.count, record.count)
    assert (little.count, much.count, none.count) == (2, 7, 0)


def test_what_was_decided_before_steps_without_an_offer_does_not_count_behind_them():
    made = payoff(flat, 0.0)
    record = DraftRecord(offered=8)
    settled(made, right=0.97)
    made.decide([record])
    assert record.count == 8
    record.count = 0  # as it would be for another reply whose record lies at the same place
    made.pass_over([record])
    made.decide([record])
    assert record.count == 8
