"""What a model saw before it wrote a reply: the prompt made anew, compared with the one that the receipt tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.generation import ChatPrompt
from modules.services.conversations import ConversationService, MessageRecord
from modules.services.generation import GenerationService
from modules.services.notebook_exchange import gone_on
from modules.services.reply_request import ReplyRequests

START_CHARACTERS = 80  # of a message, to know it by


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

        `same` says whether it is what the model saw when the reply was written: None where that is not known, False where settings,
        template, model or messages have changed since.

        Raises:
            InvalidRequest: the message answers nothing.
            NotOffered: the model is on another server.
        """
        message = await self._conversations.message(owner, message_id)
        prompt, seen = await self._render(owner, message)
        first = _first_part(message.receipt or {})
        known = first.get("prompt_hash")
        return {
            **seen,
            "same": None if not known else known == seen["hash"],
            "reused_tokens": first.get("reused_tokens", 0) if known == seen["hash"] else 0,
            "messages": [{"role": one.role, "start": one.content[:START_CHARACTERS]} for one in prompt.messages],
        }

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


def _first_part(receipt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The receipt of a reply before it was continued."""
    earlier = receipt.get("earlier") or [receipt]
    return earlier[0] if isinstance(earlier[0], Mapping) else {}
