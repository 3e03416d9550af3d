"""A disk in any order of events: what was written late, read late, damaged or not waited for never changes a text."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from modules.engine.spill_disk import Reading
from tests.engine.spill_bench import Bench
from tests.engine.test_scheduler import SchedulerMachine, sequence


class DiskMachine(SchedulerMachine):
    """The same under budgets that are often too small, with threads that work at any time, and a disk that may be slow, full or broken."""

    def scheduler_of(self, runner):
        self.folder = tempfile.TemporaryDirectory()
        self.bench = Bench(Path(self.folder.name), memory=4 * (runner.max_batch_tokens - 24), disk=4 * 120, runner=runner)  # 0 … 40 tokens, or less
        self.bench.disk._pays = lambda size, compute_s: True
        self.bench.scheduler.spill.min_tokens = self.bench.disk.min_tokens = 1
        return self.bench.scheduler

    @rule(place=st.integers(0, 30), own=st.integers(0, 3), cut=st.sampled_from([0, 0, 1, 5]), private=st.booleans())
    def go_on(self, place, own, cut, private):
        """A further turn of a conversation, or another end for an earlier one."""
        limit = min(self.runner.context_length, self.runner.capacity_tokens)
        if self.all:
            earlier = self.all[place % len(self.all)].ids
            new = sequence([*earlier[: min(len(earlier) - cut, limit - 10)], own], 5, limit=limit)
            new.keep_on_disk = not private or place % 4 > 0
            self.all.append(new)
            self.scheduler.submit(new)

    @rule()
    def evict_all(self):
        while self.scheduler.evict_idle():
            pass

    @rule()
    def write(self):
        self.bench.work(self.bench.writer)

    @rule()
    def read(self):
        self.bench.work(self.bench.reader)

    @rule(place=st.integers(0, 20))
    def damage(self, place):
        files = [kept.file.file for kept in self.bench.disk._kept if kept.file is not None]
        if files:
            os.pwrite(files[place % len(files)].fileno(), b"\xff\xff", 2 * place)

    @rule()
    def lose_patience(self):
        for running in self.scheduler.running:
            if isinstance(running.leader, Reading):
                running.leader.until_s = 0.0

    def teardown(self):
        if hasattr(self, "scheduler"):
            for one in self.all:
                if one in self.scheduler.running or one in self.scheduler.waiting:
                    self.bench.finish(one)
            self.bench.work()
            super().teardown()
            self.bench.disk.close()
            assert list(Path(self.folder.name).iterdir()) == []
            self.folder.cleanup()


TestDiskMachine = DiskMachine.TestCase
TestDiskMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
