"""Models of other servers as a person uses them: added, found, loaded beside models of this machine, asked, stopped, forgotten."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.api.chat_parts import whole_chat
from modules.core.errors import (
    Conflict,
    InvalidRequest,
    NoModelLoaded,
    NotFound,
    NotOffered,
    RemoteError,
)
from modules.core.generation import ChatPrompt, Delta, EmbeddingRequest, GenerationRequest, TextPrompt
from modules.core.messages import Message
from modules.core.model import Adapter, TemplateSource
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.meters import TIMES
from modules.services.model_engine import ModelEngine
from tests.openai_upstream import Upstream, chunk, story
from tests.services.conftest import ONE, engine_pids, until
from tests.services.model_steps import OPTIONS, StartApp, writes

KEY = "sk-canary-5678"
TALE = "remote/gpu/tale"
CHAT = ChatPrompt(messages=(Message(role="user", content="Hi"),))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


async def loaded(app: App, upstream: Upstream, name: str = TALE) -> ModelEngine:
    await app.remote.add({"name": "gpu", "urls": [upstream.url], "key": KEY})
    return await app.models.load(name)


async def text_of(app: App, model: str = "", **params: object) -> str:
    request = GenerationRequest(prompt=CHAT, params=GenerationParams(**params))
    return "".join([delta.text async for delta in await app.generation.submit(request, model)])


async def test_added_found_loaded_and_asked(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await app.remote.add({"name": "gpu", "urls": [upstream.url], "key": KEY})
    (info,) = await app.models.remote()
    assert (info.name, info.format, info.context_length, info.host, info.leaves) == (TALE, "remote", 512, f"127.0.0.1:{upstream.port}", False)
    before = set(engine_pids())
    engine = await app.models.load(TALE)
    assert (engine.card.name, engine.card.loader, engine.card.memory_bytes, engine.card.pid) == (TALE, "remote", 0, 0)
    assert "goes to another program on this machine" in engine.card.notes[0]
    assert "vLLM is not sent: " in engine.card.notes[1]
    assert "mirostat tau" in engine.card.notes[1]
    assert "min p" not in engine.card.notes[1]
    assert engine.card.ignores["mirostat_tau"] == "vLLM does not take this."
    assert "min_p" not in engine.card.ignores
    assert await text_of(app) == "Once upon a time"
    assert set(engine_pids()) == before  # no process
    assert app.models.loaded_names() == (TALE,)
    with pytest.raises(InvalidRequest, match="there are no files of it here"):
        await app.library.delete(TALE)
    await app.models.unload(TALE)
    with pytest.raises(NoModelLoaded):
        await text_of(app)


async def test_a_model_is_loaded_on_demand_by_its_name(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await app.remote.add({"name": "gpu", "urls": [upstream.url]})
    assert await text_of(app, TALE, seed=2**40 + 5) == "Once upon a time"
    (body,) = upstream.asked("/v1/chat/completions")
    assert (body["model"], body["seed"]) == ("tale", 5)
    with pytest.raises(NotFound, match="has no model “other”"):
        await text_of(app, "remote/gpu/other")
    with pytest.raises(NotFound):
        await text_of(app, "remote/nobody/tale")


@pytest.mark.processes
async def test_it_takes_no_room_from_models_of_this_machine(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app(loaded_models=1, idle_unload_s=0)
    local = await app.models.load(ONE, "", OPTIONS)
    remote = await loaded(app, upstream)
    assert app.models.loaded_names() == (TALE, ONE)
    assert local.alive
    assert [card.name for card in app.models.status().loaded] == [TALE, ONE]  # the page takes the first for the one that answers
    assert await app.models.load(ONE, "", OPTIONS) is local  # asked for again: it answers now
    assert app.models.loaded_names() == (ONE, TALE)
    assert await writes(await app.models.get(ONE))
    await app.models.load("two.gguf", "", OPTIONS)
    assert not local.alive
    assert remote.alive
    assert set(app.models.loaded_names()) == {"two.gguf", TALE}


@pytest.mark.processes
async def test_it_does_not_fall_asleep(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app(idle_unload_s=0.2)
    await loaded(app, upstream)
    await app.models.load(ONE, "", OPTIONS)
    app.models.start()
    await until(lambda: app.models.loaded_names() == (TALE,))


async def test_servers_are_kept_in_a_file_of_ones_own(start_app: StartApp, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = start_app()
    await loaded(app, upstream)
    await text_of(app)
    file = tmp_path / "state_dir" / "remote_servers.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KEY in file.read_text()
    later = start_app()
    (look,) = await later.remote.look()
    assert (look.name, look.has_key, look.models) == ("gpu", True, {"tale": 512})
    assert KEY not in str(look) + repr(look) + caplog.text + str(later.models.status())
    assert await text_of(later, TALE) == "Once upon a time"
    assert upstream.requests[-1][1]["authorization"] == f"Bearer {KEY}"
    await later.remote.remove("gpu")
    assert KEY not in file.read_text()
    others = [path for path in (tmp_path / "state_dir").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert others == []


async def test_a_file_that_cannot_be_read_is_set_aside(start_app: StartApp, tmp_path: Path) -> None:
    app = start_app()
    file = tmp_path / "state_dir" / "remote_servers.json"
    file.write_text('[{"name": "gpu"')
    assert await app.remote.look() == ()
    assert (file.parent / "remote_servers.damaged").read_text() == '[{"name": "gpu"'


async def test_a_name_is_taken_once(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await app.remote.add({"name": "gpu", "urls": [upstream.url]})
    with pytest.raises(Conflict, match="already"):
        await app.remote.add({"name": "GPU", "urls": ["http://attacker:1"]})
    with pytest.raises(NotFound):
        await app.remote.remove("cpu")


async def test_a_server_is_tried_without_being_kept(start_app: StartApp, upstream: Upstream, tmp_path: Path) -> None:
    app = start_app()
    look = await app.remote.test({"urls": [upstream.url, "http://127.0.0.1:9"]})
    assert [address.state for address in look.addresses] == ["up", "down"]
    assert look.models == {"tale": 512}
    assert await app.remote.look() == ()
    with pytest.raises(InvalidRequest):
        await app.remote.test({"urls": ["nonsense"]})
    refused = await app.remote.test({"urls": ["http://169.254.169.254"]})
    assert "credentials of a cloud" in refused.addresses[0].detail


async def test_what_is_removed_is_unloaded_and_its_reply_ends(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.pieces = [chunk("word ")] * 100_000
    generation = await engine.submit(GenerationRequest(prompt=CHAT))
    assert (await anext(generation)).text.startswith("word")
    await app.remote.remove("gpu")
    with pytest.raises(NoModelLoaded, match="was unloaded; the text so far is kept"):
        async for _ in generation:
            pass
    await until(lambda: upstream.running == 0)
    assert app.models.loaded_names() == ()
    with pytest.raises(NoModelLoaded):
        await engine.submit(GenerationRequest(prompt=CHAT))
    with pytest.raises(NotFound):
        await app.models.load(TALE)


@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
async def test_stopping_reaches_the_server(start_app: StartApp, upstream: Upstream, how: str) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.pieces = [chunk("word ")] * 100_000
    generation = await engine.submit(GenerationRequest(prompt=CHAT))
    await anext(generation)
    if how == "cancel":
        await generation.cancel()
        rest = [delta async for delta in generation]
        assert rest[-1].finish_reason == "cancelled"
        assert rest[-1].usage.completion_tokens > 0
    elif how == "close":
        await generation.aclose()
    else:
        del generation
    await until(lambda: upstream.running == 0)
    assert upstream.gone == 1
    async with asyncio.timeout(20):  # the server sees it before this side has put everything away
        while (await engine.counters()).running:
            await asyncio.sleep(0.005)
    assert (await engine.counters()).cancelled == 1
    assert engine.idle_s >= 0


async def test_who_gives_up_before_an_answer_leaves_nothing_running(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.hangs = True
    asking = asyncio.create_task(engine.submit(GenerationRequest(prompt=CHAT)))
    await until(lambda: bool(upstream.asked("/v1/chat/completions")))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: engine.idle_s > 0)  # nothing runs
    upstream.hangs = False
    assert await text_of(app) == "Once upon a time"


async def test_a_slow_first_word_keeps_nobody_waiting_for_the_start(start_app: StartApp, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.services.remote_engine.ACCEPT_S", 0.05)
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.hangs = True
    generation = await engine.submit(GenerationRequest(prompt=CHAT))
    assert generation.started is None
    upstream.hangs = False
    assert "".join([delta.text async for delta in generation]) == "Once upon a time"
    assert generation.usage is not None
    assert generation.usage.prompt_tokens == 7


async def test_refusals_come_from_submit(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.status = 401
    with pytest.raises(RemoteError, match="right key"):
        await engine.submit(GenerationRequest(prompt=CHAT))
    template = TemplateSource(text="{{ messages }}", origin="prompt template Plain")
    with pytest.raises(InvalidRequest, match="its own chat template"):
        await engine.submit(GenerationRequest(prompt=CHAT.model_copy(update={"template": template})))
    assert len(upstream.asked("/v1/chat/completions")) == 1


async def test_a_server_that_went_away_is_used_again_when_it_is_back(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await loaded(app, upstream)
    await upstream.stop()
    for _ in range(5):  # more often than a crashed engine would be started again
        with pytest.raises(RemoteError):
            await text_of(app)
    await upstream.start()
    assert await text_of(app) == "Once upon a time"
    assert app.models.loaded_names() == (TALE,)


@pytest.mark.processes
async def test_a_load_that_fails_says_why_and_harms_nothing(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await app.models.load(ONE, "", OPTIONS)
    await app.remote.add({"name": "gpu", "urls": [upstream.url]})
    await upstream.stop()
    with pytest.raises(RemoteError, match="“gpu” does not answer"):
        await app.models.load(TALE)
    assert "does not answer" in app.models.status().error
    assert app.models.loaded_names() == (ONE,)


async def test_what_the_other_side_does_not_offer_is_a_sentence(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    upstream.answer = {"tokens": [1, 2, 3]}
    assert await engine.tokenize("Once") == [1, 2, 3]
    assert upstream.asked("/tokenize") == [{"model": "tale", "prompt": "Once"}]
    upstream.answer = {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [{"a": -1.0, "b": -0.5}]}}]}
    assert [entry.text for entry in (await engine.next_tokens(TextPrompt(text="Once"), 5)).tokens] == ["b", "a"]
    with pytest.raises(NotOffered, match="its samplers leave"):
        await engine.next_tokens(TextPrompt(text="Once"), 5, None, GenerationParams(top_k=1))
    with pytest.raises(NotOffered, match="decides itself whether a text begins"):
        await engine.next_tokens(TextPrompt(text="Once", add_bos=False), 5)
    upstream.answer = {"choices": [{"text": "a"}]}
    with pytest.raises(NotOffered, match="probabilities"):
        await engine.next_tokens(TextPrompt(text="Once"), 5)
    with pytest.raises(NotOffered, match="before it is sent"):
        await engine.count(CHAT)
    with pytest.raises(NotOffered, match="send the text itself"):
        await engine.detokenize([1, 2])
    with pytest.raises(NotOffered, match="vectors"):
        await app.embeddings.embed(EmbeddingRequest(inputs=("Once",)), engine.name)
    with pytest.raises(NotOffered, match="tokens of prompts"):
        await engine.submit(GenerationRequest(prompt=TextPrompt(text="Once"), params=GenerationParams(prompt_logprobs=1)))
    with pytest.raises(NotOffered, match="token ids; leave return_token_ids out"):
        await engine.submit(GenerationRequest(prompt=TextPrompt(text="Once"), tells_ids=True))
    await engine.set_adapters([])
    with pytest.raises(NotOffered, match="LoRA"):
        await engine.set_adapters([Adapter(path="x", name="x", version="1")])


async def test_a_reply_in_the_page_shows_its_tokens_while_it_comes_and_the_servers_count_after_it(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    await loaded(app, upstream)
    upstream.pieces = [chunk("word ")] * 50 + story()
    conversation = await app.conversations.create("me", {"preset": ""})
    await app.replies.send("me", conversation, "Hi")
    reply = app.replies.running(conversation)
    assert reply is not None
    await until(lambda: reply.receipt.get("completion_tokens", 0) > 3)
    assert reply.task is not None
    await reply.task
    assert reply.text == "word " * 50 + "Once upon a time"
    assert (reply.receipt["prompt_tokens"], reply.receipt["reused_tokens"], reply.receipt["completion_tokens"]) == (7, 3, 4)
    assert reply.model == TALE


async def test_counters_are_of_what_was_asked_from_here(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    app.meters.start()
    engine = await loaded(app, upstream)
    for _ in range(2):
        await text_of(app)
    counters = await engine.counters()
    assert (counters.prefill_tokens, counters.reused_tokens, counters.decode_tokens) == (8, 6, 8)
    await app.meters.look()
    assert (app.meters.totals()[TALE]["decode_tokens"], app.meters.outcomes) == (8, {(TALE, "stop"): 2})
    counts = {kind.name: buckets.count for kind, buckets in zip(TIMES, app.meters.times()[TALE], strict=True)}
    assert counts == {"time_to_first_token": 2, "time_per_output_token": 2, "queue_time": 0, "prefill_time": 0, "longest_gap": 0}


async def test_logprobs_and_thinking_come_through(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    row = {"token": "Once", "logprob": -0.25, "top_logprobs": [{"token": "There", "logprob": -1.5}]}
    upstream.pieces = [
        {"choices": [{"delta": {"reasoning_content": "A tale."}}]},
        {"choices": [{"delta": {"content": "Once"}, "logprobs": {"content": [row]}}]},
        *story(["!"])[2:],
    ]
    generation = await engine.submit(GenerationRequest(prompt=CHAT, params=GenerationParams(logprobs=1)))
    deltas: list[Delta] = [delta async for delta in generation]
    assert "".join(delta.text for delta in deltas) == "<think>\nA tale.\n</think>\n\nOnce"
    assert [entry.top[0].text for delta in deltas for entry in delta.logprobs] == ["There"]
    assert upstream.asked("/v1/chat/completions")[-1]["top_logprobs"] == 1


async def test_tools_reach_a_server_and_its_calls_come_back(start_app: StartApp, upstream: Upstream) -> None:
    app = start_app()
    engine = await loaded(app, upstream)
    tool = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object", "properties": {}}}}
    called = {"index": 0, "id": "id7", "type": "function", "function": {"name": "look", "arguments": ""}}
    upstream.pieces = [
        {"choices": [{"delta": {"reasoning_content": "I look."}}]},
        {"choices": [{"delta": {"tool_calls": [called]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]},
        chunk(finish_reason="tool_calls"),
    ]
    before = (Message(role="user", content="Hi"), Message(role="assistant", tool_calls=({"id": "id6", "type": "function", "function": {"name": "look", "arguments": "{}"}},)),
              Message(role="tool", content="Sea", tool_call_id="id6"))  # fmt: skip
    request = GenerationRequest(prompt=ChatPrompt(messages=before, tools=(tool,), must_call=("look",)))
    reply = await whole_chat(await engine.submit(request), request)
    assert (reply.thinking.strip(), reply.text, reply.calls, reply.finish_reason) == ("I look.", "", [("id7", "look", "{}")], "tool_calls")
    sent = upstream.asked("/v1/chat/completions")[-1]
    assert (sent["tools"], sent["tool_choice"]["function"]["name"]) == ([tool], "look")
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert sent["messages"][2] == {"role": "tool", "content": "Sea", "tool_call_id": "id6", "name": "look"}
