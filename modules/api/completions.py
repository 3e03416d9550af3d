"""POST /v1/chat/completions and /v1/completions, streamed and whole.

Shapes and errors are OpenAI's. A client that goes away frees its slot at once. Source: the public OpenAI API reference.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer, json_bytes
from modules.api.body_route import BodyRoute
from modules.api.chat_choices import ChatShape
from modules.api.chat_parts import asked_params, chat_request
from modules.api.choices import Whole, prompt_table
from modules.api.errors import body_of, documented_errors
from modules.api.fill_in import with_gap
from modules.api.owner import caller
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.api.sse import frame, stream, unless_gone
from modules.api.text_completions import TextShape
from modules.api.timings import timings
from modules.api.waiting import waiting_comments
from modules.core.errors import AppError
from modules.core.generation import Delta, GenerationRequest, TextPrompt, TokenPrompt, Usage
from modules.services.app import App
from modules.services.generation import ClientGeneration

CLIENT_GONE = 499


def completions_router(app: App) -> APIRouter:
    """The two generation routes over an `App`."""
    router = APIRouter(prefix="/v1", responses=documented_errors(), route_class=BodyRoute)

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        requests = _with_seeds(await chat_request(app, body, caller(request, body.user)), body.n)
        shape = ChatShape(body.logprobs, body.return_token_ids)
        return await _answer(app, request, body, requests, shape)

    @router.post("/completions", response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue one or more texts."""
        params = await asked_params(app, body, body.max_tokens, body.logprobs, usual_tokens=16)
        requests, who = [], caller(request, body.user)
        for prompt in body.prompts():
            source = await _text_prompt(app, body, prompt) if isinstance(prompt, str) else TokenPrompt(token_ids=prompt)
            requests += _with_seeds(GenerationRequest(prompt=source, params=params, person=who.person, client=who.client), body.n)
        echoes = [await _echo(app, prompt, body.model) for prompt in body.prompts()] if body.echo else []
        shape = TextShape(body.logprobs is not None, [echo for echo in echoes for _ in range(body.n)], body.tells_prompt, body.return_token_ids)
        return await _answer(app, request, body, requests, shape)

    return router


# ---- from body to requests -----------------------------------------------------------------------------------------


async def _text_prompt(app: App, body: CompletionRequest, text: str) -> TextPrompt:
    if body.suffix:
        return TextPrompt(text=await with_gap(app.generation, text, body.suffix, body.model), add_bos=body.add_bos)
    return TextPrompt(text=text, add_bos=body.add_bos, parse_special=body.parse_special)


async def _echo(app: App, prompt: str | tuple[int, ...], model: str) -> str:
    """The text of a prompt."""
    return prompt if isinstance(prompt, str) else await app.generation.detokenize(prompt, model)


def _with_seeds(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """`n` copies; a given seed counts up, so that the choices differ and can be repeated."""
    seed = request.params.seed
    if n == 1 or seed is None:
        return [request] * n
    return [request.model_copy(update={"params": request.params.model_copy(update={"seed": (seed + i) % 2**64})}) for i in range(n)]


# ---- from generations to responses ---------------------------------------------------------------------------------

_Shape = ChatShape | TextShape
_Asked = tuple[ClientGeneration, GenerationRequest]


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
    if len(requests) > 1:
        await app.generation.check_many(len(requests), body.model)
    try:
        for item in (request.model_copy(update={"whole": not body.stream, "tells_ids": shape.tells_ids}) for request in requests):
            generations.append(await app.generation.submit(item, body.model, body.adapters))
    except AppError:
        await _close(generations)
        raise
    head: dict[str, Any] = {"id": f"{shape.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": generations[0].model}
    app.queues.name(generations, head["id"])
    if generations[0].adapters:
        head["adapters"] = [choice.model_dump() for choice in generations[0].adapters]
    asked = list(zip(generations, requests, strict=True))
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return stream(_pieces(asked, head, shape, body.n, usage))
    finished = await unless_gone(request, _gather(asked, shape))
    if finished is None:
        return Response(status_code=CLIENT_GONE)
    choices = [choice for choice, _ in finished]
    return JsonAnswer(
        {
            **head,
            **shape.beside(generations[0]),
            "object": shape.kind,
            "choices": [written for _, written in finished],
            "usage": _usage([choice.usage for choice in choices], body.n),
            **({"prompt_logprobs": prompt_table(choices[0].prompt_logprobs)} if isinstance(body, ChatRequest) and body.tells_prompt else {}),
            **_fingerprint(choices[0].seed),
            "seeds": [choice.seed for choice in choices],
        }
    )


async def _close(generations: Sequence[ClientGeneration]) -> None:
    await asyncio.gather(*(generation.aclose() for generation in generations), return_exceptions=True)


async def _gather(asked: Sequence[_Asked], shape: _Shape) -> Sequence[tuple[Whole, dict[str, Any]]]:
    """Wait for all choices; the first failure ends all."""
    try:
        return await asyncio.gather(*(shape.finished(index, *one) for index, one in enumerate(asked)))
    finally:
        await _close([generation for generation, _ in asked])


def _seed(generation: ClientGeneration) -> int:
    """The seed in use, drawn or given."""
    return generation.started.seed if generation.started else 0


def _fingerprint(seed: int | None) -> dict[str, str | None]:
    """How the seed is reported in a field that OpenAI's clients know; None where it is not drawn yet."""
    return {"system_fingerprint": None if seed is None else f"seed-{seed}"}


async def _pieces(asked: Sequence[_Asked], head: dict[str, Any], shape: _Shape, n: int, with_usage: bool) -> AsyncIterator[bytes]:
    """All choices interleaved as they come, then usage, then the end mark."""
    generations = [generation for generation, _ in asked]
    head = {**head, "object": shape.piece_kind, **({"usage": None} if with_usage else {})}
    usages = [Usage() for _ in generations]
    sources = [_choice(index, generation, shape.reading(index, generation, request), usages) for index, (generation, request) in enumerate(asked)]
    frames = _Frames(head, generations)
    try:
        for piece in () if shape.tells_ids else _opening(asked, head, shape):
            yield piece
        async for comment in waiting_comments(generations[0]):
            yield comment
        for piece in _opening(asked, head, shape) if shape.tells_ids else ():  # only now the prompt is known
            yield piece
        try:
            # one choice alone needs nothing that puts several together: a task and a queue cost as much as all the rest of a token here
            async for told in sources[0] if len(sources) == 1 else _interleaved(sources):
                yield frames.of(told)
        except AppError as error:
            yield frame(body_of(error))
            return
        if with_usage:
            yield frame({**head, **_fingerprint(_seed(generations[0])), "choices": [], "usage": _usage(usages, n)})
        yield b"data: [DONE]\n\n"
    finally:
        await _close(generations)


def _opening(asked: Sequence[_Asked], head: dict[str, Any], shape: _Shape) -> Iterator[bytes]:
    """The pieces that open the choices, the first with what stands beside them."""
    beside = shape.beside(asked[0][0])
    for index, (_, request) in enumerate(asked):
        first = shape.first(index)
        if first is not None:
            yield frame({**head, **beside, **_fingerprint(request.params.seed), "choices": [first]})
            beside = {}


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


async def _choice(
    index: int, generation: ClientGeneration, read: Callable[[Delta], Sequence[dict[str, Any]]], usages: list[Usage]
) -> AsyncIterator[dict[str, Any]]:
    """The pieces of one choice."""
    async for delta in generation:
        usages[index] = delta.usage or usages[index]
        for piece in read(delta):
            yield piece


async def _interleaved(sources: Sequence[AsyncIterator[dict[str, Any]]]) -> AsyncIterator[dict[str, Any]]:
    """The pieces of all as they come; the first failure ends all."""
    queue: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue(maxsize=64)

    async def feed(source: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for piece in source:
                await queue.put(piece)
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - a defect ends the stream too, which would wait for ever else
            await queue.put(error)

    tasks = [asyncio.create_task(feed(source)) for source in sources]
    open_choices = len(tasks)
    try:
        while open_choices:
            item = await queue.get()
            if item is None:
                open_choices -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
