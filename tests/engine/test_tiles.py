"""Few tokens of a prompt that are read sooner as part of a whole tile: when that pays, and that texts stay what they are."""

from __future__ import annotations

import pytest
from hypothesis import settings

from modules.core.model import ImageToken
from modules.engine.pace import LONGEST_CHUNK_S, MIN_CHUNK_TOKENS
from modules.engine.scheduler import BEGUN_TOKENS
from modules.engine.shares import Share
from modules.engine.tiles import RENEW_TIMES, Tiles
from tests.engine.test_scheduler import SchedulerMachine, check_output, make, run_all, sequence, step
from tests.fakes import FakeRunner

ROWS = 64
SLOW, QUICK = 0.01, 0.004  # seconds for each token, without tiles and in them


def measured(depth: int = 1000, parts: float = SLOW, whole: float = QUICK) -> Tiles:
    tiles = Tiles(ROWS)
    tiles.note(512, depth, 512 * whole)
    tiles.note(30, depth, 30 * parts)
    return tiles


def tiled(**options) -> tuple[FakeRunner, object]:
    """A runner whose steps are known to be slow where they are small."""
    runner = FakeRunner(slots=1, context=4096, batch=512, **options)
    runner.tile_rows = ROWS
    scheduler = make(runner)
    scheduler.pace.tiles = measured()
    return runner, scheduler


def next_turn(ids: list[int]) -> tuple:
    """A talk and its next turn of 40 tokens, which was just admitted; with what runs them."""
    runner, scheduler = tiled()
    first = sequence(ids)
    scheduler.submit(first)
    run_all(scheduler, runner)
    scheduler.pace.tiles = measured()
    second = sequence([*first.ids, *[8] * 40])
    scheduler.submit(second)
    scheduler.admit()
    return runner, scheduler, first, second


def test_a_tile_pays_only_where_its_time_is_less():
    tiles = measured()
    assert not tiles.pays(28, 1000)  # 64 at 4 ms take longer than 28 at 10
    assert tiles.pays(29, 1000)
    assert tiles.pays(63, 1000)
    assert not tiles.pays(64, 1000)  # is one
    assert not tiles.pays(1, 1000)  # a reply that goes on
    assert not tiles.pays(63, 40)  # not so many are known


@pytest.mark.parametrize(("parts", "asked", "least"), [(1000, 1000, 29), (1000, 5000, 29), (1000, 1600, 29), (0, 1000, 64), (5000, 1000, 64)])
def test_what_few_tokens_take_where_they_were_not_measured_is_guessed_from_where_they_were(parts, asked, least):
    """As many times as long as in tiles, where both are known less deep; deeper than asked says nothing."""
    tiles = Tiles(ROWS)
    for depth, times in ((0, 1), (1000, 2), (5000, 6)):
        tiles.note(512, depth, 512 * QUICK * times)
    tiles.note(30, parts, 30 * {0: 1.05 * QUICK, 1000: 2 * SLOW, 5000: 6 * SLOW}[parts])
    assert [tokens for tokens in range(2, 65) if tiles.pays(tokens, asked)][:1] == ([least] if least < ROWS else [])


def test_nothing_is_assumed_before_both_were_measured():
    tiles = Tiles(ROWS)
    tiles.note(512, 0, 512 * QUICK)
    assert not tiles.pays(60, 1000)
    assert not tiles.pays(60, 5000), "read alone, and so measured"
    tiles = Tiles(ROWS)
    assert not tiles.pays(60, 1000)
    tiles.note(20, 1000, 0.2)
    assert not tiles.pays(60, 1000)
    tiles.note(512, 1000, 2.0)
    assert tiles.pays(60, 1000)
    tiles.note(5, 1000, 0.0)  # too few to say anything
    assert tiles.pays(60, 1000)
    tiles = measured(parts=QUICK)
    assert not tiles.pays(60, 1000), "what was measured there counts"
    assert not any(Tiles().pays(60, 1000) for _ in range(3))
    assert [Tiles().cut(530, 512), Tiles().at_least(3, 1000, 1.0)] == [512, 3]


def test_what_is_known_is_measured_again_now_and_then():
    tiles = measured()
    assert [tiles.pays(60, 1000) for _ in range(RENEW_TIMES)].count(False) == 1
    for _ in range(20):
        tiles.note(30, 1000, 30 * QUICK)
    assert not tiles.pays(60, 1000)


def test_beside_replies_a_tile_is_read_where_each_token_is_much_cheaper():
    tiles = measured()
    assert tiles.at_least(16, 1000, LONGEST_CHUNK_S) == ROWS
    assert tiles.at_least(12, 1000, ROWS * QUICK - 0.01) == 12  # a pause that is too long
    assert tiles.at_least(13, 1000, ROWS * QUICK - 0.01) == ROWS  # and here that of the few is nearly as long
    assert tiles.at_least(200, 1000, LONGEST_CHUNK_S) == 200
    assert measured(parts=1.5 * QUICK).at_least(16, 1000, LONGEST_CHUNK_S) == 16
    assert tiles.at_least(13, 1600, ROWS * QUICK - 0.01) == 13  # of which nothing is known there
    untried = Tiles(ROWS)
    untried.note(30, 0, 30 * SLOW)
    assert untried.at_least(16, 600, LONGEST_CHUNK_S) == ROWS  # to know it
    assert untried.at_least(16, 600, ROWS * SLOW - 0.01) == 16


@pytest.mark.parametrize(("pending", "most", "count"), [(530, 512, 466), (512, 512, 512), (576, 512, 512), (1000, 512, 512), (130, 100, 100), (60, 512, 60)])
def test_what_is_left_of_a_prompt_is_a_whole_tile(pending, most, count):
    assert Tiles(ROWS).cut(pending, most) == count


def test_a_turn_of_a_few_tokens_takes_known_ones_along():
    runner, scheduler, first, second = next_turn([7] * 2000)
    assert len(scheduler.plan()[0].row.token_ids) == ROWS
    assert (second.reused, second.computed) == (len(first.ids) - 1, len(second.ids) - ROWS)
    run_all(scheduler, runner)
    check_output(second)


def test_now_and_then_a_turn_is_read_alone_to_know_what_that_takes():
    _, scheduler, first, second = next_turn([7] * 2000)
    scheduler.pace.tiles._taken = RENEW_TIMES - 1
    assert len(scheduler.plan()[0].row.token_ids) == len(second.ids) - len(first.ids) + 1
    assert not second.widened


def test_what_cannot_be_read_at_once_takes_nothing_along():
    """Where a whole tile takes too long beside a reply, the few tokens would be many and still read in small pieces."""
    runner = FakeRunner(slots=2, context=8192, batch=512)
    runner.tile_rows, runner.mixes_slots = ROWS, False
    scheduler = make(runner)
    first = sequence([7] * 2000)
    scheduler.submit(first)
    run_all(scheduler, runner)
    talking = sequence([1, 2, 3], 3000)
    scheduler.submit(talking)
    for _ in range(BEGUN_TOKENS + 2):
        step(scheduler, runner)
    scheduler.pace.tiles, scheduler.pace.prefill_s_per_token = measured(1900, parts=0.035, whole=0.02), 0.02
    turn = sequence([*first.ids, *[8] * 40])
    scheduler.submit(turn)
    scheduler.admit()
    assert len(scheduler.plan()[-1].row.token_ids) == MIN_CHUNK_TOKENS
    assert turn.computed == len(first.ids) - 1
    run_all(scheduler, runner)
    check_output(turn)


def test_an_image_is_never_cut():
    _, _, first, second = next_turn([*[7] * 1900, *(ImageToken(50) for _ in range(100))])
    assert second.computed == len(first.ids) - 1


@pytest.mark.parametrize("length", [3000, 3001, 3037])
def test_a_long_prompt_beside_a_reply_is_read_in_tiles_to_its_end(length):
    runner = FakeRunner(slots=2, context=4096, batch=512)
    runner.tile_rows, runner.mixes_slots = ROWS, False
    scheduler = make(runner)
    talking = sequence([1, 2, 3], 3000)
    scheduler.submit(talking)
    for _ in range(BEGUN_TOKENS + 2):
        step(scheduler, runner)
    reading = sequence((list(range(200)) * 16)[:length], 5)
    scheduler.submit(reading)
    counts = []

    def taken(shares: list[Share]) -> float:
        count = len(shares[-1].row.token_ids)
        assert len(shares) == 1, "what decodes would be computed with the first of the prompt's tokens, and that one alone takes long"
        if count > 1:
            counts.append(count)
        return 0.01 + count * (0.001 + 2e-6 * reading.computed) * (5 if count < ROWS else 1)

    while reading.produced == 0:
        step(scheduler, runner, taken)
    *before, last = counts
    assert set(before[-20:]) == {ROWS}, "each of these steps is a tile, and none of them a long one"
    assert last == ROWS or last < 0.4 * ROWS, "a few are read sooner alone"
    assert sum(count < ROWS for count in before) <= 1, "once, to know what that takes"
    assert max(counts) < 4 * ROWS
    assert talking.produced >= BEGUN_TOKENS + len(counts), "between two of them a token is written"
    run_all(scheduler, runner)
    check_output(talking)
    check_output(reading)


class TiledMachine(SchedulerMachine):
    """The same with small tiles that always pay."""

    def scheduler_of(self, runner):
        runner.tile_rows = 8
        scheduler = make(runner)
        scheduler.pace.tiles.note(8, 0, 0.001)
        scheduler.pace.tiles.note(8, 10_000, 0.001)
        scheduler.pace.tiles._parts[0] = 5.0
        return scheduler


TestTiledMachine = TiledMachine.TestCase
TestTiledMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("token_s", "least", "most"), [(2e-5, 500, 512), (2e-4, 240, 310), (4e-4, 250, 257), (2e-3, 80, 120)])
def test_a_fast_model_reads_half_a_batch_at_once_beside_a_reply(token_s, least, most):
    """It could read a whole one in less time than a pause may take, and the reply would wait for all of it; where nobody would see the pause, it does."""
    runner = FakeRunner(slots=2, context=8192, batch=512)
    scheduler = make(runner)
    talking = sequence([1, 2, 3], 3000)
    scheduler.submit(talking)
    for _ in range(BEGUN_TOKENS + 2):
        step(scheduler, runner)
    reading = sequence((list(range(200)) * 40)[:7000], 5)
    scheduler.submit(reading)
    counts = []

    def taken(shares: list[Share]) -> float:
        counts.append(sum(len(share.row.token_ids) for share in shares))
        return token_s * counts[-1]

    while reading.produced == 0:
        step(scheduler, runner, taken)
    assert least <= counts[-3] <= most, counts
