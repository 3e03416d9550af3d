"""What of the context a conversation takes: its parts in tokens while a message is typed, and which messages would be left out.

Asks the engine to count; nothing that was not sent yet is told to another server, so of models there nothing is known.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modules.core.errors import ContextOverflow, EngineCrashed, NoModelLoaded
from modules.core.generation import ChatPrompt, GenerationRequest, OverflowPolicy
from modules.core.messages import Message
from modules.prompts.fitting import character_limit, room_tokens, search_fit
from modules.services.conversation_prompt import document_block
from modules.services.generation import GenerationService
from modules.services.models import ModelService
from modules.services.prompt_material import UNSENT, PromptMaterial
from modules.services.reply_request import ReplyRequests

WORDS_LIMIT = 90  # characters of a message that is named
KEPT_COUNTS = 500


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A message that the model would not see."""

    id: str
    role: str
    words: str


@dataclass(frozen=True, slots=True)
class ContextUse:
    """Tokens of the next prompt. `total` is None where there is more than can be counted."""

    limit: int  # of the context
    room: int  # of the prompt: the rest is kept free for the reply
    total: int | None
    system: int
    attachments: int
    typed: int
    policy: OverflowPolicy
    left_out_count: int = 0
    left_out: tuple[LeftOut, ...] = ()  # all of them, where they were to be listed
    kept: int | None = None  # tokens when those are left out
    refusal: str = ""  # why the prompt could not be sent as it is

    @property
    def history(self) -> int:
        """Tokens of earlier messages, with the words of the template around all."""
        return max(0, (self.total or 0) - self.system - self.attachments - self.typed)


class ContextService:
    """Looks at prompts before they are sent."""

    def __init__(self, models: ModelService, generation: GenerationService, requests: ReplyRequests) -> None:
        self._models = models
        self._generation = generation
        self._requests = requests
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()  # of texts that stay, by model and hash

    async def look(self, owner: str, conversation_id: str, text: str, *, listed: bool = True) -> ContextUse | None:
        """What sending `text` now would take; None where nobody can count. To list what would be left out, all of a long conversation is read.

        Raises:
            NotFound: there is no such conversation, or something that its settings name is gone.
        """
        loaded = self._models.loaded()
        if loaded is None or loaded.card.host:
            return None
        limit_characters = None if listed else self._generation.character_limit()
        asked, material = await self._requests.unsent(owner, conversation_id, text, limit_characters)
        try:
            use = await self._looked(asked.request, material, loaded.name, text)
            return use if listed else replace(use, left_out=())
        except (EngineCrashed, NoModelLoaded):  # it ended just now; the page shows that elsewhere
            return None

    async def _looked(self, request: GenerationRequest, material: PromptMaterial, model: str, text: str) -> ContextUse:
        prompt = request.prompt
        if not isinstance(prompt, ChatPrompt):
            raise TypeError("a reply of the chat is asked with messages")
        card = (await self._models.get(model)).card
        limit = request.params.context_limit(card.context_length)
        room = room_tokens(limit, request.params.max_tokens, prompt.overflow)
        total, kept, refusal = await self._fitted(prompt, model, room, character_limit(card.context_length))
        kept_ids = None if kept is None else {id(message) for message in kept[1]}
        gone = () if kept_ids is None else _left_out(prompt.messages, kept_ids, material)
        system = [message.content for message in prompt.messages[:1] if message.role == "system"]
        return ContextUse(
            limit=limit,
            room=room,
            total=total,
            system=sum([await self._count(model, content) for content in system]),
            attachments=sum([await self._count(model, document_block(file, material.texts[file.hash])) for file in material.files if file.hash in material.texts]),
            typed=await self._tokens(model, text),
            policy=prompt.overflow,
            left_out_count=0 if kept_ids is None else material.left_out + len(gone),
            left_out=gone,
            kept=None if kept is None else kept[0],
            refusal=refusal,
        )

    async def _fitted(self, prompt: ChatPrompt, model: str, room: int, limit_characters: int) -> tuple[int | None, tuple[int, tuple[Message, ...]] | None, str]:
        """Tokens of the whole prompt; tokens and messages of what would be left of it where it is too long; why it cannot be sent."""
        if all(message.role == "system" for message in prompt.messages):  # there is nothing yet that a template could render
            return sum([await self._count(model, message.content) for message in prompt.messages]), None, ""
        search = search_fit(prompt.messages, limit_tokens=room, limit_characters=limit_characters, policy=prompt.overflow)
        sizes: dict[int, int | None] = {}  # by the number of messages
        try:
            proposed = next(search)
            while True:
                size = sizes[len(proposed)] = await self._size(prompt.model_copy(update={"messages": proposed}), model)
                proposed = search.send(size)
        except StopIteration as end:
            kept: tuple[Message, ...] = end.value
            whole = sizes.get(len(prompt.messages))
            return whole, (sizes[len(kept)] or 0, kept) if len(kept) < len(prompt.messages) else None, ""
        except ContextOverflow as error:
            return sizes.get(len(prompt.messages)), None, error.message

    async def _size(self, prompt: ChatPrompt, model: str) -> int | None:
        """Tokens of a prompt; None where it has more than can be counted."""
        try:
            return (await self._generation.count(prompt, model))[0]
        except ContextOverflow:
            return None

    async def _count(self, model: str, text: str) -> int:
        """Tokens of a text that stays: counted once for each model."""
        key = (model, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
        if key not in self._counts:
            self._counts[key] = await self._tokens(model, text)
            if len(self._counts) > KEPT_COUNTS:
                self._counts.popitem(last=False)
        self._counts.move_to_end(key)
        return self._counts[key]

    async def _tokens(self, model: str, text: str) -> int:
        """Tokens of a text; 0 where it has more than can be counted, which the total says."""
        try:
            return len(await self._generation.tokenize(text, model)) if text else 0
        except ContextOverflow:
            return 0


def _left_out(messages: Sequence[Message], kept_ids: set[int], material: PromptMaterial) -> tuple[LeftOut, ...]:
    """The stored messages behind those that do not stay."""
    gone = {id(message) for message in messages} - kept_ids
    origins = [origin for part in material.parts if id(part.message) in gone for origin in part.origins]
    found = []
    for origin in origins:
        record = material.records[origin]
        if origin != UNSENT:
            found.append(LeftOut(origin, record.role, _words(record.content) or ", ".join(file.name for file in record.files)))
    return tuple(found)


def _words(text: str) -> str:
    """The first words, in one line."""
    line = " ".join(text[: 4 * WORDS_LIMIT].split())
    return line if len(line) <= WORDS_LIMIT else line[: WORDS_LIMIT - 1] + "…"
