"""What the web process learns of an engine's work: its counters to the last, how each generation ended, and the names of its threads."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.errors import NoModelLoaded
from modules.core.generation import EngineCounters
from modules.engine.client_generation import Ending
from tests.engine.client_steps import ENDLESS, ids_of, text, until

pytestmark = pytest.mark.processes


async def test_counters_come_by_themselves_and_to_the_last(start: Callable) -> None:
    client = await start()
    told: list[EngineCounters] = []
    client.on_counters = told.append

    async def beaten() -> bool:
        return bool(told)

    await until(beaten)  # nobody asked
    assert told[-1].decode_tokens == 0
    await ids_of(await client.submit(text("hello")))
    await client.close()
    assert (told[-1].decode_tokens, told[-1].prefill_tokens, told[-1].running) == (20, 6, 0)


async def test_every_generation_says_once_how_it_ended(start: Callable) -> None:
    client = await start(slots=8, step_s=0.01)
    endings: dict[str, Ending] = {}

    def note(name: str) -> Callable[[Ending], None]:
        def tell(ending: Ending) -> None:
            assert name not in endings
            endings[name] = ending

        return tell

    generations = {name: await client.submit(text(name) if name == "whole" else text(name, ENDLESS)) for name in ("whole", "stopped", "left", "dropped", "unloaded")}
    for name, generation in generations.items():
        generation.when_ended(note(name))
    assert len(await ids_of(generations["whole"])) == 20
    await generations["stopped"].__anext__()
    await generations["stopped"].cancel()
    await ids_of(generations["stopped"])
    await generations["left"].__anext__()
    await generations["left"].aclose()
    del generations["dropped"], generation
    gc.collect()
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(NoModelLoaded):
        await ids_of(generations["unloaded"])
    assert {name: (ending.outcome, ending.whole) for name, ending in endings.items()} == {
        "whole": ("length", True), "stopped": ("cancelled", True), "left": ("cancelled", False), "dropped": ("cancelled", False), "unloaded": ("error", False),
    }  # fmt: skip
    whole = endings["whole"]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 20)
    assert whole.first_token_s is not None
    assert whole.first_token_s >= whole.usage.queue_s + whole.usage.prefill_s > 0
    assert endings["left"].usage.prompt_tokens == 5
    assert endings["left"].usage.completion_tokens > 0
    late: list[Ending] = []
    generations["whole"].when_ended(late.append)
    assert late == [whole]


@pytest.mark.skipif(sys.platform != "linux", reason="only there the system knows names of threads")
async def test_the_threads_of_an_engine_have_names(start: Callable) -> None:
    client = await start()
    await ids_of(await client.submit(text("hello")))
    names = {file.read_text(encoding="utf-8").strip() for file in Path(f"/proc/{client.pid}/task").glob("*/comm")}
    assert names >= {"engine", "writer", "prompts_0", "heartbeat"}
