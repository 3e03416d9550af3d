"""The event file: never torn for a reader, bounded, and the last words find room on a full disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modules.jobs import events as events_module
from modules.jobs.events import (
    EVENTS_NAME,
    LIMIT_BYTES,
    RESERVE_BYTES,
    RESERVE_NAME,
    EventReader,
    EventWriter,
    make_reserve,
)


def names(directory: Path) -> list[str]:
    return [event["event"] for event in EventReader(directory).read()[1]]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A disk that takes the first half of every appended line, while the list holds True."""
    state = [False]
    write = os.write

    def short(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2] if state[0] else data)

    monkeypatch.setattr(events_module.os, "write", short)
    return state


def test_what_is_appended_is_read_once(tmp_path):
    reader = EventReader(tmp_path)
    assert reader.read() == (True, [])
    writer = EventWriter(tmp_path)
    writer.append("queued")
    writer.append("started", pid=3)
    assert [event["event"] for event in reader.read()[1]] == ["queued", "started"]
    assert reader.read() == (False, [])
    writer.append("done", result={"a": 1})
    whole, events = reader.read()
    assert (whole, [event["n"] for event in events]) == (False, [3])
    writer.close()


def test_a_torn_last_line_is_no_event_and_the_next_one_is_whole(tmp_path):
    writer = EventWriter(tmp_path)
    writer.append("queued")
    writer.close()
    path = tmp_path / EVENTS_NAME
    path.write_bytes(path.read_bytes() + b'{"n": 2, "t": 5, "event": "do')
    reader = EventReader(tmp_path)
    assert [event["event"] for event in reader.read()[1]] == ["queued"]
    writer = EventWriter(tmp_path)
    writer.append("started")
    writer.close()
    assert [event["event"] for event in reader.read()[1]] == ["started"]
    assert names(tmp_path) == ["queued", "started"]


def test_damaged_lines_are_passed_over(tmp_path):
    good = json.dumps({"n": 1, "t": 1.0, "event": "queued"}).encode()
    (tmp_path / EVENTS_NAME).write_bytes(b"\x00\xff{\n[1]\n" + good + b'\n{"n": "x"}\n\n' + b"[" * 5000 + b"\n")
    assert names(tmp_path) == ["queued"]


def test_old_progress_is_thinned_out(tmp_path):
    writer = EventWriter(tmp_path)
    reader = EventReader(tmp_path)
    writer.append("queued")
    for i in range(6000):
        writer.append("progress", durable=False, done=i, total=6000, metrics={"loss": 1 / (i + 1)})
        if i % 700 == 0:
            assert reader.read()[1][-1]["done"] == i
    assert (tmp_path / EVENTS_NAME).stat().st_size <= LIMIT_BYTES + 1000
    events = EventReader(tmp_path).read()[1]
    assert [event["n"] for event in events] == sorted(event["n"] for event in events)
    assert events[0]["event"] == "queued"
    done = [event["done"] for event in events[1:]]
    assert done[-64:] == list(range(5936, 6000))
    assert min(done) == 0  # the beginning of the curve is still there
    assert len(done) > 200
    writer.close()


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path, full):
    make_reserve(tmp_path)
    writer = EventWriter(tmp_path)
    assert writer.append("queued")
    before = (tmp_path / EVENTS_NAME).read_bytes()
    full[0] = True
    assert not writer.append("progress", done=1)
    assert (tmp_path / EVENTS_NAME).read_bytes() == before
    full[0] = False
    assert writer.append("progress", done=2)
    assert names(tmp_path) == ["queued", "progress"]
    writer.close()


def test_the_last_words_go_into_the_reserve_and_come_back_in_order(tmp_path, full):
    make_reserve(tmp_path)
    reader = EventReader(tmp_path)
    writer = EventWriter(tmp_path)
    writer.append("queued")
    reader.read()
    full[0] = True
    assert writer.say("warning", message="full")
    assert writer.say("failed", error="e" * 9000, result={"big": "r" * 9000})
    assert (tmp_path / RESERVE_NAME).stat().st_size == RESERVE_BYTES
    whole, events = reader.read()
    assert whole
    assert [(event["n"], event["event"]) for event in events] == [(1, "queued"), (2, "warning"), (3, "failed")]
    assert events[2]["error"] == "e" * 500
    writer.close()
    full[0] = False
    writer = EventWriter(tmp_path)
    assert writer.append("queued")
    assert names(tmp_path) == ["queued", "warning", "failed", "queued"]
    writer.tidy()
    assert (tmp_path / RESERVE_NAME).read_bytes() == b" " * RESERVE_BYTES
    assert names(tmp_path) == ["queued", "warning", "failed", "queued"]
    writer.append("started")
    assert names(tmp_path)[-1] == "started"
    writer.close()


def test_without_a_reserve_the_loss_is_told(tmp_path, full):
    writer = EventWriter(tmp_path)
    full[0] = True
    assert not writer.say("failed", error="x")
    assert names(tmp_path) == []
    writer.close()


def test_a_reserve_that_is_used_up_takes_no_more(tmp_path, full):
    make_reserve(tmp_path)
    writer = EventWriter(tmp_path)
    full[0] = True
    said = 0
    while writer.say("warning", message="m" * 300):
        said += 1
    assert 5 < said < 15
    assert names(tmp_path) == ["warning"] * said
    writer.close()
