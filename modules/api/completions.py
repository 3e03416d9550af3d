"""POST /v1/chat/completions and /v1/completions, streamed and whole.

Shapes and errors are OpenAI's. A client that goes away frees its slot at once. Source: the public OpenAI API reference.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer, json_bytes
from modules.api.choices import FINISH_WORDS, Whole, prompt_table
from modules.api.errors import body_of, documented_errors
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.api.sse import frame, stream, unless_gone
from modules.api.text_completions import TextShape
from modules.api.timings import timings
from modules.api.waiting import waiting_comments
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
from modules.core.person import asking
from modules.core.text_shape import SHAPE_FIELDS
from modules.services.app import App
from modules.services.generation import ClientGeneration

CLIENT_GONE = 499


def completions_router(app: App) -> APIRouter:
    """The two generation routes over an `App`."""
    router = APIRouter(prefix="/v1", responses=documented_errors())

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        requests = _with_seeds(await _chat_request(app, body, request), body.n)
        shape = _ChatShape(body.logprobs)
        return await _answer(app, request, body, requests, shape)

    @router.post("/completions", response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more texts."""
        params = await _params(app, body, body.max_tokens or 16, body.logprobs)
        requests = []
        for prompt in body.prompts():
            source = _text_prompt(body, prompt) if isinstance(prompt, str) else TokenPrompt(token_ids=prompt)
            requests += _with_seeds(GenerationRequest(prompt=source, params=params, person=_person(request), client=_client(body, request)), body.n)
        echoes = [await _echo(app, prompt, body.model) for prompt in body.prompts()] if body.echo else []
        shape = TextShape(body.logprobs is not None, [echo for echo in echoes for _ in range(body.n)], body.tells_prompt)
        return await _answer(app, request, body, requests, shape)

    return router


# ---- from body to requests -----------------------------------------------------------------------------------------


def _text_prompt(body: CompletionRequest, text: str) -> TextPrompt:
    return TextPrompt(text=text, add_bos=body.add_bos, parse_special=body.parse_special)


async def _params(app: App, body: ChatRequest | CompletionRequest, max_tokens: int, logprobs: int | None) -> GenerationParams:
    given = body.given()
    given["max_tokens"] = max_tokens
    if logprobs is not None:
        given["logprobs"] = logprobs
    if not body.preset and not any(given.get(name) for name in SHAPE_FIELDS):
        return app.presets.merge(None, given)  # nothing to read and nothing to look at for long: a thread would cost more
    return await asyncio.to_thread(app.presets.merge, body.preset, given)


async def _echo(app: App, prompt: str | tuple[int, ...], model: str) -> str:
    """The text of a prompt."""
    return prompt if isinstance(prompt, str) else await app.generation.detokenize(prompt, model)


def _client(body: ChatRequest | CompletionRequest, request: Request) -> str:
    return body.user or (request.client.host if request.client else "")


def _person(request: Request) -> str:
    """Whose turn it is: the person's who asks, or where nobody is told apart, the address's."""
    who = asking()
    return who.id if who is not None else (request.client.host if request.client else "")


async def _chat_request(app: App, body: ChatRequest, request: Request) -> GenerationRequest:
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
    return GenerationRequest(prompt=prompt, params=params, person=_person(request), client=_client(body, request))


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

    def prompt(self, index: int, entries: Sequence[TokenLogprob]) -> None:
        """Chat streams tell nothing about the prompt."""

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

    def whole(self, index: int, choice: Whole) -> dict[str, Any]:
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
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.raw)}


_Shape = _ChatShape | TextShape


def _usage(parts: Sequence[Usage], choices_per_prompt: int) -> dict[str, Any]:
    """OpenAI's usage: a prompt counts once however many choices it has."""
    prompts = parts[::choices_per_prompt]
    prompt, completion = sum(p.prompt_tokens for p in prompts), sum(p.completion_tokens for p in parts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(p.reused_tokens for p in prompts)},
        "timings": timings(prompts, parts),
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
            **({"prompt_logprobs": prompt_table(choices[0].prompt_logprobs)} if isinstance(body, ChatRequest) and body.tells_prompt else {}),
            **_fingerprint(choices[0].seed),
            "seeds": [choice.seed for choice in choices],
        }
    )


async def _close(generations: Sequence[ClientGeneration]) -> None:
    await asyncio.gather(*(generation.aclose() for generation in generations), return_exceptions=True)


async def _gather(generations: Sequence[ClientGeneration], split: bool) -> list[Whole]:
    """Wait for all choices; the first failure ends all."""
    try:
        return await asyncio.gather(*(_collect(generation, split) for generation in generations))
    finally:
        await _close(generations)


async def _collect(generation: ClientGeneration, split: bool) -> Whole:
    choice = Whole()
    thoughts: ThoughtStream | None = None
    async for delta in generation:
        thinking, text = "", delta.text
        if split:
            thoughts = thoughts or ThoughtStream(_opened(generation))
            thinking, text = thoughts.feed(delta.text, last=delta.finish_reason is not None)
        choice.thinking += thinking
        choice.text += text
        choice.logprobs.extend(delta.logprobs)
        choice.prompt_logprobs.extend(delta.prompt_logprobs)
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
    head = {**head, "object": shape.piece_kind}
    usages = [Usage() for _ in generations]
    sources = [_choice(index, generation, shape, usages) for index, generation in enumerate(generations)]
    frames = _Frames({**head, **({"usage": None} if with_usage else {})}, generations)
    try:
        for index in range(len(generations)):
            first = shape.first(index)
            if first is not None:
                yield frame({**head, "choices": [first]})
        async for comment in waiting_comments(generations[0]):
            yield comment
        try:
            # one choice alone needs nothing that puts several together: a task and a queue cost as much as all the rest of a token here
            async for piece in sources[0] if len(sources) == 1 else _interleaved(sources):
                yield frames.of(piece)
        except AppError as error:
            yield frame(body_of(error))
            return
        if with_usage:
            yield frame({**head, "choices": [], "usage": _usage(usages, n)})
        yield b"data: [DONE]\n\n"
    finally:
        await _close(generations)


class _Frames:
    """Events of a stream that differ in their choice alone: what stands around it is written once for each."""

    def __init__(self, around: dict[str, Any], generations: Sequence[ClientGeneration]) -> None:
        self._around = around
        self._generations = generations
        self._begins: dict[int, bytes] = {}

    def of(self, piece: dict[str, Any]) -> bytes:
        """The event with one piece of a choice."""
        index = piece["index"]
        begin = self._begins.get(index)
        if begin is None:
            told = {**self._around, **_fingerprint(_seed(self._generations[index]))}
            begin = self._begins[index] = frame(told)[: -len(b"}\n\n")] + b',"choices":['
        return begin + json_bytes(piece) + b"]}\n\n"


async def _choice(index: int, generation: ClientGeneration, shape: _Shape, usages: list[Usage]) -> AsyncIterator[dict[str, Any]]:
    """The pieces of one choice."""
    offset = 0
    thoughts: ThoughtStream | None = None
    asked: list[TokenLogprob] = []  # tokens of the prompt
    async for delta in generation:
        asked += delta.prompt_logprobs
        thinking, text = "", delta.text
        if isinstance(shape, _ChatShape):
            thoughts = thoughts or ThoughtStream(_opened(generation))
            thinking, text = thoughts.feed(delta.text, last=delta.finish_reason is not None)
        usages[index] = delta.usage or usages[index]
        if thinking or text or delta.logprobs or delta.finish_reason:
            if asked and (prompt := shape.prompt(index, asked)) is not None:
                yield prompt
            asked = []
            yield shape.piece(index, thinking, text, delta, offset)
        offset += len(delta.text)


async def _interleaved(sources: Sequence[AsyncIterator[dict[str, Any]]]) -> AsyncIterator[dict[str, Any]]:
    """The pieces of all as they come; the first failure ends all."""
    queue: asyncio.Queue[dict[str, Any] | AppError | None] = asyncio.Queue(maxsize=64)

    async def feed(source: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for piece in source:
                await queue.put(piece)
            await queue.put(None)
        except AppError as error:
            await queue.put(error)

    tasks = [asyncio.create_task(feed(source)) for source in sources]
    open_choices = len(tasks)
    try:
        while open_choices:
            item = await queue.get()
            if item is None:
                open_choices -= 1
            elif isinstance(item, AppError):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
