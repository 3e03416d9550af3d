"""What the dialects beside OpenAI's chat share: their bodies become bodies of our own chat, and its parts become their events.

Knows no dialect: what a body means and how an event looks is the dialect's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from fastapi import Request
from pydantic import ValidationError

from modules.api.chat_parts import ChatPart, ChatWhole, chat_parts, chat_request, whole_chat
from modules.api.errors import validation_message
from modules.api.owner import caller
from modules.api.schemas import ChatFields, ChatRequest
from modules.api.sse import unless_gone
from modules.core.errors import AppError, InvalidRequest
from modules.core.generation import GenerationRequest
from modules.services.app import App
from modules.services.generation import ClientGeneration

WAITING_S = 10.0  # between two signs of life while nothing is written yet
UNTOLD = frozenset({"max_tokens", "n", "prompt_logprobs", "stream_options"})  # the dialect says it itself, or has no place for what it brings


def chat_of(body: ChatFields, told: Mapping[str, Any]) -> ChatRequest:
    """A body of our own chat: what is `told`, and every field of ours that was sent.

    Raises:
        InvalidRequest: it does not hold together.
    """
    sent = {name: getattr(body, name) for name in ChatFields.model_fields if name in body.model_fields_set and name not in UNTOLD}
    try:
        return ChatRequest.model_validate({**sent, **told})
    except ValidationError as error:
        message, where = validation_message(error)
        raise InvalidRequest(message, field=where) from error


async def begin(app: App, chat: ChatRequest, asked: GenerationRequest) -> ClientGeneration:
    """Start writing; whoever begins a generation closes it.

    Raises:
        AppError: there is nothing to answer with, or no room.
    """
    return await app.generation.submit(asked.model_copy(update={"whole": not chat.stream}), chat.model, chat.adapters)


async def asked_chat(app: App, chat: ChatRequest, request: Request) -> GenerationRequest:
    """The request that a body asks for; without a name its address is who asks.

    Raises:
        AppError: a preset or template that is not there, or values that do not fit together.
    """
    return await chat_request(app, chat, caller(request, chat.user))


class Events(Protocol):
    """How a reply is told in events."""

    def opened(self) -> Iterator[bytes]:
        """What is said before anything is known."""
        ...

    def waiting(self) -> bytes:
        """A sign of life while nothing is written yet."""
        ...

    def part(self, part: ChatPart) -> Iterator[bytes]:
        """What a part of the reply brings; the last part brings the end."""
        ...

    def failed(self, error: AppError) -> Iterator[bytes]:
        """The end after a failure."""
        ...


async def events_of(
    generation: ClientGeneration, asked: GenerationRequest, events: Events, waiting_s: float = WAITING_S
) -> AsyncIterator[bytes]:
    """The whole stream of a reply; leaving it stops the reply."""
    parts = chat_parts(generation, asked)
    first = asyncio.ensure_future(_next(parts))
    try:
        for event in events.opened():
            yield event
        while not first.done():
            await asyncio.wait({first}, timeout=waiting_s)
            if not first.done():
                yield events.waiting()
        part = first.result()  # the later ones come quickly: no task for each
        while part is not None:
            for event in events.part(part):
                yield event
            part = await _next(parts)
    except AppError as error:
        for event in events.failed(error):
            yield event
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await generation.aclose()


async def _next(parts: AsyncIterator[ChatPart]) -> ChatPart | None:
    return await anext(parts, None)


async def whole_reply(request: Request, generation: ClientGeneration, asked: GenerationRequest) -> ChatWhole | None:
    """The whole reply, or None as soon as the client has gone away.

    Raises:
        AppError: it failed.
    """
    try:
        return await unless_gone(request, whole_chat(generation, asked))
    finally:
        await generation.aclose()
