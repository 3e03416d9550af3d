"""POST /v1/chat/completions and /v1/completions, streamed and whole.

Shapes and errors are OpenAI's. A client that goes away frees its slot at once. Source: the public OpenAI API reference.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer
from modules.api.errors import body_of, documented_errors
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.api.sse import frame, stream, unless_gone
from modules.core.errors import AppError
from modules.core.generation import (
    ChatPrompt,
    Delta,
    GenerationRequest,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
    Usage,
)
from modules.core.messages import ThoughtStream
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.generation import ClientGeneration

FINISH_WORDS = MappingProxyType({"stop": "stop", "length": "length", "cancelled": "stop", "error": "stop", None: None})
CLIENT_GONE = 499


@dataclass
class _Whole:
    """One finished choice."""

    text: str = ""
    thinking: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    seed: int = 0


def completions_router(app: App) -> APIRouter:
    """The two generation routes over an `App`."""
    router = APIRouter(prefix="/v1", responses=documented_errors())

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        requests = _with_seeds(await _chat_request(app, body, _client(body, request)), body.n)
        shape = _ChatShape(body.logprobs)
        return await _answer(app, request, body, requests, shape)

    @router.post("/completions", response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more texts."""
        params = await _params(app, body, body.max_tokens or 16, body.logprobs)
        requests = []
        for prompt in body.prompts():
            source = TextPrompt(text=prompt, parse_special=body.parse_special) if isinstance(prompt, str) else TokenPrompt(token_ids=prompt)
            requests += _with_seeds(GenerationRequest(prompt=source, params=params, client=_client(body, request)), body.n)
        shape = _TextShape(body.logprobs is not None, [p for p in body.prompts() for _ in range(body.n)] if body.echo else [])
        return await _answer(app, request, body, requests, shape)

    return router


# ---- from body to requests -----------------------------------------------------------------------------------------


async def _params(app: App, body: ChatRequest | CompletionRequest, max_tokens: int, logprobs: int | None) -> GenerationParams:
    given = body.given()
    given["max_tokens"] = max_tokens
    if logprobs is not None:
        given["logprobs"] = logprobs
    return await asyncio.to_thread(app.presets.merge, body.preset, given)


def _client(body: ChatRequest | CompletionRequest, request: Request) -> str:
    return body.user or (request.client.host if request.client else "")


async def _chat_request(app: App, body: ChatRequest, client: str) -> GenerationRequest:
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = await _params(app, body, body.max_completion_tokens or body.max_tokens or 0, logprobs)
    template = await app.templates.source(body.prompt_template) if body.prompt_template else None
    prompt = ChatPrompt(
        messages=tuple(message.to_message() for message in body.messages),
        template=template,
        template_variables=body.chat_template_kwargs,
        continue_final_message=body.continue_final_message,
        overflow="refuse",
    )
    return GenerationRequest(prompt=prompt, params=params, client=client)


def _with_seeds(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """`n` copies; a given seed counts up, so that the choices differ and can be repeated."""
    seed = request.params.seed
    if n == 1 or seed is None:
        return [request] * n
    return [request.model_copy(update={"params": request.params.model_copy(update={"seed": (seed + i) % 2**64})}) for i in range(n)]


# ---- from generations to responses ---------------------------------------------------------------------------------


class _ChatShape:
    """How chat choices look, whole and in pieces."""

    prefix, kind, piece_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def first(self, index: int) -> dict[str, Any] | None:
        """The piece that opens a choice."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, thinking: str, text: str, delta: Delta, offset: int) -> dict[str, Any]:
        """One piece of a stream."""
        body: dict[str, Any] = {}
        if thinking:
            body["reasoning_content"] = thinking
        if text:
            body["content"] = text
        return {
            "index": index,
            "delta": body,
            "logprobs": self._table(delta.logprobs),
            "finish_reason": FINISH_WORDS[delta.finish_reason],
        }

    def whole(self, index: int, choice: _Whole) -> dict[str, Any]:
        """A finished choice."""
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.thinking:
            message["reasoning_content"] = choice.thinking
        return {
            "index": index,
            "message": message,
            "logprobs": self._table(choice.logprobs),
            "finish_reason": FINISH_WORDS[choice.finish_reason],
        }

    def _table(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": [{**_entry(entry), "top_logprobs": [_entry(top) for top in entry.top]} for entry in logprobs]}


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.text.encode())}


class _TextShape:
    """How plain completion choices look, whole and in pieces."""

    prefix, kind, piece_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, logprobs: bool, echoes: Sequence[str | tuple[int, ...]]) -> None:
        self._logprobs = logprobs
        self._echoes = tuple(echo if isinstance(echo, str) else "" for echo in echoes)

    def first(self, index: int) -> dict[str, Any] | None:
        """The piece that opens a choice: the prompt itself, if asked for."""
        if not self._echoes:
            return None
        return {"index": index, "text": self._echoes[index], "logprobs": None, "finish_reason": None}

    def piece(self, index: int, thinking: str, text: str, delta: Delta, offset: int) -> dict[str, Any]:
        """One piece of a stream."""
        return {
            "index": index,
            "text": thinking + text,
            "logprobs": self._table(delta.logprobs, offset),
            "finish_reason": FINISH_WORDS[delta.finish_reason],
        }

    def whole(self, index: int, choice: _Whole) -> dict[str, Any]:
        """A finished choice."""
        echo = self._echoes[index] if self._echoes else ""
        return {
            "index": index,
            "text": echo + choice.text,
            "logprobs": self._table(choice.logprobs, len(echo)),
            "finish_reason": FINISH_WORDS[choice.finish_reason],
        }

    def _table(self, logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        offsets = []
        for entry in logprobs:
            offsets.append(offset)
            offset += len(entry.text)
        return {
            "tokens": [entry.text for entry in logprobs],
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [{top.text: top.logprob for top in entry.top} for entry in logprobs],
            "text_offset": offsets,
        }


_Shape = _ChatShape | _TextShape


def _usage(parts: Sequence[Usage], choices_per_prompt: int) -> dict[str, Any]:
    """OpenAI's usage: a prompt counts once however many choices it has."""
    prompts = parts[::choices_per_prompt]
    prompt, completion = sum(p.prompt_tokens for p in prompts), sum(p.completion_tokens for p in parts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(p.reused_tokens for p in prompts)},
    }


async def _answer(
    app: App, request: Request, body: ChatRequest | CompletionRequest, requests: Sequence[GenerationRequest], shape: _Shape
) -> Response:
    """Submit all requests, then answer as a stream or as a whole."""
    generations: list[ClientGeneration] = []
    try:
        for item in (request.model_copy(update={"whole": not body.stream}) for request in requests):
            generations.append(await app.generation.submit(item, body.model, body.adapters))
    except AppError:
        await _close(generations)
        raise
    head: dict[str, Any] = {"id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": generations[0].model}
    if generations[0].adapters:
        head["adapters"] = [choice.model_dump() for choice in generations[0].adapters]
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return stream(_pieces(generations, head, shape, body.n, usage))
    choices = await unless_gone(request, _gather(generations, isinstance(shape, _ChatShape)))
    if choices is None:
        return Response(status_code=CLIENT_GONE)
    return JsonAnswer(
        {
            **head,
            "object": shape.kind,
            "choices": [shape.whole(i, choice) for i, choice in enumerate(choices)],
            "usage": _usage([choice.usage for choice in choices], body.n),
            **_fingerprint(choices[0].seed),
            "seeds": [choice.seed for choice in choices],
        }
    )


async def _close(generations: Sequence[ClientGeneration]) -> None:
    await asyncio.gather(*(generation.aclose() for generation in generations), return_exceptions=True)


async def _gather(generations: Sequence[ClientGeneration], split: bool) -> list[_Whole]:
    """Wait for all choices; the first failure ends all."""
    try:
        return await asyncio.gather(*(_collect(generation, split) for generation in generations))
    finally:
        await _close(generations)


async def _collect(generation: ClientGeneration, split: bool) -> _Whole:
    choice = _Whole()
    thoughts: ThoughtStream | None = None
    async for delta in generation:
        thinking, text = "", delta.text
        if split:
            thoughts = thoughts or ThoughtStream(_opened(generation))
            thinking, text = thoughts.feed(delta.text, last=delta.finish_reason is not None)
        choice.thinking += thinking
        choice.text += text
        choice.logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None:
            choice.finish_reason = delta.finish_reason
            choice.usage = delta.usage or choice.usage
    choice.seed = _seed(generation)
    return choice


def _seed(generation: ClientGeneration) -> int:
    """The seed in use, drawn or given."""
    return generation.started.seed if generation.started else 0


def _fingerprint(seed: int) -> dict[str, str]:
    """How the seed is reported in a field that OpenAI's clients know."""
    return {"system_fingerprint": f"seed-{seed}"}


def _opened(generation: ClientGeneration) -> str:
    return generation.started.starts_thinking if generation.started else ""


async def _pieces(
    generations: Sequence[ClientGeneration], head: dict[str, Any], shape: _Shape, n: int, with_usage: bool
) -> AsyncIterator[bytes]:
    """All choices interleaved as they come, then usage, then the end mark."""
    queue: asyncio.Queue[dict[str, Any] | AppError | None] = asyncio.Queue(maxsize=64)
    usages = [Usage() for _ in generations]
    tasks = [asyncio.create_task(_feed(queue, i, g, shape, usages)) for i, g in enumerate(generations)]
    head = {**head, "object": shape.piece_kind}
    open_choices = len(tasks)
    try:
        for index in range(len(generations)):
            first = shape.first(index)
            if first is not None:
                yield frame({**head, "choices": [first]})
        while open_choices:
            item = await queue.get()
            if item is None:
                open_choices -= 1
            elif isinstance(item, AppError):
                yield frame(body_of(item))
                return
            else:
                seed = _fingerprint(_seed(generations[item["index"]]))
                yield frame({**head, **seed, "choices": [item], **({"usage": None} if with_usage else {})})
        if with_usage:
            yield frame({**head, "choices": [], "usage": _usage(usages, n)})
        yield b"data: [DONE]\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await _close(generations)


async def _feed(
    queue: asyncio.Queue[dict[str, Any] | AppError | None], index: int, generation: ClientGeneration, shape: _Shape, usages: list[Usage]
) -> None:
    """Put the pieces of one choice into the queue; None ends it."""
    offset = 0
    thoughts: ThoughtStream | None = None
    try:
        async for delta in generation:
            thinking, text = "", delta.text
            if isinstance(shape, _ChatShape):
                thoughts = thoughts or ThoughtStream(_opened(generation))
                thinking, text = thoughts.feed(delta.text, last=delta.finish_reason is not None)
            usages[index] = delta.usage or usages[index]
            if thinking or text or delta.logprobs or delta.finish_reason:
                await queue.put(shape.piece(index, thinking, text, delta, offset))
            offset += len(delta.text)
        await queue.put(None)
    except AppError as error:
        await queue.put(error)
