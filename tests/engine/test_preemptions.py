"""How often replies gave way to others is counted, for each of them and for the engine."""

from __future__ import annotations

import threading

from modules.core.params import GenerationParams
from tests.fakes import FakeRunner, solo

GREEDY = GenerationParams(temperature=0, max_tokens=100)


def test_who_gives_way_is_counted_and_who_is_oldest_never_does(bench):
    engine, runner, inbox = bench(FakeRunner(slots=3, context=200, capacity=250))
    gate = runner.gate = threading.Semaphore(0)
    prompts = [[number] * 50 for number in range(1, 4)]
    generations = [engine.submit(prompt, GREEDY) for prompt in prompts]
    gate.release(10_000)
    inbox.wait(*generations)
    assert [inbox.ids(one) for one in generations] == [solo(prompt, 100) for prompt in prompts]
    times = [inbox.last(one).usage.preemptions for one in generations]
    assert times[0] == 0 < times[2]
    assert engine.counters().preemptions == sum(times)


def test_nobody_gives_way_while_there_is_room(bench):
    engine, _, inbox = bench(FakeRunner(slots=3, context=200))
    generations = [engine.submit([number] * 50, GREEDY) for number in range(1, 4)]
    inbox.wait(*generations)
    assert [inbox.last(one).usage.preemptions for one in generations] == [0, 0, 0]
    assert engine.counters().preemptions == 0
