"""A scheduler with a disk whose threads work when a test tells them to: every order of events can be had, and none depends on time."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from pathlib import Path

from modules.engine.spill_disk import DiskSpill
from tests.engine.test_scheduler import check_output, make, sequence, step
from tests.fakes import FakeRunner


class Hand:
    """A thread that works when it is told to."""

    def __init__(self) -> None:
        self.jobs: deque = deque()

    def submit(self, function, *args) -> None:
        self.jobs.append(partial(function, *args))

    def shutdown(self, **_) -> None:
        self.jobs.clear()


class Bench:
    """A scheduler over the fake runner, with a disk whose threads work when they are told to."""

    def __init__(self, folder: Path, *, slots: int = 1, memory: int = 0, disk: int = 1 << 20, runner: FakeRunner | None = None) -> None:
        self.runner = runner or FakeRunner(slots=slots, context=2048)
        self.scheduler = make(self.runner, memory)
        self.told: deque = deque()
        self.disk = DiskSpill(self.runner, folder, disk, self.told.append)
        self.writer, self.reader = Hand(), Hand()
        self.disk._writer, self.disk._reader = self.writer, self.reader
        self.disk.least_wait_s = math.inf
        self.scheduler.spill.disk = self.disk

    def work(self, *hands: Hand) -> None:
        """All that there is to do for these threads, or for both; and what they tell is heard."""
        for hand in hands or (self.writer, self.reader):
            while hand.jobs:
                hand.jobs.popleft()()
        while self.told:
            self.told.popleft()()

    def step(self) -> None:
        step(self.scheduler, self.runner, seconds=10.0)  # so slow that reading always pays

    def talk(self, ids, **options):
        """A reply to a prompt, written to its end; the disk is quick."""
        one = sequence(ids, **options)
        self.scheduler.submit(one)
        self.finish(one)
        return one

    def finish(self, one) -> None:
        for _ in range(1000):
            if one not in self.scheduler.running and one not in self.scheduler.waiting:
                check_output(one)
                return
            self.step()
            self.work()
        raise AssertionError("did not come to an end")

    def held(self) -> list[int]:
        """First ids of what is on disk, the least recently used first."""
        return [one.ids[0] for one in self.disk._kept]
