"""POST /v1/responses: OpenAI's Responses API over our own chat, without any memory.

Knows the route; bodies and events stand in the files beside it. Source: the public OpenAI API reference (responses).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modules.api.answers import JsonAnswer
from modules.api.body_route import BodyRoute
from modules.api.chat_parts import beside, chat_parts
from modules.api.completions import CLIENT_GONE
from modules.api.dialects import asked_chat, begin, events_of
from modules.api.errors import documented_errors
from modules.api.responses_events import Answer, AnswerEvents
from modules.api.responses_schemas import ResponsesRequest
from modules.api.sse import stream, unless_gone
from modules.core.generation import GenerationRequest
from modules.services.app import App
from modules.services.generation import ClientGeneration


def responses_router(app: App) -> APIRouter:
    """The route over an `App`."""
    router = APIRouter(prefix="/v1", responses=documented_errors(), route_class=BodyRoute)

    @router.post("/responses", response_model=None)
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation."""
        chat = await beside(body.chat, len(body.input))
        asked = _with_truncation(await asked_chat(app, chat, request), body)
        generation = await begin(app, chat, asked)
        answer = Answer(_head(body, asked, generation.model), summarised=body.summarised, logprobs=body.with_logprobs)
        app.queues.name([generation], answer.whole["id"])
        if body.stream:
            return stream(events_of(generation, asked, AnswerEvents(answer)))
        if await unless_gone(request, _written(answer, generation, asked)) is None:
            return Response(status_code=CLIENT_GONE)
        return JsonAnswer(answer.whole)

    return router


def _with_truncation(asked: GenerationRequest, body: ResponsesRequest) -> GenerationRequest:
    """With `truncation: auto` the oldest messages are left out where there is no room for all."""
    if body.truncation == "disabled":
        return asked
    return asked.model_copy(update={"prompt": asked.prompt.model_copy(update={"overflow": "drop_oldest"})})


async def _written(answer: Answer, generation: ClientGeneration, asked: GenerationRequest) -> bool:
    """Take in the whole reply; True at its end."""
    try:
        async for part in chat_parts(generation, asked):
            for _ in answer.part(part):
                pass
    finally:
        await generation.aclose()
    return True


def _head(body: ResponsesRequest, asked: GenerationRequest, model: str) -> dict[str, Any]:
    """What an answer repeats of its request, as OpenAI's does."""
    wanted = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    choice = body.tool_choice or "auto"
    return {
        "model": model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": asked.params.temperature,
        "top_p": asked.params.top_p,
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "parallel_tool_calls": body.parallel_tool_calls,
        "text": {"format": {"type": "text"}, **wanted},
        "reasoning": {"effort": body.reasoning.effort, "summary": body.reasoning.summary} if body.reasoning else {"effort": None, "summary": None},
        "truncation": body.truncation,
        "metadata": body.metadata or {},
        "previous_response_id": None,
        "background": False,
        "store": False,
        "service_tier": "default",
        "user": body.user or None,
    }
