"""Replies go on while the model is lent for something long, where they can."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from modules.core.model import Adapter
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from tests.engine.test_adapter_turns import AdaptedRunner, solo
from tests.fakes import ByteTokenizer, FakeRunner, Inbox

PROMPT = [1, 2, 3]


class ReadRunner(AdaptedRunner):
    """Counts the steps before each chunk of a text that is scored."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.before: list[int] = []

    def score(self, token_ids, chunk_done=None):
        def told() -> None:
            self.before.append(len(self.batches))
            chunk_done()

        return super().score(token_ids, told)


@pytest.mark.parametrize(
    ("capacity", "adapters", "steps"),
    [(512, (), [1, 1, 1, 1]), (82, (), [0, 0, 0, 0]), (512, (Adapter(path="one"),), [0, 0, 0, 0])],
    ids=["beside it", "no room", "other adapters"],
)
def test_a_reply_goes_on_by_a_token_for_each_chunk(capacity: int, adapters: tuple[Adapter, ...], steps: list[int]) -> None:
    runner, inbox = ReadRunner(slots=2, context=256, capacity=capacity, batch=16), Inbox()
    runner.gate = threading.Semaphore(1)  # for the prompt
    engine = Engine(runner, ByteTokenizer(), inbox, set_adapters=runner.set_adapters)
    one = engine.submit(PROMPT, GenerationParams(temperature=0, max_tokens=60))
    for _ in range(2):
        assert runner.entered.acquire(timeout=5)  # the next step waits at the gate
    reading = threading.Thread(target=engine.score, args=([9] * 80, adapters))
    reading.start()
    while engine._commands.empty():
        time.sleep(0.001)
    runner.gate.release(200)
    reading.join(10)
    inbox.wait(one)
    assert engine.close()
    assert [after - before for before, after in pairwise(runner.before)] == steps
    assert inbox.ids(one) == solo(PROMPT, 60, ())


def test_a_step_that_fails_meanwhile_ends_the_reply_and_not_the_reading() -> None:
    runner, inbox = FakeRunner(slots=2, context=256, batch=16), Inbox()
    engine = Engine(runner, ByteTokenizer(), inbox)
    one = engine.submit(PROMPT, GenerationParams(temperature=0, max_tokens=200))
    inbox.wait_for(lambda: inbox.ids(one))
    done: list[int] = []

    def fail() -> None:
        runner.fail_with = RuntimeError("out of luck")
        engine.chunk_done()
        done.append(1)

    engine.lend(fail, 10)
    inbox.wait(one)
    assert done == [1] and "out of luck" in str(inbox.errors[one])
    assert engine.score([9] * 80) == [-9.0] * 79
    assert engine.close()
