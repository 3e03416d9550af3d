"""The whole engine process with the starter model: prompts made, replies written, ends survived."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.core.errors import ContextOverflow, EngineCrashed, InvalidRequest, LoadFailed, NotFound
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, TokenLogprob, TokenPrompt
from modules.core.messages import Message
from modules.core.model import Adapter, TemplateSource
from modules.core.params import GenerationParams
from modules.core.tools import checked_tools
from modules.engine.client import EngineClient
from modules.engine.worker import LoadCommand
from modules.loaders.machine import usable_cores
from modules.prompts.renderer import TemplateRenderer
from modules.services.worker import ModelPrompts, load
from tests.engine.ties import assert_same_but_for_ties

pytestmark = pytest.mark.processes

GREEDY = GenerationParams(temperature=0, max_tokens=24)
ENDLESS = GenerationParams(temperature=0, ban_eos=True)
QUESTIONS = (
    "How do I load a model?", "What is a LoRA?", "What is a preset?", "Where do I put model files?", "How do I use the API?",
    "What is temperature?", "What is a chat template?", "What is the notebook?",
)  # fmt: skip
OPTIONS = {"context_length": 512, "slots": 8, "threads": 1, "threads_batch": 1}


def chat(*texts: str, params: GenerationParams = GREEDY, **more) -> GenerationRequest:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[number % 2], content=text) for number, text in enumerate(texts))
    return GenerationRequest(prompt=ChatPrompt(messages=messages, **more), params=params)


async def reply(client: EngineClient, request: GenerationRequest) -> str:
    return "".join([delta.text async for delta in await client.submit(request)])


# ---- prompts, in this process --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(starter_gguf: Path):
    ready = load(LoadCommand("Starter", str(starter_gguf), "", OPTIONS), lambda stage, done: None)
    yield ready.prompts
    ready.model.runner.close()
    ready.prompts._renderer.close()


def written(prompts: ModelPrompts, token_ids) -> str:
    return b"".join(prompts._tokenizer.piece(token_id) for token_id in token_ids).decode()


def test_a_chat_is_rendered_with_one_bos_and_ends_where_the_template_says(prompts):
    prepared = prompts.prepare(chat("Hi"))
    assert written(prompts, prepared.token_ids) == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "<|im_end|>" in prepared.stop
    assert prepared.dropped_messages == 0
    assert prepared.starts_thinking == ""


def test_an_unfinished_answer_is_continued(prompts):
    prepared = prompts.prepare(chat("Hi", "Hello there, I", continue_final_message=True))
    assert written(prompts, prepared.token_ids).endswith("<|im_start|>assistant\nHello there, I")
    assert (prepared.begun, prompts.prepare(chat("Hi", "Hello there, I")).begun) == ("Hello there, I", "")


def test_a_chosen_template_gets_the_special_tokens_of_the_model(prompts):
    source = TemplateSource(
        text="{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>",
        origin="prompt template “Plain”",
        stop=("###",),
    )
    prepared = prompts.prepare(chat("Hi", template=source))
    assert written(prompts, prepared.token_ids) == "<s>user: Hi\nassistant: <think>"
    assert prepared.starts_thinking == "<think>"
    assert "###" in prepared.stop


def by_message(seen) -> dict[int, str]:
    texts: dict[int, str] = {}
    for _, piece, place in seen["tokens"]:
        texts[place] = texts.get(place, "") + piece
    return texts


def test_a_prompt_is_shown_token_by_token_with_the_message_of_each(prompts):
    texts = ("a", "user", "Is <|im_start|> a word?\n", "  assistant  ", "How do I load a model? €")
    request = chat(*texts)
    seen = prompts.examine("render", {"prompt": request.prompt.model_dump(mode="json"), "params": {"max_tokens": 24}})
    prepared = prompts.prepare(request)
    assert [token_id for token_id, _, _ in seen["tokens"]] == list(prepared.token_ids)
    assert (seen["hash"], seen["template"]["hash"]) == (prepared.prompt_hash, prepared.template_hash)
    assert (seen["dropped"], seen["limit"]) == ([], 512 - 24)
    assert seen["text"] == written(prompts, prepared.token_ids)
    found = by_message(seen)
    assert {place: text.strip() for place, text in found.items() if place >= 0} == {place: text.strip() for place, text in enumerate(texts)}
    assert "<|im_start|>user\n" in found[-1] and "load" not in found[-1]


def test_what_is_left_out_of_a_prompt_is_named(prompts):
    texts = [f"message {number} " + "word " * 30 for number in range(40)] + ["And now?"]
    seen = prompts.examine("render", {"prompt": chat(*texts).prompt.model_dump(mode="json"), "params": {"max_tokens": 24}})
    assert seen["dropped"] == list(range(len(seen["dropped"]))) == list(prompts.prepare(chat(*texts)).dropped)
    kept = {place: text for place, text in by_message(seen).items() if place >= 0}
    assert sorted(kept) == list(range(len(seen["dropped"]), len(texts)))
    assert all(text.startswith(texts[place].split(" word")[0]) for place, text in kept.items())


def test_the_messages_are_found_also_under_a_template_that_changes_them(prompts):
    source = {"text": "{% for m in messages %}[{{ m.content | upper }}]{% endfor %}", "origin": "test"}
    prompt = {**chat("hello", "hello you").prompt.model_dump(mode="json"), "template": source}
    assert by_message(prompts.examine("render", {"prompt": prompt})) == {-1: "[][]", 0: "HELLO", 1: "HELLO YOU"}
    refusing = {**source, "text": "{% for m in messages %}{% if m.content != 'hello' %}{{ raise_exception('no') }}{% endif %}<{{ m.content }}>{% endfor %}"}
    prompt = {**chat("hello").prompt.model_dump(mode="json"), "template": refusing}
    assert by_message(prompts.examine("render", {"prompt": prompt})) == {-1: "<>", 0: "hello"}


def test_pieces_and_the_template_are_told(prompts):
    told = prompts.examine("pieces", {"text": "Hi €<|im_end|>"})["tokens"]
    assert [token_id for token_id, *_ in told] == prompts.tokenize("Hi €<|im_end|>")
    assert b"".join(bytes.fromhex(raw) if raw else text.encode() for _, text, raw in told).decode() == "Hi €<|im_end|>"
    assert prompts.examine("pieces", {"token_ids": [told[0][0]]})["tokens"] == told[:1]
    template = prompts.examine("template", {})
    assert "<|im_end|>" in template["stop"] and "im_start" in template["text"]
    for question, values in (("pieces", {"token_ids": [10**9]}), ("pieces", {}), ("riddle", {})):
        with pytest.raises(InvalidRequest):
            prompts.examine(question, values)


def test_oldest_messages_are_left_out_and_counted(prompts):
    texts = [f"message {number} " + "word " * 30 for number in range(40)] + ["And now?"]
    prepared = prompts.prepare(chat(*texts))
    assert prepared.dropped_messages > 0
    assert prepared.dropped_messages % 2 == 0
    assert len(prepared.token_ids) <= 512 - 24
    assert "And now?" in written(prompts, prepared.token_ids)
    assert f"message {prepared.dropped_messages} " in written(prompts, prepared.token_ids)
    assert prompts.count(chat(*texts).prompt) > 512
    with pytest.raises(ContextOverflow):
        prompts.prepare(chat(*texts, overflow="refuse"))


def test_room_is_kept_for_the_reply(prompts):
    long = "word " * 450
    assert len(prompts.tokenize(long)) > 430
    with pytest.raises(ContextOverflow):
        prompts.prepare(chat(long, params=GenerationParams(max_tokens=0)))  # a quarter of 512 stays free
    assert prompts.prepare(chat(long, params=GenerationParams(max_tokens=1))).dropped_messages == 0
    assert prompts.prepare(chat(long, overflow="refuse")).dropped_messages == 0  # who wants nothing left out takes what room there is


def test_a_request_may_have_a_shorter_context_than_the_model(prompts):
    texts = [f"message {number} " + "word " * 30 for number in range(40)] + ["And now?"]
    whole = prompts.prepare(chat(*texts))
    short = prompts.prepare(chat(*texts, params=GREEDY.model_copy(update={"context_tokens": 200})))
    assert short.dropped_messages > whole.dropped_messages
    assert 60 < len(short.token_ids) <= 176 < len(whole.token_ids)
    longer = prompts.prepare(chat(*texts, params=GREEDY.model_copy(update={"context_tokens": 100_000})))
    assert len(longer.token_ids) == len(whole.token_ids), "there is no more than the model was loaded with"
    text = GenerationRequest(prompt=TextPrompt(text="word " * 300, overflow="drop_oldest"), params=GenerationParams(context_tokens=64))
    assert len(prompts.prepare(text).token_ids) == 48


def test_plain_text_gets_one_bos(prompts):
    bos = prompts._tokenizer.bos_id
    plain = prompts.prepare(GenerationRequest(prompt=TextPrompt(text="Once"))).token_ids
    given = prompts.prepare(GenerationRequest(prompt=TextPrompt(text="<s>Once"))).token_ids
    assert list(plain).count(bos) == list(given).count(bos) == 1
    assert plain[0] == given[0] == bos


def test_text_that_is_too_long_can_lose_its_beginning(prompts):
    text = "one two three " * 600 + "the end"
    with pytest.raises(ContextOverflow, match=r"8,407 characters; with a context of 512 tokens the limit is 8,192"):
        prompts.prepare(GenerationRequest(prompt=TextPrompt(text=text)))
    kept = prompts.prepare(GenerationRequest(prompt=TextPrompt(text=text, overflow="drop_oldest"), params=GREEDY)).token_ids
    assert len(kept) == 512 - 24
    assert kept[0] == prompts._tokenizer.bos_id
    assert written(prompts, kept).endswith("the end")


def test_half_a_character_pair_becomes_a_replacement_character(prompts):
    assert written(prompts, prompts.tokenize("a\ud83db")) == "a\ufffdb"
    assert written(prompts, prompts.tokenize("a\ud83d\ude00b")) == "a😀b"


def test_token_ids_pass_as_they_are(prompts):
    assert prompts.prepare(GenerationRequest(prompt=TokenPrompt(token_ids=(5, 6)))).token_ids == (5, 6)


def test_a_template_that_runs_away_is_stopped(prompts, starter_gguf):
    endless = TemplateSource(text="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", origin="a test")
    quick = ModelPrompts(prompts._model, TemplateRenderer(timeout_s=0.3))
    with pytest.raises(InvalidRequest):
        quick.prepare(chat("Hi", template=endless))
    assert quick.prepare(chat("Hi")).token_ids
    quick._renderer.close()


def test_a_model_without_template_says_what_to_do(prompts):
    bare = ModelPrompts(prompts._model, prompts._renderer)
    model = prompts._model
    template, model.template = model.template, None
    try:
        with pytest.raises(InvalidRequest, match="no chat template of its own. Choose a prompt template"):
            bare.prepare(chat("Hi"))
    finally:
        model.template = template


def test_tools_are_told_in_words_or_by_a_template_of_their_own(prompts):
    tools = checked_tools([{"function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}])
    prepared = prompts.prepare(chat("Hi", tools=tools, must_call=("look",)))
    text = written(prompts, prepared.token_ids)
    assert '{"name": "look"' in text
    assert "<tool_call>" in text
    assert prepared.call_format == "generic"
    assert prepared.calls.frame.items[0][0].endswith('"look", "arguments": ')
    assert (prompts.prepare(chat("Hi")).call_format, prompts.prepare(chat("Hi")).calls) == ("", None)
    model, own = prompts._model, prompts._model.template
    spoken = "{{ bos_token }}{% for tool in tools %}[TOOL_CALLS]{{ tool.function.name }}{% endfor %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    model.template = own.model_copy(update={"tool_text": spoken})
    try:
        with_tools, without = prompts.prepare(chat("Hi", tools=tools)), prompts.prepare(chat("Hi"))
    finally:
        model.template = own
    assert (with_tools.call_format, with_tools.template_origin) == ("mistral", f"{own.origin} (tool_use)")
    assert "[TOOL_CALLS]look" in written(prompts, with_tools.token_ids)
    assert without.token_ids == prompts.prepare(chat("Hi")).token_ids


# ---- the process ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(starter_gguf: Path) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(str(starter_gguf), "", OPTIONS, name="Starter", heartbeat_timeout_s=3.0)
    yield client
    await client.close()


async def until(condition) -> None:
    end = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


async def test_eight_clients_get_interleaved_streams_each_as_alone(client):
    assert client.card.template_origin == "GGUF metadata"
    order = []
    params = GenerationParams(temperature=0, logprobs=5)

    async def follow(number: int) -> list[TokenLogprob]:
        request = chat(QUESTIONS[number], params=params)
        entries = []
        async for delta in await client.submit(request.model_copy(update={"client": str(number)})):
            order.append(number)
            entries += delta.logprobs
        return entries

    alone = [await follow(number) for number in range(8)]
    assert all(alone)
    order.clear()
    together = await asyncio.gather(*map(follow, range(8)))
    assert_same_but_for_ties([[entry.token_id for entry in entries] for entries in together], alone)
    firsts = [order.index(number) for number in range(8)]
    lasts = [len(order) - 1 - order[::-1].index(number) for number in range(8)]
    assert max(firsts) < min(lasts)  # all had begun before the first one ended


async def test_the_next_turn_reuses_the_conversation(client):
    first = await reply(client, chat("Hi"))
    generation = await client.submit(chat("Hi", first, "Who are you?"))
    async for _ in generation:
        pass
    assert generation.started.reused_tokens >= 13
    assert generation.usage.reused_tokens == generation.started.reused_tokens
    assert (await client.counters()).reused_tokens == generation.started.reused_tokens


async def test_kill_9_in_mid_reply(client):
    generation = await client.submit(chat("Tell me a story.", params=ENDLESS))
    text, killed_s = "", 0.0
    with pytest.raises(EngineCrashed, match="SIGKILL"):
        async for delta in generation:
            text += delta.text
            if not killed_s:
                killed_s = time.monotonic()
                os.kill(client.pid, signal.SIGKILL)
    assert time.monotonic() - killed_s < 1
    assert text
    assert not client.alive


async def test_a_hung_process_is_replaced_by_a_sentence(client):
    generation = await client.submit(chat("Tell me a story.", params=ENDLESS))
    await generation.__anext__()
    os.kill(client.pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    with pytest.raises(EngineCrashed, match="no sign of life"):
        async for _ in generation:
            pass
    assert time.monotonic() - begun_s < 6


async def test_stop_frees_the_slot(client):
    generation = await client.submit(chat("Tell me a story.", params=ENDLESS))
    await generation.__anext__()
    await generation.cancel()
    rest = [delta async for delta in generation]
    assert rest[-1].finish_reason == "cancelled"
    counters = await client.counters()
    assert (counters.running, counters.cancelled) == (0, 1)
    assert counters.cached_tokens > 0  # what was computed can be used again


async def test_next_tokens_and_score(client):
    found = (await client.next_tokens(TextPrompt(text="Once upon a"), 5)).tokens
    assert found[0].text == " time"
    assert [entry.logprob for entry in found] == sorted((entry.logprob for entry in found), reverse=True)
    ids = await client.tokenize("Once upon a time")
    scores = await client.score([1, *ids])
    assert len(scores) == len(ids)
    assert scores[-1] == pytest.approx(found[0].logprob, abs=0.05)


async def test_an_adapter_that_is_not_there_changes_nothing(client, tmp_path):
    before = await reply(client, chat("Hi"))
    with pytest.raises((LoadFailed, NotFound, InvalidRequest)):
        await client.set_adapters([Adapter(path=str(tmp_path / "none"))])
    assert client.card.adapters == ()
    assert await reply(client, chat("Hi")) == before


async def test_files_that_are_no_model_are_refused_in_a_sentence(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(LoadFailed) as caught:
        await EngineClient.start(str(broken), "", {}, name="Broken")
    assert len(caught.value.message) > 20
    with pytest.raises(NotFound):
        await EngineClient.start(str(tmp_path / "nothing.gguf"), "", {})


async def test_an_option_out_of_bounds_is_named(starter_gguf):
    with pytest.raises(InvalidRequest, match="slots"):
        await EngineClient.start(str(starter_gguf), "llama.cpp", {"slots": 65})


async def test_what_speaks_against_the_template_is_on_the_card_and_the_model_loads_all_the_same(starter_gguf, tmp_path):
    data = starter_gguf.read_bytes()
    begun = b"'<|im_start|>assistant\\n' }}{% endif"
    assert data.count(begun) == 1
    (tmp_path / "odd.gguf").write_bytes(data.replace(begun, begun.replace(b"assistant", b"secretary")))
    for path, expected in ((starter_gguf, ()), (tmp_path / "odd.gguf", ("begins a reply with “<|im_start|>secretary”",))):
        client = await EngineClient.start(str(path), "", OPTIONS)
        try:
            assert len(client.card.template_doubts) == len(expected)
            assert all(part in sentence for part, sentence in zip(expected, client.card.template_doubts, strict=True))
            assert await reply(client, chat("What is a LoRA?"))
        finally:
            await client.close()


@pytest.mark.skipif(sys.platform != "linux" or usable_cores() < 2, reason="threads are counted in /proc, and one core measures none")
async def test_measuring_threads_leaves_none_behind(starter_gguf):
    """OpenMP lets all threads of a process sleep at every barrier once they outnumber the cores: steps on two cores then took half as long again."""

    async def as_many() -> bool:
        plain_threads, measured_threads = (len(list(Path(f"/proc/{client.pid}/task").iterdir())) for client in (plain, measured))
        return plain_threads == measured_threads

    plain = await EngineClient.start(str(starter_gguf), "llama.cpp", OPTIONS)
    measured = await EngineClient.start(str(starter_gguf), "llama.cpp", {**OPTIONS, "threads": 0, "threads_batch": 0})
    try:
        await until(as_many)  # those that end take a moment
    finally:
        await plain.close()
        await measured.close()
