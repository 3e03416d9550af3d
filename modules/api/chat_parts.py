"""The chat path as every dialect of the API uses it: from a body to a request, and from a generation to the parts of a reply or the whole of it.

A reply is what was thought, what was said and which tools were called. Knows no wire format of answers and no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from modules.api.choices import CALLED, FINISH_WORDS, Whole
from modules.api.owner import Caller
from modules.api.role_fields import in_role
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.generation import CallPiece, ChatPrompt, Delta, GenerationRequest
from modules.core.messages import ThoughtStream
from modules.core.params import GenerationParams
from modules.core.text_shape import SHAPE_FIELDS
from modules.services.app import App
from modules.services.generation import CallStream, ClientGeneration, call_stream

MANY_MESSAGES = 500  # more are worth a thread
_Made = TypeVar("_Made")


class ChatCall(NamedTuple):
    """A whole call of a tool; the arguments are JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatPart:
    """What came since the last part of a reply; several fields may be empty."""

    thinking: str
    text: str
    calls: tuple[CallPiece, ...]
    delta: Delta  # as it came: log-probabilities, usage, the stop string; its text is told apart above
    finish_reason: str | None = None  # OpenAI's word, on the last part: stop, length or tool_calls


@dataclass
class ChatWhole(Whole):
    """A finished reply; here `finish_reason` is OpenAI's word: stop, length or tool_calls."""

    calls: list[ChatCall] = field(default_factory=list)
    stop_string: str | None = None


# ---- from body to request ------------------------------------------------------------------------------------------


async def beside(made: Callable[[], _Made], messages: int) -> _Made:
    """What is made of so many messages; many of them in a thread, so that others are answered meanwhile."""
    return made() if messages <= MANY_MESSAGES else await asyncio.to_thread(made)


async def chat_request(app: App, body: ChatRequest, who: Caller) -> GenerationRequest:
    """The request that a body of POST /v1/chat/completions asks for.

    Raises:
        AppError: a preset or template that is not there, or values that do not fit together.
    """
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = await asked_params(app, body, body.max_completion_tokens or body.max_tokens, logprobs)
    template = await app.templates.source(body.prompt_template) if body.prompt_template else None
    prompt = ChatPrompt(
        messages=await beside(lambda: tuple(message.to_message() for message in body.messages), len(body.messages)),
        template=template,
        template_variables=body.chat_template_kwargs,
        tools=body.offered_tools(),
        must_call=body.must_call(),
        several_calls=body.parallel_tool_calls,
        continue_final_message=body.continue_final_message,
        overflow="refuse",
    )
    if (role := body.role()) is not None:
        prompt, params = await in_role(app, role, prompt, params)
    return GenerationRequest(prompt=prompt, params=params, person=who.person, client=who.client)


async def asked_params(app: App, body: ChatRequest | CompletionRequest, max_tokens: int | None, logprobs: int | None, *, usual_tokens: int = 0) -> GenerationParams:
    """The sampling parameters of a body, on top of its preset; `usual_tokens` are the most where neither says how many (0: as many as there is room for)."""
    given: dict[str, Any] = body.given()
    if max_tokens:
        given["max_tokens"] = max_tokens
    if logprobs is not None:
        given["logprobs"] = logprobs
    if not body.preset and not any(given.get(name) for name in SHAPE_FIELDS):
        params = app.presets.merge(None, given)  # nothing to read and nothing to look at for long: a thread would cost more
    else:
        params = await asyncio.to_thread(app.presets.merge, body.preset, given)
    return params.model_copy(update={"max_tokens": usual_tokens}) if usual_tokens and not params.max_tokens else params


# ---- from generation to reply --------------------------------------------------------------------------------------


class ChatReader:
    """Tells the deltas of one generation apart, one by one. `request` is the one that was submitted."""

    def __init__(self, generation: ClientGeneration, request: GenerationRequest) -> None:
        self._generation = generation
        self._request = request
        self._thoughts: ThoughtStream | None = None  # how the reply begins is known with its first delta
        self._calls: CallStream | None = None
        self._called = False

    def read(self, delta: Delta) -> ChatPart:
        """What a delta adds."""
        last = delta.finish_reason is not None
        if self._thoughts is None:
            started, prompt = self._generation.started, self._request.prompt
            self._thoughts = ThoughtStream(started.starts_thinking if started else "")
            self._calls = call_stream(started, prompt) if isinstance(prompt, ChatPrompt) else None
        thinking, text = self._thoughts.feed(delta.text, last=last)
        calls = delta.calls
        if self._calls is not None:
            text, calls = self._calls.feed(text, last=last)
        self._called = self._called or bool(calls)
        word = FINISH_WORDS[delta.finish_reason]
        return ChatPart(thinking, text, calls, delta, CALLED if word == "stop" and self._called else word)


async def chat_parts(generation: ClientGeneration, request: GenerationRequest) -> AsyncIterator[ChatPart]:
    """The parts of a reply as they come; the last one has a `finish_reason`. Whoever iterates closes the generation.

    Raises:
        AppError: the generation failed.
    """
    reader = ChatReader(generation, request)
    async for delta in generation:
        yield reader.read(delta)


async def whole_chat(generation: ClientGeneration, request: GenerationRequest) -> ChatWhole:
    """Wait for the whole reply.

    Raises:
        AppError: the generation failed.
    """
    reply, reader = ChatWhole(), ChatReader(generation, request)
    calls: dict[int, list[CallPiece]] = {}
    async for delta in generation:
        part = reader.read(delta)
        reply.add(part.thinking, part.text, delta)
        for piece in part.calls:
            calls.setdefault(piece.index, []).append(piece)
        if part.finish_reason is not None:
            reply.finish_reason, reply.stop_string = part.finish_reason, delta.stop_string
    reply.calls = [ChatCall(pieces[0].id, pieces[0].name, "".join(piece.arguments for piece in pieces)) for _, pieces in sorted(calls.items())]
    reply.seed = generation.started.seed if generation.started else 0
    return reply
