"""What of the context a conversation takes: its parts in tokens while a message is typed, and which messages would be left out.

Asks the engine to count; nothing that was not sent yet is told to another server, so of models there nothing is known.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modules.core.errors import ContextOverflow, EngineCrashed, NoModelLoaded
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Image, Message
from modules.prompts.fitting import character_limit, room_tokens, search_fit
from modules.services.conversation_prompt import document_block
from modules.services.conversation_settings import Overflow
from modules.services.generation import GenerationService
from modules.services.models import ModelService
from modules.services.prompt_material import UNSENT, PromptMaterial
from modules.services.reply_request import ReplyRequest, ReplyRequests

WORDS_LIMIT = 90  # characters of a message that is named
KEPT_COUNTS = 500
KEPT_SHARE = 0.5  # of the room that messages may take, of which others were just summarised


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
    images: int  # those that wait
    typed: int
    policy: Overflow
    left_out_count: int = 0
    left_out: tuple[LeftOut, ...] = ()  # all of them, where they were to be listed
    kept: int | None = None  # tokens when those are left out
    refusal: str = ""  # why the prompt could not be sent as it is

    @property
    def history(self) -> int:
        """Tokens of earlier messages, with the words of the template around all."""
        return max(0, (self.total or 0) - self.system - self.attachments - self.images - self.typed)


@dataclass(frozen=True, slots=True)
class Outgrown:
    """Messages that no longer have room, oldest first, and the tokens of the context."""

    ids: tuple[str, ...]
    limit: int


class ContextService:
    """Looks at prompts before they are sent."""

    def __init__(self, models: ModelService, generation: GenerationService, requests: ReplyRequests) -> None:
        self._models = models
        self._generation = generation
        self._requests = requests
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()  # of texts that stay, by model and hash

    async def look(self, owner: str, conversation_id: str, text: str, images: Sequence[Image] = (), *, listed: bool = True) -> ContextUse | None:
        """What sending `text` and `images` now would take; None where nobody can count.

        To list what would be left out, all of a long conversation is read.

        Raises:
            NotFound: there is no such conversation, or something that its settings name is gone.
        """
        loaded = self._models.loaded()
        if loaded is None or loaded.card.host:
            return None
        limit_characters = None if listed else self._generation.character_limit()
        asked, material = await self._requests.unsent(owner, conversation_id, text, images, limit_characters)
        try:
            use = await self._looked(asked, material, loaded.name, (text, len(images)))
            return use if listed else replace(use, left_out=())
        except (EngineCrashed, NoModelLoaded):  # it ended just now; the page shows that elsewhere
            return None

    async def outgrown(self, asked: ReplyRequest, material: PromptMaterial) -> Outgrown | None:
        """Which messages a summary should stand for, when a stored conversation has become too long; None while it has not, or nobody can count.

        So many that half of the room is free then: not every reply after it needs another summary.

        Raises:
            NoModelLoaded: nobody can answer it.
        """
        engine = await self._models.get()
        if engine.card.host:
            return None
        prompt, limit, room = _room(asked.request, engine.card.context_length)
        limit_characters = character_limit(engine.card.context_length)
        _, kept, _ = await self._fitted(prompt, engine.name, room, limit_characters)
        if kept is None:
            return None
        _, shorter, _ = await self._fitted(prompt, engine.name, int(room * KEPT_SHARE), limit_characters)
        kept_ids = {id(message) for message in (shorter or kept)[1]}
        return Outgrown(tuple(message.id for message in _left_out(prompt.messages, kept_ids, material)), limit)

    async def _looked(self, asked: ReplyRequest, material: PromptMaterial, model: str, unsent: tuple[str, int]) -> ContextUse:
        card = (await self._models.get(model)).card
        prompt, limit, room = _room(asked.request, card.context_length)
        total, kept, refusal = await self._fitted(prompt, model, room, character_limit(card.context_length))
        kept_ids = None if kept is None else {id(message) for message in kept[1]}
        gone = () if kept_ids is None else _left_out(prompt.messages, kept_ids, material)
        system = [message.content for message in prompt.messages[:1] if message.role == "system"]
        return ContextUse(
            limit=limit,
            room=room,
            total=total,
            system=sum([await self._count(model, content) for content in system]),
            attachments=sum([await self._count(model, document_block(file.name, material.texts[file.hash])) for file in material.files if file.hash in material.texts]),
            images=await self._of_images(prompt, model, total, unsent[1]),
            typed=await self._tokens(model, unsent[0]),
            policy=asked.overflow,
            left_out_count=0 if kept_ids is None else asked.left_out + len(gone),
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

    async def _of_images(self, prompt: ChatPrompt, model: str, total: int | None, count: int) -> int:
        """Tokens of the last images of a prompt: what it has more than without them."""
        if not count or total is None:
            return 0
        last = prompt.messages[-1]
        without = last.model_copy(update={"images": last.images[:-count]})
        size, _ = await self._generation.count(prompt.model_copy(update={"messages": (*prompt.messages[:-1], without)}), model)
        return max(0, total - size)

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


def _room(request: GenerationRequest, context_length: int) -> tuple[ChatPrompt, int, int]:
    """The prompt of a reply, the tokens of the context, and those that the prompt may have."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        raise TypeError("a reply of the chat is asked with messages")
    limit = request.params.context_limit(context_length)
    return prompt, limit, room_tokens(limit, request.params.max_tokens, prompt.overflow)


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
