"""More conversations than slots, with the budgets that a loaded model has by itself: no turn reads its history again."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient

USERS, TURNS = 4, 3


@pytest.mark.processes
@pytest.mark.parametrize("slots", [1, 2])
async def test_conversations_in_turn_are_read_once(starter_gguf: Path, root: Path, slots: int) -> None:
    text = (root / "docs" / "training.md").read_text("utf-8")
    client = await EngineClient.start(str(starter_gguf), "", {"slots": slots, "context_length": 1024, "threads": 1, "threads_batch": 1}, name="Starter")
    try:
        spoken = [f"Talk {user}. {text[2000 * user : 2000 * user + 1500]}" for user in range(USERS)]
        for turn in range(TURNS):
            for user in range(USERS):
                history = len(await client.tokenize(spoken[user]))
                spoken[user] += f" And then, {turn}?"
                request = GenerationRequest(prompt=TextPrompt(text=spoken[user]), params=GenerationParams(max_tokens=8, temperature=0, ban_eos=True))
                generation = await client.submit(request)
                spoken[user] += "".join([delta.text async for delta in generation])
                if turn:
                    assert generation.usage.reused_tokens >= history - 3, (turn, user)  # where words meet they may be split in another way
        counters = await client.counters()
    finally:
        await client.close()
    assert counters.spill_restores + counters.disk_restores >= (TURNS - 1) * (USERS - slots)
