"""What the llama.cpp runner does beside computing: which threads a step gets, and whose memory a saved state takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modules.core.model import LoadedModel, Row
from modules.loaders.llama_cpp.c_api import library
from modules.loaders.llama_cpp.threads import JUDGED_S, JUDGED_STEPS, LiveThreads, Threads
from modules.loaders.registry import find_loader


@pytest.fixture
def model(starter_gguf: Path) -> Iterator[LoadedModel]:
    spec = find_loader(starter_gguf)
    options = spec.options.model_validate({"slots": 2, "context_length": 256, "cache_tokens": 300})
    loaded = spec.load(starter_gguf, options, lambda _stage, _done: None)
    yield loaded
    loaded.runner.close()


def test_a_saved_state_takes_the_memory_of_one_that_nobody_wants_any_more(model: LoadedModel) -> None:
    runner = model.runner
    prompts = [[5 + slot, *range(10, 50)] for slot in range(2)]
    last = [np.array(runner.forward([Row(slot, 0, prompts[slot])])[0]) for slot in range(2)]
    first, second = runner.save_state(0), runner.save_state(1)
    assert not np.shares_memory(first.data, second.data)
    runner.drop_state(first)
    third = runner.save_state(0)
    assert np.shares_memory(first.data, third.data)
    for slot, state in ((0, second), (1, third)):  # each in the other's place
        length = len(prompts[slot]) - 1
        assert runner.restore_state(slot, state, length) == length
        again = runner.forward([Row(slot, length, prompts[1 - slot][-1:])])[0]
        assert np.allclose(again, last[1 - slot], atol=0.02)


def test_steps_follow_the_live_number_of_threads_and_steady_rows_their_own(model: LoadedModel) -> None:
    runner, binding = model.runner, library()

    def threads() -> int:
        return int(binding.llama_n_threads(runner._context))

    during: list[int] = []
    decode = runner._decode
    runner._decode = lambda: (during.append(threads()), decode())
    live = LiveThreads(Threads(2, 2), Threads(1, 1))
    runner.use_threads(live, Threads(1, 1))
    runner.forward([Row(0, 0, [1, 5])])
    live._best_s[1] = 1e-9  # so that the next steps are slow ones
    for place in range(2, 2 + JUDGED_STEPS + 1):
        live._seen[1] = (live._seen.get(1, (0, 0.0))[0], JUDGED_S)
        runner.forward([Row(0, place, [7])])
    assert during == [2] * (1 + JUDGED_STEPS) + [1]
    live._change(Threads(2, 2), 0.0)
    runner.set_threads(live.present)
    during.clear()
    runner.forward([Row(1, 0, [1, 5], steady=True)])
    runner.forward([Row(0, 2 + JUDGED_STEPS + 1, [7])])
    assert during == [1, 2]
