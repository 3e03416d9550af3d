"""Whether others' work disturbs a measurement: by what the system counts, less what this process did itself."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from modules.loaders import neighbours
from modules.loaders.neighbours import Neighbours


class Counters:
    """A clock, this process's work, and the times of two cores, of which it may use as many as `allowed`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int = 2, quota: int = 2) -> None:
        self.now_s = self.own_s = 0.0
        self.cores = [dict.fromkeys(("user", "system", "idle", "iowait", "steal", "guest", "guest_nice"), 0.0) for _ in range(2)]
        monkeypatch.setattr(neighbours, "time", SimpleNamespace(perf_counter=lambda: self.now_s, process_time=lambda: self.own_s))
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Times(**core) for core in self.cores])
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(allowed)), raising=False)
        monkeypatch.setattr(neighbours, "usable_cores", lambda: quota)


class Times(tuple[float, ...]):
    """As psutil gives them."""

    def __new__(cls, **fields: float) -> Times:
        made = super().__new__(cls, fields.values())
        made.__dict__.update(fields)
        return made


@pytest.mark.parametrize(
    ("field", "own_s", "seconds", "expected"),
    [
        ("user", 1.0, 1.0, False),  # all of it was this process
        ("user", 0.0, 1.0, True),
        ("user", 0.8, 1.0, False),  # as much as any system does by itself
        ("user", 0.7, 1.0, True),
        ("system", 0.0, 1.0, True),
        ("steal", 0.0, 1.0, True),  # another machine on the same host had the core
        ("idle", 0.0, 1.0, False),
        ("iowait", 0.0, 1.0, False),
        ("guest", 0.0, 1.0, False),  # in user time already
        ("user", 0.0, 10.0, False),
    ],
)
def test_who_worked(monkeypatch: pytest.MonkeyPatch, field: str, own_s: float, seconds: float, expected: bool) -> None:
    counters = Counters(monkeypatch)
    beside = Neighbours()
    counters.now_s, counters.own_s = seconds, own_s
    counters.cores[1][field] = 1.0
    assert beside.disturb is expected


def test_cores_that_this_process_may_not_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(monkeypatch, allowed=1, quota=1)
    beside = Neighbours()
    counters.now_s, counters.cores[1]["user"] = 1.0, 1.0
    assert not beside.disturb
    counters.cores[0]["user"] = 0.5
    assert beside.disturb


def test_a_share_of_a_larger_machine_is_disturbed_when_its_room_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(monkeypatch, quota=1)
    beside = Neighbours()
    counters.now_s, counters.cores[1]["user"] = 1.0, 0.5
    assert not beside.disturb
    counters.cores[1]["user"] = 0.6
    assert beside.disturb


def test_a_system_that_does_not_tell_is_taken_for_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(percpu: bool) -> None:
        raise PermissionError("/proc/stat")

    Counters(monkeypatch)
    monkeypatch.setattr(psutil, "cpu_times", hidden)
    assert Neighbours().disturb
