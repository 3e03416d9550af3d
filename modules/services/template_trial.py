"""Whether a model ends its reply under a template: a greeting, and at most twenty tokens in answer.

Asks the service of generation like everybody else. Knows no page and no findings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import MappingProxyType

from modules.core.generation import ChatPrompt, GenerationRequest, Usage
from modules.core.messages import Message, split_thinking
from modules.core.model import TemplateSource
from modules.core.params import GenerationParams
from modules.services.generation import GenerationService

TRIED_TOKENS = 20
TRIED = (Message(role="user", content="Hello"),)
NO_THINKING = MappingProxyType({"enable_thinking": False})  # it would take all of the tokens


@dataclass(frozen=True, slots=True)
class Tried:
    """What a model wrote."""

    text: str
    tokens: int
    ended: bool | None  # by the model itself; None: it thought to the last token, which says nothing
    interrupted: bool = False  # somebody else needed the model


async def tried(generation: GenerationService, model: str, template: TemplateSource | None, *, background: bool = False) -> Tried:
    """Let a loaded model answer under a template; None is the one in force. In the background the next request of anybody interrupts it.

    Raises:
        AppError: the model refuses.
    """
    prompt = ChatPrompt(messages=TRIED, template=template, template_variables=dict(NO_THINKING))
    params = GenerationParams(temperature=0, max_tokens=TRIED_TOKENS)
    running = await generation.submit(GenerationRequest(prompt=prompt, params=params, keep_on_disk=False), model, background=background)
    text, reason, usage = "", "", Usage()
    try:
        async for delta in running:
            text += delta.text
            reason, usage = delta.finish_reason or reason, delta.usage or usage
    finally:
        await asyncio.shield(running.aclose())
    thinks = split_thinking(text, starts_open=running.started.starts_thinking if running.started else "").open
    ended = True if reason == "stop" else None if thinks or reason == "cancelled" else False
    return Tried(text, usage.completion_tokens, ended, interrupted=reason == "cancelled")
