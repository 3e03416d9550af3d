"""Totals only grow, whatever happens to an engine; requests that ended are remembered, and no more of them than a number."""

from __future__ import annotations

import os
import signal

import pytest

from modules.core.errors import AppError, ContextOverflow
from modules.core.generation import (
    Delta,
    EngineCounters,
    GenerationRequest,
    Started,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from modules.core.params import GenerationParams
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.services.app import App
from modules.services.meters import KEPT_REQUESTS, TIMES, Buckets
from tests.services.conftest import ONE, until
from tests.services.model_steps import OPTIONS, StartApp

pytestmark = pytest.mark.processes

THREE_TOKENS = GenerationRequest(prompt=TextPrompt(text="Once upon a"), params=GenerationParams(temperature=0, max_tokens=3, ban_eos=True))


async def write(app: App) -> None:
    async for _ in await app.generation.submit(THREE_TOKENS, ONE):
        pass


async def test_totals_outlive_an_unload_and_a_crash(start_app: StartApp) -> None:
    app = start_app()
    meters = app.meters
    meters.start()
    await app.models.load(ONE, "", OPTIONS)
    await write(app)
    await app.models.unload(ONE)  # nobody has looked: its last word counts
    assert meters.totals()[ONE]["decode_tokens"] == 3
    assert await meters.look() == {}
    engine = await app.models.load(ONE, "", OPTIONS)
    await write(app)
    now = await meters.look()
    assert now[ONE].decode_tokens == 3  # of this engine
    assert meters.totals()[ONE]["decode_tokens"] == 6
    before = dict(meters.totals()[ONE])
    os.kill(engine.card.pid, signal.SIGKILL)
    await until(lambda: ONE not in app.models.loaded_names())
    await write(app)  # started again
    await meters.look()
    assert meters.totals()[ONE]["decode_tokens"] == 9
    assert all(meters.totals()[ONE][name] >= count for name, count in before.items())
    assert meters.outcomes == {(ONE, "length"): 3}
    assert [timeline.usage.completion_tokens for timeline in meters.recent(ONE)] == [3, 3, 3]
    resident = await meters.resident_bytes()
    assert set(resident) == {"", ONE}
    assert min(resident.values()) > 1 << 20


async def test_an_older_answer_that_comes_late_counts_nothing(start_app: StartApp) -> None:
    app = start_app()
    app.meters.start()
    engine = await app.models.load(ONE, "", OPTIONS)
    assert engine.on_counters is not None
    for steps in (10, 4, 10, 12):
        engine.on_counters(EngineCounters(steps=steps))
    assert app.meters.totals()[ONE]["steps"] == 12


async def test_what_no_engine_takes_is_counted_by_its_kind(start_app: StartApp) -> None:
    app = start_app()
    await app.models.load(ONE, "", OPTIONS)
    with pytest.raises(ContextOverflow):
        await app.generation.submit(GenerationRequest(prompt=TokenPrompt(token_ids=(1,) * 1000)), ONE)
    assert app.meters.refused == {"ContextOverflow": 1}
    assert app.meters.recent() == ()


async def no_cancel(forget: bool) -> None:
    """Nothing runs."""


async def test_what_a_request_tells_is_put_into_its_buckets(start_app: StartApp) -> None:
    meters = start_app().meters
    usage = Usage(10, 4, 5, queue_s=0.002, prefill_s=0.2, decode_s=0.4, longest_gap_s=0.3)
    whole, failed = Inbox(), Inbox()
    for inbox in (whole, failed):
        meters.begun(ClientGeneration(inbox, "m", no_cancel))
    whole.push(Delta("a", (1,)))
    whole.push(Delta("b", (1, 2, 3, 4), finish_reason="stop", usage=usage))
    failed.start(Started(10, 4, 0, 1))
    failed.push(Delta("a", (1,)))
    failed.fail(AppError("It failed."))
    times = dict(zip((kind.name for kind in TIMES), meters.times()["m"], strict=True))
    assert {name: buckets.count for name, buckets in times.items()} == {
        "time_to_first_token": 2, "time_per_output_token": 1, "queue_time": 1, "prefill_time": 1, "longest_gap": 1,
    }  # fmt: skip
    assert times["time_per_output_token"].sum == pytest.approx(0.1)
    assert dict(times["prefill_time"].cumulative())[0.1] == 0
    assert dict(times["prefill_time"].cumulative())[0.25] == 1
    assert [(one.outcome, one.usage.completion_tokens) for one in reversed(meters.recent("m"))] == [("stop", 5), ("error", 1)]


async def test_no_more_requests_are_remembered_than_a_number(start_app: StartApp) -> None:
    meters = start_app().meters
    for number in range(KEPT_REQUESTS + 5):
        inbox = Inbox()
        meters.begun(ClientGeneration(inbox, "m", no_cancel))
        inbox.push(Delta(finish_reason="stop", usage=Usage(prompt_tokens=number)))
    assert sorted(one.usage.prompt_tokens for one in meters.recent()) == list(range(5, KEPT_REQUESTS + 5))
    assert meters.outcomes == {("m", "stop"): KEPT_REQUESTS + 5}
    assert meters.recent("other") == ()


def test_a_value_on_a_bound_is_at_most_that_bound() -> None:
    buckets = Buckets((1.0, 2.0))
    for value in (0.0, 1.0, 2.0, 3.0):
        buckets.note(value)
    assert (buckets.cumulative(), buckets.count, buckets.sum) == (((1.0, 2), (2.0, 3)), 4, 6.0)
