"""Conversations on disk: what is written, what is waited for, what is refused, and that nobody who runs waits for it."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from pathlib import Path

import pytest

from modules.core.model import Adapter
from modules.engine import spill_disk
from modules.engine.spill_disk import DEFAULT_BYTES, RESERVE_BYTES, Reading, disk_budget, open_disk
from tests.engine.spill_bench import Bench
from tests.engine.test_scheduler import check_output, sequence
from tests.fakes import FakeRunner

GB = 1_000_000_000


@pytest.fixture
def bench(tmp_path: Path):
    benches = []

    def start(**options) -> Bench:
        benches.append(Bench(tmp_path, **options))
        return benches[-1]

    yield start
    for one in benches:
        files = [kept.file.file for kept in one.disk._kept if kept.file is not None]
        one.disk.close()
        assert all(file.closed for file in files)


@pytest.mark.parametrize("memory", [0, 4 * 450])  # nothing, and one of the two
def test_two_conversations_in_one_slot_are_each_read_once(bench, memory: int) -> None:
    one = bench(memory=memory)
    lines = [[100 + user] * 400 for user in range(3)]
    for turn in range(4):
        for user in range(3):
            done = one.talk([*lines[user], 7, turn])
            assert done.reused == (0 if turn == 0 else len(lines[user]) - 1)
            lines[user] = done.ids
    figures = one.scheduler.figures()
    assert figures["disk_restores"] == 9
    assert figures["disk_restored_tokens"] == figures["restored_tokens"] > 9 * 400
    assert figures["disk_saves"] >= 9
    assert figures["disk_bytes"] == 4 * figures["disk_tokens"] > 0
    assert (figures["disk_off"], figures["disk_dropped"]) == (0, 0)
    assert (figures["spill_saves"] > 0) == (memory > 0)
    assert figures["spill_restores"] == 0  # three in turn: what is asked for has always been pushed out


def test_who_waits_for_the_disk_holds_up_nobody(bench) -> None:
    one = bench(slots=2)
    first = one.talk([1] * 300)
    one.scheduler.table.evict(one.scheduler.slots[0])
    one.work()
    other, back = sequence([2] * 50, 40), sequence([*first.ids, 3])
    one.scheduler.submit(other)
    one.step()
    one.scheduler.submit(back)
    before = other.produced
    for _ in range(10):
        one.step()
    assert other.produced == before + 10
    assert (back.computed, back.admitted) == (0, False)  # waits, and computes nothing meanwhile
    one.work()
    one.step()
    assert back.reused == len(first.ids) - 1
    one.finish(back)
    one.finish(other)


def test_what_is_not_written_yet_is_there_at_once(bench) -> None:
    one = bench(slots=2)
    first = one.talk([1] * 300)
    one.scheduler.table.evict(one.scheduler.slots[0])
    assert len(one.writer.jobs) == 1
    back = sequence([*first.ids, 3])
    one.scheduler.submit(back)
    one.step()
    assert (back.reused, len(one.reader.jobs)) == (len(first.ids) - 1, 0)
    one.scheduler.finish(back)
    one.scheduler.forget_all()
    one.work()  # and the file is not the worse for it
    assert one.talk([*first.ids, 4]).reused == len(first.ids) - 1
    assert (one.disk.saves, one.disk.restores) == (1, 2)


def test_a_disk_that_lags_is_not_waited_for(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_disk, "WAITING_BYTES", 4 * 450)
    one = bench(memory=0)
    for number in (1, 2, 3):
        waiting = sequence([number] * 300)
        one.scheduler.submit(waiting)
        for _ in range(50):
            one.step()  # no thread works
        check_output(waiting)
        assert waiting.produced == 8
    assert one.disk.dropped == 1  # of the two that lost their slot
    assert one.held() == [1]
    one.work()
    assert one.disk.saves == 1


def test_a_state_larger_than_what_may_wait_is_written_alone(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_disk, "WAITING_BYTES", 100)
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    assert one.talk([*first.ids, 3]).reused == len(first.ids) - 1
    assert one.disk.dropped == 0


@pytest.mark.parametrize("failure", ["full", "broken"])
def test_a_disk_that_does_not_take_it_is_not_asked_again(bench, monkeypatch, caplog, failure: str) -> None:
    one = bench()
    first, second = one.talk([1] * 300), one.talk([2] * 300)
    assert one.held() == [1]
    file = one.disk._kept[0].file.file
    if failure == "full":
        monkeypatch.setattr(spill_disk, "RESERVE_BYTES", 1 << 60)
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", _refuse)
    with caplog.at_level(logging.WARNING):
        one.talk([*first.ids, 3])
        for number in (4, 5, 6):
            one.talk([number] * 300)
    assert len(caplog.records) == 1
    assert "until the model is loaded again" in caplog.text
    assert one.talk([*second.ids, 3]).reused == 0
    assert (one.scheduler.figures()["disk_off"], one.scheduler.figures()["disk_bytes"]) == (1, 0)
    assert file.closed  # a disk that is full gets its room back


def _refuse(**_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("damage", [lambda number: os.ftruncate(number, 100), lambda number: os.pwrite(number, b"\xff", 900), lambda number: os.ftruncate(number, 1 << 20)])
def test_a_damaged_file_is_computed_again_and_never_restored(bench, caplog, damage) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    kept = next(kept for kept in one.disk._kept if kept.ids[0] == 1)
    damage(kept.file.file.fileno())
    with caplog.at_level(logging.WARNING):
        again = one.talk([*first.ids, 3])
    assert again.reused == 0
    assert one.disk.restores == 0
    assert kept not in one.disk._kept
    assert "computed again" in caplog.text
    assert not one.disk.is_off


def test_the_budget_holds_and_who_was_used_last_stays(bench) -> None:
    one = bench(disk=4 * 700)
    for number in (1, 2, 3):
        one.talk([number] * 300)
    assert one.held() == [1, 2]
    assert one.disk.size_bytes <= 4 * 700
    one.talk([*[1] * 300, 9])  # read from there; the third goes there
    assert one.held() == [1, 3]
    one.talk([4] * 700)
    one.talk([5] * 300)  # the fourth alone is too large
    assert 4 not in one.held()


def test_what_is_being_read_makes_no_room(bench) -> None:
    one = bench(disk=4 * 320)
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    assert one.talk([*first.ids, 3]).reused == len(first.ids) - 1  # while the second looked for a place
    assert one.disk.saves == 1


def test_a_longer_state_takes_the_place_of_its_beginning(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    assert one.held() == [1]
    one.talk([*first.ids, 3])
    one.talk([4] * 300)
    assert sorted(one.held()) == [1, 2]
    one.talk([*[1] * 300, 5])  # an earlier turn is edited: the whole is still there
    assert sorted(one.held()) == [1, 2, 4]


def test_what_must_not_leave_is_kept_in_memory_alone(bench) -> None:
    one = bench(memory=4 * 400)
    private = sequence([1] * 300)
    private.keep_on_disk = False
    one.scheduler.submit(private)
    one.finish(private)
    one.talk([2] * 300)
    assert one.talk([*private.ids, 3]).reused == len(private.ids) - 1  # from main memory
    again = sequence([*private.ids, 3])
    again.keep_on_disk = False
    one.scheduler.submit(again)
    one.finish(again)
    for number in (4, 5, 6):
        one.talk([number] * 300)
    assert 1 not in one.held()
    assert one.held()


def test_a_deterministic_reply_takes_nothing_from_the_disk(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    alone = sequence([*first.ids, 3])
    alone.deterministic = True
    one.scheduler.submit(alone)
    one.step()
    assert not one.reader.jobs
    one.finish(alone)
    assert alone.reused == 0


def test_states_belong_to_their_adapters(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    one.scheduler.adapters = (Adapter(path="a"),)
    other = sequence([*first.ids, 3])
    other.adapters = one.scheduler.adapters
    one.scheduler.submit(other)
    one.finish(other)
    assert other.reused == 0
    one.scheduler.adapters = ()
    assert one.talk([*first.ids, 3]).reused == len(first.ids) - 1


def test_two_who_need_the_same_state_wait_for_one_read(bench) -> None:
    one = bench(slots=2)
    first = one.talk([1] * 300)
    one.scheduler.table.evict(one.scheduler.slots[0])
    one.work()
    twins = [sequence([*first.ids, number]) for number in (3, 4)]
    for twin in twins:
        one.scheduler.submit(twin)
    one.step()
    assert len(one.reader.jobs) == 1
    for twin in twins:
        one.finish(twin)
    assert [twin.reused for twin in twins] == [len(first.ids) - 1] * 2


def test_a_read_that_takes_too_long_is_not_waited_for(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    back = sequence([*first.ids, 3])
    one.scheduler.submit(back)
    one.step()
    reading = back.leader
    assert isinstance(reading, Reading)
    reading.until_s = 0.0
    for _ in range(50):
        one.step()
    assert (back.produced, back.reused) == (8, 0)
    one.work()
    assert one.disk.restores == 0


def test_whoever_leaves_while_it_is_read_leaves_the_file(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    back = sequence([*first.ids, 3])
    one.scheduler.submit(back)
    one.step()
    one.scheduler.finish(back)
    one.work()
    assert one.talk([*first.ids, 4]).reused == len(first.ids) - 1


@pytest.mark.parametrize("when", ["unwritten", "written", "read"])
def test_what_is_forgotten_does_not_come_back(bench, when: str) -> None:
    one = bench()
    first = one.talk([1] * 300)
    second = sequence([2] * 300)
    one.scheduler.submit(second)
    one.step()
    assert len(one.writer.jobs) == 1
    if when != "unwritten":
        one.finish(second)
    if when == "read":
        one.scheduler.submit(sequence([*first.ids, 3]))
        one.step()
        assert len(one.reader.jobs) == 1
    files = [kept.file.file for kept in one.disk._kept if kept.file is not None]
    one.scheduler.empty_all()
    if when == "read":
        assert not files[0].closed  # its number would be another file's while a thread reads
    for waiting in list(one.scheduler.waiting):
        one.scheduler.finish(waiting)
    one.work()
    assert (one.held(), one.disk._unwritten, one.disk._readings) == ([], [], 0)
    assert all(file.closed for file in files)
    assert one.talk([*first.ids, 4]).reused == 0


def test_reading_that_costs_more_than_computing_is_left_out_and_tried_again_one_day(bench) -> None:
    one = bench()
    first = one.talk([1] * 300)
    one.talk([2] * 300)
    one.disk._s_per_byte = 1.0  # a second for a byte
    assert one.disk.bring([*first.ids, 3], (), 0, 1.0) == (None, 0)
    one.disk._s_per_byte = 1e-6
    assert one.disk.bring([*first.ids, 3], (), len(first.ids) - 20, 1.0) == (None, 0)  # for so little nobody waits
    one.disk._s_per_byte = 0.3
    for _ in range(30):
        found, _ = one.disk.bring([*first.ids, 3], (), 0, 1.0)
        if found is not None:
            return
    raise AssertionError("one bad measurement is for ever")


@pytest.mark.parametrize(
    ("asked", "free", "budget"),
    [
        (-1.0, 50 * GB, 5 * GB),
        (-1.0, 5000 * GB, DEFAULT_BYTES),
        (-1.0, 1 * GB, 0),
        (20.0, 50 * GB, 20 * GB),
        (200.0, 50 * GB, 50 * GB - RESERVE_BYTES),
        (0.0, 50 * GB, 0),
    ],
)
def test_the_budget_follows_the_wish_and_what_is_free(asked: float, free: int, budget: int) -> None:
    assert disk_budget(asked, free) == budget


def test_a_folder_that_cannot_be_used_switches_it_off(tmp_path: Path, caplog) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert open_disk(FakeRunner(), str(file / "spill"), 1.0, lambda _: None) is None
    assert "cannot be used" in caplog.text
    assert open_disk(FakeRunner(), "", 1.0, lambda _: None) is None
    assert open_disk(FakeRunner(), str(tmp_path / "off"), 0.0, lambda _: None) is None
    assert not (tmp_path / "off").exists()
