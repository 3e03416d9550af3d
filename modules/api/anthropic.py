"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API over our own chat.

Knows the routes; bodies, events and errors stand in the files beside it. Source: the public reference of Anthropic's Messages API.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer
from modules.api.anthropic_errors import documented_errors
from modules.api.anthropic_events import MessageEvents, whole_message
from modules.api.anthropic_schemas import CountBody, MessagesRequest
from modules.api.chat_parts import beside
from modules.api.completions import CLIENT_GONE
from modules.api.dialects import asked_chat, begin, events_of, whole_reply
from modules.api.sse import stream
from modules.core.generation import ChatPrompt
from modules.services.app import App


def anthropic_router(app: App) -> APIRouter:
    """The two routes over an `App`."""
    router = APIRouter(prefix="/v1/messages", responses=documented_errors())

    @router.post("", response_model=None)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Write the next message of a conversation."""
        chat = await beside(body.chat, sum(len(turn.content) for turn in body.messages))
        asked = await asked_chat(app, chat, request)
        generation = await begin(app, chat, asked)
        events = MessageEvents(generation, body.stop_strings())
        app.queues.name([generation], events.head["id"])
        if body.stream:
            return stream(events_of(generation, asked, events))
        reply = await whole_reply(request, generation, asked)
        if reply is None:
            return Response(status_code=CLIENT_GONE)
        return JsonAnswer(whole_message(events.head, reply, body.stop_strings()))

    @router.post("/count_tokens")
    async def count(body: CountBody, request: Request) -> dict[str, int]:
        """How many tokens the prompt of such a message has, as it would be rendered."""
        chat = await beside(body.chat, sum(len(turn.content) for turn in body.messages))
        asked = await asked_chat(app, chat, request)
        assert isinstance(asked.prompt, ChatPrompt)
        tokens, _ = await app.generation.count(asked.prompt, chat.model)
        return {"input_tokens": tokens}

    return router
