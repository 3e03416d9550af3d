"""What a model saw before it wrote a reply: the prompt that was kept with it, made anew and compared with the hash that the receipt tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt
from modules.core.params import GenerationParams
from modules.services.conversations import ConversationService, MessageRecord
from modules.services.generation import GenerationService
from modules.services.kept_prompts import KeptPrompt, named
from modules.services.notebook_exchange import gone_on
from modules.services.reply_request import ReplyRequests


@dataclass(frozen=True, slots=True)
class WrittenOut:
    """A conversation as one text, as its template writes it."""

    text: str
    dropped: int  # oldest messages, which had no room
    images: int  # which have no place in a text


class SeenService:
    """Renders the prompts of replies once more."""

    def __init__(self, conversations: ConversationService, requests: ReplyRequests, generation: GenerationService) -> None:
        self._conversations = conversations
        self._requests = requests
        self._generation = generation

    async def of(self, owner: str, message_id: str) -> dict[str, Any]:
        """The text before a reply (or before the reply to a message), token by token with the message each belongs to.

        `kept` says whether it is made from what was kept with the reply, or from the messages and settings of today. `same`: whether it has
        the hash that the receipt names; None where that names none. `same_template` says so of the template.

        Raises:
            InvalidRequest: the message answers nothing.
            NotOffered: the model is on another server.
        """
        message = await self._conversations.message(owner, message_id)
        first = _first_part(message.receipt or {})
        kept = await self._conversations.prompts.of(owner, message_id) if message.role == "assistant" else None
        if kept is not None:
            return _told(await self._generation.render(kept.prompt, _room_of(first)), kept, first) | {"kept": True}
        prompt, seen = await self._render(owner, message)
        return _told(seen, KeptPrompt(prompt), first) | {"kept": False}

    async def written_out(self, owner: str, message_id: str) -> WrittenOut:
        """The text before a reply with the reply, to be gone on with where it ends; or before the reply to a message.

        Raises:
            InvalidRequest: the message answers nothing.
            NotOffered: the model is on another server.
        """
        message = await self._conversations.message(owner, message_id)
        prompt, seen = await self._render(owner, message)
        text = gone_on(seen["text"], message.content) if message.role == "assistant" else seen["text"]
        return WrittenOut(text, len(seen["dropped"]), sum(len(one.images) for one in prompt.messages))

    async def _render(self, owner: str, message: MessageRecord) -> tuple[ChatPrompt, dict[str, Any]]:
        end_id = message.parent_id if message.role == "assistant" else message.id
        if end_id is None:
            raise InvalidRequest("This message answers nothing, so no model saw anything before it.", field="message_id")
        made = await self._requests.make(owner, message.conversation_id, end_id, continues=False)
        prompt = made.request.prompt
        if not isinstance(prompt, ChatPrompt):
            raise InvalidRequest("This reply was not made from messages, so there is nothing to show.", field="message_id")
        return prompt, await self._generation.render(prompt, made.request.params)


def _told(seen: Mapping[str, Any], kept: KeptPrompt, first: Mapping[str, Any]) -> dict[str, Any]:
    """A rendered prompt, with the messages that had been left out of it before; places count from the first of those."""
    left = len(kept.left_out)
    known = first.get("prompt_hash")
    return {
        **seen,
        "tokens": [[token_id, piece, place + left if place >= 0 else place] for token_id, piece, place in seen["tokens"]],
        "dropped_count": kept.left_out_count + len(seen["dropped"]),
        "dropped": [*range(left), *(place + left for place in seen["dropped"])],
        "same": None if not known else known == seen["hash"],
        "same_template": _template_hash(first) in (None, seen["template"]["hash"]),
        "reused_tokens": first.get("reused_tokens", 0) if known == seen["hash"] else 0,
        "messages": [*kept.left_out, *(named(one.role, one.content) for one in kept.prompt.messages)],
    }


def _template_hash(first: Mapping[str, Any]) -> str | None:
    """The hash of the template that a receipt names, if it names one."""
    template = first.get("template")
    return template.get("hash") if isinstance(template, Mapping) else None


def _room_of(first: Mapping[str, Any]) -> GenerationParams:
    """The values of a receipt that the room of a prompt depends on."""
    params = first.get("params") or {}
    return GenerationParams(max_tokens=params.get("max_tokens"), context_tokens=params.get("context_tokens"))


def _first_part(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The receipt of a reply before it was continued."""
    earlier = receipt.get("earlier") or [receipt]
    return earlier[0] if isinstance(earlier[0], Mapping) else {}
