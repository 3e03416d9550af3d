"""POST /api/chat and /api/generate as Ollama has them: one line of JSON for each piece, or one object.

The request goes the same way as one of OpenAI's clients. Source: Ollama's public API reference.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer, json_bytes
from modules.api.chat_parts import ChatPart, asked_params, beside, chat_parts, chat_request
from modules.api.choices import FINISH_WORDS
from modules.api.completions import CLIENT_GONE
from modules.api.ollama_bodies import ChatBody, GenerateBody
from modules.api.ollama_names import resolved
from modules.api.owner import caller
from modules.api.sse import HEADERS, unless_gone
from modules.api.streamed import Streamed
from modules.core.errors import AppError
from modules.core.generation import CallPiece, ChatPrompt, GenerationRequest, TextPrompt, TokenLogprob, Usage
from modules.core.person import check_manages
from modules.core.tools import arguments_of
from modules.services.app import App
from modules.services.generation import ClientGeneration

DONE_WORDS: Mapping[str | None, str] = MappingProxyType({"length": "length"})  # all other ends are a stop there
NS = 1_000_000_000


@dataclass
class _Asked:
    """One request on its way: what it is about and how long it takes."""

    model: str  # as the client named it
    chats: bool
    begun_ns: int = field(default_factory=time.monotonic_ns)
    load_ns: int = 0

    def line(self, text: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
        """One piece in Ollama's form."""
        said: dict[str, Any]
        thought = {"thinking": thinking} if thinking else {}
        if self.chats:
            said = {"message": {"role": "assistant", "content": text, **thought, **({"tool_calls": calls} if calls else {})}}
        else:
            said = {"response": text, **thought}
        return {"model": self.model, "created_at": now(), **said, "done": False, **more}

    def end(self, reason: str | None, usage: Usage) -> dict[str, Any]:
        """What the last piece tells beyond the others."""
        return {
            "done": True,
            "done_reason": DONE_WORDS.get(reason, "stop"),
            "total_duration": time.monotonic_ns() - self.begun_ns,
            "load_duration": self.load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int(usage.prefill_s * NS),
            "eval_count": usage.completion_tokens,
            "eval_duration": int(usage.decode_s * NS),
        }


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def add_writing(app: App, router: APIRouter) -> None:
    """The two routes."""

    @router.post("/chat", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation; without messages the model is only loaded, or with keep_alive 0 unloaded."""
        asked = _Asked(body.model, chats=True)
        if not body.messages:
            return await _kept(app, asked, body)
        return await _answer(app, request, body, asked, await _for_chat(app, body, request))

    @router.post("/generate", response_model=None)
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Answer a prompt; without one the model is only loaded, or with keep_alive 0 unloaded."""
        asked = _Asked(body.model, chats=False)
        if not (body.prompt or body.images):
            return await _kept(app, asked, body)
        wanted = await _for_raw(app, body, request) if body.raw else await _for_chat(app, body, request)
        return await _answer(app, request, body, asked, wanted)


# ---- from body to request ------------------------------------------------------------------------------------------


async def _kept(app: App, asked: _Asked, body: ChatBody | GenerateBody) -> Response:
    """Have the model loaded, or unload it."""
    name = await resolved(app, body.model)
    if body.unloads:
        check_manages(app.settings, need="models")
        target = name or next(iter(app.models.loaded_names()), "")
        if target in (*app.models.loaded_names(), *app.models.status().asleep):
            await app.models.unload(target)
    else:
        await app.models.get(name)
    return JsonAnswer(asked.line(done=True, done_reason="unload" if body.unloads else "load"))


async def _for_chat(app: App, body: ChatBody | GenerateBody, request: Request) -> GenerationRequest:
    chat = await beside(body.request, len(body.messages) if isinstance(body, ChatBody) else 1)
    asked = await chat_request(app, chat, caller(request))
    assert isinstance(asked.prompt, ChatPrompt)
    if not body.truncate:
        return asked
    return asked.model_copy(update={"prompt": asked.prompt.model_copy(update={"overflow": "drop_oldest"})})  # the last line says how many


async def _for_raw(app: App, body: GenerateBody, request: Request) -> GenerationRequest:
    own = body.raw_request()
    params = await asked_params(app, own, own.max_tokens, own.logprobs)
    who = caller(request)
    return GenerationRequest(prompt=TextPrompt(text=body.prompt), params=params, person=who.person, client=who.client)


# ---- from generation to answer -------------------------------------------------------------------------------------


async def _answer(app: App, request: Request, body: ChatBody | GenerateBody, asked: _Asked, wanted: GenerationRequest) -> Response:
    wanted = wanted.model_copy(update={"whole": not body.stream})
    generation = await app.generation.submit(wanted, await resolved(app, body.model))
    asked.load_ns = time.monotonic_ns() - asked.begun_ns
    asked.model = asked.model or generation.model
    if body.stream:
        return Streamed(_lines(generation, wanted, asked, body.logprobs), media_type="application/x-ndjson", headers=dict(HEADERS))
    whole = await unless_gone(request, _whole(generation, wanted, asked, body.logprobs))
    return JsonAnswer(whole) if whole is not None else Response(status_code=CLIENT_GONE)


async def _lines(generation: ClientGeneration, wanted: GenerationRequest, asked: _Asked, logprobs: bool) -> AsyncIterator[bytes]:
    try:
        async for piece in _pieces(generation, wanted, asked, logprobs):
            yield json_bytes(piece) + b"\n"
    except AppError as error:
        yield json_bytes({"error": error.message}) + b"\n"
    finally:
        await generation.aclose()


async def _whole(generation: ClientGeneration, wanted: GenerationRequest, asked: _Asked, logprobs: bool) -> dict[str, Any]:
    text = thinking = ""
    calls: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    try:
        async for piece in _pieces(generation, wanted, asked, logprobs):
            said = piece.get("message") or {"content": piece.get("response", ""), **piece}
            text, thinking, last = text + said["content"], thinking + said.get("thinking", ""), piece
            calls += said.get("tool_calls", ())
            told += piece.get("logprobs", ())
    finally:
        await generation.aclose()
    ending = {name: value for name, value in last.items() if name not in ("model", "created_at", "message", "response", "logprobs")}
    return asked.line(text, thinking, calls, **ending, **({"logprobs": told} if logprobs else {}))


async def _pieces(generation: ClientGeneration, wanted: GenerationRequest, asked: _Asked, logprobs: bool) -> AsyncIterator[dict[str, Any]]:
    """The pieces of a reply; calls of tools come whole, at its end, and the last piece has the counts."""
    held: list[CallPiece] = []
    async for part in chat_parts(generation, wanted) if isinstance(wanted.prompt, ChatPrompt) else _plain_parts(generation):
        held += part.calls
        more = {"logprobs": [_logprob(entry, nested=True) for entry in part.delta.logprobs]} if logprobs and part.delta.logprobs else {}
        if part.text or part.thinking or more:
            yield asked.line(part.text, part.thinking, **more)
        if part.finish_reason is None:
            continue
        if calls := _calls(held):
            yield asked.line(calls=calls)
        started = generation.started
        dropped: dict[str, Any] = {"dropped_messages": started.dropped_messages} if started and started.dropped_messages else {}
        yield asked.line(**asked.end(part.finish_reason, part.delta.usage or Usage()), **dropped)


async def _plain_parts(generation: ClientGeneration) -> AsyncIterator[ChatPart]:
    """A text that is continued as it stands is nothing but text."""
    async for delta in generation:
        yield ChatPart("", delta.text, (), delta, FINISH_WORDS[delta.finish_reason])


def _calls(pieces: list[CallPiece]) -> list[dict[str, Any]]:
    """Whole calls with their arguments as objects; one that was broken off is left out."""
    names = {piece.index: piece.name for piece in pieces if piece.name}
    found = []
    for index, name in sorted(names.items()):
        arguments = arguments_of("".join(piece.arguments for piece in pieces if piece.index == index))
        if arguments is not None:
            found.append({"function": {"name": name, "arguments": arguments}})
    return found


def _logprob(entry: TokenLogprob, *, nested: bool = False) -> dict[str, Any]:
    row = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.raw)}
    return {**row, "top_logprobs": [_logprob(top) for top in entry.top]} if nested and entry.top else row
