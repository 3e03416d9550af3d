"""A run that is killed again and again learns the same as one that is left alone: the same adapter, bit for bit, and the same curve."""

from __future__ import annotations

import random

import pytest

from tests.training.runs import Run, write_chats

SAMPLES = {"sample_every_steps": 3, "sample_prompts": ("fox ball",)}
METHODS = {
    "filled up": {"packing": False, "dropout": 0.1, "save_every_steps": 2},
    "packed": {"packing": True, "dropout": 0.1, "save_every_steps": 3, "weight_decay": 0.1, "lora_plus_ratio": 4},
}


@pytest.mark.processes
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_random_steps_learns_the_same(method, tiny, tmp_path):
    data = write_chats(tmp_path / "chats.jsonl")
    alone = Run(tmp_path / "alone", tiny.folder, data, **METHODS[method], **SAMPLES)
    alone.whole()
    again = Run(tmp_path / "again", tiny.folder, data, **METHODS[method], **SAMPLES)
    draw = random.Random(method)
    for step in sorted(draw.sample(range(1, 12), 5)):
        again.killed(step, draw.uniform(0, 0.03))
    again.whole()
    assert again.adapter() == alone.adapter()
    assert again.losses() == alone.losses()
    for run in (alone, again):
        assert [row["step"] for row in run.curve()] == list(range(1, 13)), "each step stands there once"
    assert again.samples() == alone.samples()
    assert [row["step"] for row in again.samples()] == [0, 3, 6, 9, 12]
