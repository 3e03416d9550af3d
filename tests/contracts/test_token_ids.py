"""`return_token_ids` over real engines of both loaders, with drafts and without: prompt and ids sent again go on exactly where the reply was."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from modules.api.app import build_api
from modules.core.settings import Settings
from modules.services.app import build_app

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

FOLDERS = ("loras_dir", "presets_dir", "templates_dir", "state_dir")
OPTIONS = {"context_length": 512, "slots": 4, "threads": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama.cpp": ("one.gguf", {"threads_batch": 1}),
    "llama.cpp with drafts": ("one.gguf", {"threads_batch": 1, "draft_lookup": True}),
    "transformers": ("one", {}),
    "transformers with drafts": ("one", {"draft_lookup": True}),
}
TEXT = "A LoRA is a small file that changes a model. A preset is a small file that"
QUESTION = [{"role": "user", "content": "What is a LoRA?"}]
TOLD = {"return_token_ids": True, "temperature": 0}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["sea", "sky"]}}, "required": ["at"]}}}]


class Asker:
    """Asks one loaded model."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self._client = client
        self.model = model

    async def whole(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self._client.post(f"/v1/{path}", json={"model": self.model, **TOLD, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def streamed(self, path: str, **body: Any) -> list[dict[str, Any]]:
        answer = await self._client.post(f"/v1/{path}", json={"model": self.model, **TOLD, **body, "stream": True})
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    async def text_of(self, ids: list[int]) -> str:
        return (await self._client.post("/v1/internal/decode", json={"model": self.model, "tokens": ids})).json()["text"]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(KINDS))
async def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, starter_gguf: Path) -> AsyncIterator[Asker]:
    models = tmp_path_factory.mktemp("told-models")
    shutil.copytree(starter_dir, models / "one", ignore=shutil.ignore_patterns("*.gguf"))
    shutil.copy(starter_gguf, models / "one.gguf")
    app = build_app(Settings(models_dir=models, template_check=False, model="none", **{name: tmp_path_factory.mktemp(name) for name in FOLDERS}))
    name, more = KINDS[request.param]
    await app.start()
    await app.models.load(name, "", OPTIONS | more)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=build_api(app)), base_url="http://localhost", timeout=60) as client:
        yield Asker(client, name)
    await app.close()


def ids_of(pieces: list[dict[str, Any]], index: int = 0) -> list[int]:
    """Of all pieces of one choice; each has some, perhaps none."""
    return [token_id for piece in pieces for choice in piece["choices"] if choice["index"] == index for token_id in choice["token_ids"]]


async def test_a_reply_goes_on_from_its_ids(ask: Asker) -> None:
    long = (await ask.whole("completions", prompt=TEXT, max_tokens=32, ban_eos=True))["choices"][0]
    first = (await ask.whole("completions", prompt=TEXT, max_tokens=16, ban_eos=True))["choices"][0]
    ids = first["prompt_token_ids"] + first["token_ids"]
    rest = await ask.whole("completions", prompt=ids, max_tokens=16, ban_eos=True)
    second = rest["choices"][0]
    assert (len(first["token_ids"]), first["prompt_token_ids"]) == (16, long["prompt_token_ids"])
    assert second["prompt_token_ids"] == ids and first["token_ids"] + second["token_ids"] == long["token_ids"]
    assert first["text"] + second["text"] == long["text"]
    assert rest["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(ids) - 1


async def test_a_chat_goes_on_from_its_ids(ask: Asker) -> None:
    long = await ask.whole("chat/completions", messages=QUESTION, max_tokens=32, ban_eos=True)
    short = await ask.whole("chat/completions", messages=QUESTION, max_tokens=16, ban_eos=True)
    first = short["choices"][0]
    assert "prompt_token_ids" not in first and len(short["prompt_token_ids"]) == short["usage"]["prompt_tokens"]
    rest = await ask.whole("completions", prompt=short["prompt_token_ids"] + first["token_ids"], max_tokens=16, ban_eos=True)
    assert first["token_ids"] + rest["choices"][0]["token_ids"] == long["choices"][0]["token_ids"]
    assert first["message"]["content"] + rest["choices"][0]["text"] == long["choices"][0]["message"]["content"]
    assert rest["usage"]["prompt_tokens_details"]["cached_tokens"] >= rest["usage"]["prompt_tokens"] - 1


async def test_the_end_token_is_told_last_and_is_not_counted(ask: Asker) -> None:
    answer = await ask.whole("chat/completions", messages=QUESTION, max_tokens=200)
    (choice,) = answer["choices"]
    *written, end = choice["token_ids"]
    assert choice["finish_reason"] == "stop" and len(written) == answer["usage"]["completion_tokens"]
    assert await ask.text_of(written) == choice["message"]["content"] and await ask.text_of([end]) == "<|im_end|>"
    pieces = await ask.streamed("chat/completions", messages=QUESTION, max_tokens=200)
    assert ids_of(pieces) == choice["token_ids"] and pieces[-1]["choices"][0]["token_ids"][-1] == end


async def test_what_a_stop_string_cut_off_is_told(ask: Asker) -> None:
    whole = (await ask.whole("completions", prompt=TEXT, max_tokens=24, ban_eos=True))["choices"][0]
    stop = whole["text"][10:18]
    cut = (await ask.whole("completions", prompt=TEXT, max_tokens=24, ban_eos=True, stop=stop))["choices"][0]
    pieces = await ask.streamed("completions", prompt=TEXT, max_tokens=24, ban_eos=True, stop=stop)
    assert cut["text"] == whole["text"][: whole["text"].index(stop)] == "".join(piece["choices"][0]["text"] for piece in pieces)
    assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])] == ids_of(pieces)
    assert (await ask.text_of(cut["token_ids"])).lstrip().startswith((cut["text"] + stop).lstrip())


async def test_a_stream_tells_the_prompt_first_and_all_ids_in_its_pieces(ask: Asker) -> None:
    prompts, loose = [TEXT, "Once upon a time"], {"max_tokens": 12, "n": 2, "temperature": 1.0, "seed": 4, "deterministic": True}
    whole = await ask.whole("completions", prompt=prompts, **loose)
    pieces = await ask.streamed("completions", prompt=prompts, **loose)
    for choice in whole["choices"]:
        own = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        assert ids_of(pieces, choice["index"]) == choice["token_ids"]
        assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"] and not any("prompt_token_ids" in piece for piece in own[1:])
    assert whole["choices"][0]["prompt_token_ids"] == whole["choices"][1]["prompt_token_ids"] != whole["choices"][2]["prompt_token_ids"]
    chat = await ask.whole("chat/completions", messages=QUESTION, **loose)
    pieces = await ask.streamed("chat/completions", messages=QUESTION, stream_options={"include_usage": True}, **loose)
    assert [ids_of(pieces, index) for index in (0, 1)] == [choice["token_ids"] for choice in chat["choices"]]
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [piece.get("prompt_token_ids") for piece in pieces] == [chat["prompt_token_ids"]] + [None] * (len(pieces) - 1)


@pytest.mark.parametrize("more", [{}, {"logprobs": 1}, {"max_tokens": 0}], ids=["text", "logprobs", "only the prompt"])
async def test_an_echo_is_text_and_no_part_of_the_ids(ask: Asker, more: dict[str, Any]) -> None:
    plain = (await ask.whole("completions", prompt=TEXT, **{"max_tokens": 8, **more}))["choices"][0]
    asked = {"prompt": TEXT, "max_tokens": 8, "echo": True, **more}
    whole, pieces = (await ask.whole("completions", **asked))["choices"][0], await ask.streamed("completions", **asked)
    assert (whole["text"], whole["token_ids"]) == (TEXT + plain["text"], plain["token_ids"])
    assert ("".join(piece["choices"][0]["text"] for piece in pieces), ids_of(pieces)) == (whole["text"], whole["token_ids"])
    assert pieces[0]["choices"][0]["prompt_token_ids"] == whole["prompt_token_ids"]


async def test_a_call_of_a_tool_has_its_ids(ask: Asker) -> None:
    asked = {"messages": QUESTION, "tools": TOOLS, "tool_choice": "required", "max_tokens": 120}
    whole, pieces = await ask.whole("chat/completions", **asked), await ask.streamed("chat/completions", **asked)
    (choice,) = whole["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and ids_of(pieces) == choice["token_ids"]
    written = await ask.text_of(choice["token_ids"])
    assert call["function"]["name"] in written and json.loads(call["function"]["arguments"])["at"] in written


async def test_only_who_asks_is_told(ask: Asker) -> None:
    quiet = {"return_token_ids": False, "max_tokens": 4}
    answers = [
        await ask.whole("completions", prompt=TEXT, **quiet), await ask.whole("chat/completions", messages=QUESTION, **quiet),
        await ask.streamed("completions", prompt=TEXT, **quiet), await ask.streamed("chat/completions", messages=QUESTION, **quiet),
    ]  # fmt: skip
    assert "token_ids" not in json.dumps(answers)


async def test_many_at_once_each_have_their_own(ask: Asker) -> None:
    prompts = [f"{word} is" for word in ("A LoRA", "A preset", "The notebook", "Temperature", "A template", "A model")]
    answers = await asyncio.gather(*(ask.whole("completions", prompt=prompt, max_tokens=16, ban_eos=True) for prompt in prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        (choice,) = answer["choices"]
        assert (await ask.text_of(choice["prompt_token_ids"])).endswith(prompt) and (await ask.text_of(choice["token_ids"])).strip() == choice["text"].strip()
