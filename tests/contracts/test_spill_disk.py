"""Conversations on disk through the real engine: each is read once, the text is the same, and what the disk spoils is computed again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.generation import EngineCounters, TokenLogprob
from modules.core.model import Row, Runner
from modules.engine import spill_disk
from modules.engine.engine import Engine
from modules.loaders.transformers.agreement import choose_runner
from modules.loaders.transformers.network import Network
from tests.contracts.test_spill import COUNT, GREEDY, KINDS, Borrowed, Ids, load
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox
from tests.loaders.greedy import row_of
from tests.tiny_models import CONTEXT, TinyFiles, make_model, write_window_gguf

LENGTHS = (200, 180)
TURNS = 3


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pays is measured, and these models compute as quickly as a busy disk reads."""
    monkeypatch.setattr(spill_disk.DiskSpill, "_pays", lambda self, size, compute_s: True)
    monkeypatch.setattr(spill_disk, "LEAST_WAIT_S", 60.0)
    monkeypatch.setattr("modules.engine.spill.MEASURED_SAVES", 1000)


class Talk:
    """Two conversations that take turns in one engine."""

    def __init__(self, runner: Runner, tokenizer: object, folder: Path, disk_gb: float) -> None:
        self.inbox = Inbox()
        for slot in range(runner.n_slots):
            runner.truncate(slot, 0)
        self.engine = Engine(Borrowed(runner), tokenizer, self.inbox)
        self.engine.spill_within(0, str(folder), disk_gb)
        text = random.Random(5).choices(range(20, 250), k=10 + sum(LENGTHS))
        self.lines = [text[:10] + text[10 + place * LENGTHS[0] :][:length] for place, length in enumerate(LENGTHS)]
        self.replies: list[list[int]] = []
        self.entries: list[list[TokenLogprob]] = []
        self.reused: list[int] = []

    def turn(self, line: list[int], number: int) -> None:
        line += [10 + number, 11, 12]
        generation = self.engine.submit(line, GREEDY)
        self.inbox.wait(generation, timeout_s=60)
        line += self.inbox.ids(generation)
        self.replies.append(self.inbox.ids(generation))
        self.entries.append([entry for delta in self.inbox.deltas[generation] for entry in delta.logprobs])
        usage = self.inbox.last(generation).usage
        assert usage is not None
        self.reused.append(usage.reused_tokens)

    def until(self, holds: Callable[[EngineCounters], bool]) -> EngineCounters:
        """The counters once something holds of them."""
        end_s = time.monotonic() + 30
        while not holds(counters := self.engine.counters()):
            assert time.monotonic() < end_s, counters
            time.sleep(0.002)
        return counters


def check_turns(runner: Runner, tokenizer: object, folder: Path) -> None:
    talks = []
    for disk_gb in (0.0, 0.1):
        talk = Talk(runner, tokenizer, folder, disk_gb)
        for number in range(TURNS):
            for place, line in enumerate(talk.lines):
                talk.turn(line, number)
                if disk_gb:  # so that it is read, and not taken from what is still to be written
                    talk.until(lambda counters, after=2 * number + place: counters.disk_saves >= after)
        counters = talk.engine.counters()
        assert talk.engine.close()
        talks.append(talk)
    plain, kept = talks
    assert_same_but_for_ties(kept.replies, plain.entries)
    known = [10 + length + turn * (3 + COUNT) - 1 for turn in range(1, TURNS) for length in LENGTHS]
    assert kept.reused[2:] == known  # all that was computed before: not the last token of the reply
    assert max(plain.reused) <= 10
    assert counters.disk_restores == len(known)
    assert counters.disk_restored_tokens == counters.restored_tokens == sum(known)
    assert (counters.disk_off, counters.disk_dropped, counters.spilled_bytes) == (0, 0, 0)
    assert counters.disk_bytes > 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_two_in_one_slot_without_room_in_memory_are_read_once(
    tmp_path: Path, starter_dir: Path, starter_gguf: Path, name: str, options: dict[str, Any]
) -> None:
    model = load(starter_gguf if name == "llama.cpp" else starter_dir, name, slots=1, context_length=512, **options)
    try:
        check_turns(model.runner, model.tokenizer, tmp_path)
    finally:
        model.runner.close()


@pytest.mark.parametrize("kind", ["lfm2", "bloom"])
def test_architectures_that_cannot_go_back(tmp_path: Path, kind: str) -> None:
    check_turns(choose_runner(Network(make_model(kind), CONTEXT), 1, 512), Ids(), tmp_path)


def test_a_sliding_window_in_llama_cpp(tmp_path: Path, tiny: TinyFiles) -> None:
    model = load(write_window_gguf(tiny.models.parent), "llama.cpp", slots=1, context_length=CONTEXT)
    try:
        check_turns(model.runner, Ids(), tmp_path)
    finally:
        model.runner.close()


@pytest.mark.parametrize("damage", [lambda number: os.ftruncate(number, 1000), lambda number: os.pwrite(number, b"\xa5" * 64, 5000)])
def test_native_code_never_sees_a_damaged_file(tmp_path: Path, starter_gguf: Path, damage: Callable[[int], object]) -> None:
    model = load(starter_gguf, "llama.cpp", slots=1, context_length=512)
    talk = Talk(model.runner, model.tokenizer, tmp_path, 0.1)
    try:
        for number, line in enumerate(talk.lines):
            talk.turn(line, number)
        talk.until(lambda counters: counters.disk_saves == 1)
        damage(talk.engine._scheduler.spill.disk._kept[0].file.file.fileno())
        talk.turn(talk.lines[0], 2)
        assert talk.reused[-1] <= 10
        assert talk.engine.counters().disk_restores == 0
    finally:
        assert talk.engine.close()
        model.runner.close()


@pytest.mark.parametrize("name", ["llama.cpp", "transformers"])
def test_a_state_is_the_same_after_it_was_taken_apart(tiny: TinyFiles, name: str) -> None:
    model = load(tiny.gguf if name == "llama.cpp" else tiny.folder, name, slots=2, context_length=CONTEXT)
    runner = model.runner
    runner.forward([Row(0, 0, random.Random(2).choices(range(20, 250), k=100))])
    form, parts = runner.pack_state(runner.save_state(0))
    assert all(part.dtype == np.uint8 and part.ndim == 1 for part in parts)
    assert sum(map(len, parts)) == runner.state_bytes(0)
    expected = row_of(runner.forward([Row(0, 100, [7])])[0]).copy()
    assert runner.restore_state(1, runner.unpack_state(form, [part.copy() for part in parts]), 100) == 100
    np.testing.assert_array_equal(row_of(runner.forward([Row(1, 100, [7])])[0]), expected)
    runner.close()
