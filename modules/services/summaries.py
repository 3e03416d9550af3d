"""Has the model summarise the oldest messages of a conversation that is longer than the context, by itself or when a person asks for it.

The summary is a setting, so a person can edit it. The messages stay as they are: a prompt has the summary instead of them (see prompt_material.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Image, Message, without_thinking
from modules.core.params import GenerationParams
from modules.services.context import ContextService
from modules.services.conversation_settings import SUMMARY_LIMIT
from modules.services.conversations import ConversationService, MessageRecord
from modules.services.generation import GenerationService
from modules.services.reply_request import ReplyRequests

ASKED = (
    "Summarise the conversation below in a few sentences. Keep names, numbers, decisions and open questions; leave out greetings. Write only the summary."
)
REPLY_TOKENS = 384
PIECE_SHARE = 0.5  # of the context that one message may take, in the least characters a token has
LEAST_CHARACTERS = 3  # about those of a token


class SummaryService:
    """Writes summaries."""

    def __init__(self, conversations: ConversationService, generation: GenerationService, context: ContextService, requests: ReplyRequests) -> None:
        self._conversations = conversations
        self._generation = generation
        self._context = context
        self._requests = requests
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by conversation: versions written together need one summary

    def _turn(self, conversation_id: str) -> asyncio.Lock:
        """To be held while its summary is looked at and written."""
        return self._turns.setdefault(conversation_id, asyncio.Lock())

    async def make_room(self, owner: str, conversation_id: str, prompt_end_id: str, *, continues: bool, begun: Callable[[], None]) -> int:
        """Before a reply to a stored message: where that is the conversation's policy and it is too long, summarise its oldest messages; how many.

        `begun` is told when the writing begins.

        Raises:
            InvalidRequest: the model wrote no summary.
            ContextOverflow: a message is too long to be summarised.
        """
        if (await self._conversations.paths.settings(owner, conversation_id)).overflow != "summarise_oldest":
            return 0
        async with self._turn(conversation_id):
            asked, material = await self._requests.stored(owner, conversation_id, prompt_end_id, continues=continues)
            outgrown = await self._context.outgrown(asked, material)
            if outgrown is None or not outgrown.ids:
                return 0
            begun()
            gone = [material.records[message_id] for message_id in outgrown.ids]
            await self._summarised(owner, conversation_id, gone, material.summary, outgrown.limit)
            return len(gone)

    async def summarise(self, owner: str, conversation_id: str, text: str = "", images: Sequence[Image] = ()) -> str:
        """Write a summary of the messages that would be left out if `text` and `images` were sent, and use it from now on; an earlier summary goes into it.

        Raises:
            InvalidRequest: nothing would be left out, or nobody can count here.
        """
        async with self._turn(conversation_id):
            return await self._of_next(owner, conversation_id, text, images)

    async def _of_next(self, owner: str, conversation_id: str, text: str, images: Sequence[Image]) -> str:
        use = await self._context.look(owner, conversation_id, text, images)
        if use is None:
            raise InvalidRequest("What the context holds is not known for models of other servers; load a model of this machine.")
        if not use.left_out:
            raise InvalidRequest("Nothing would be left out of the next prompt, so there is nothing to summarise.")
        record = await self._conversations.read(owner, conversation_id)
        wanted = {message.id for message in use.left_out}
        gone = [message for message in record.messages if message.id in wanted]
        settings = record.settings
        known = settings.summary if any(message.id == settings.summary_until for message in record.messages) else ""
        return await self._summarised(owner, conversation_id, gone, known, use.limit)

    async def _summarised(self, owner: str, conversation_id: str, gone: Sequence[MessageRecord], known: str, limit: int) -> str:
        """Write a summary of messages and of what is known from before them, and let it stand for them, unless somebody else gave one meanwhile."""
        before = await self._conversations.paths.settings(owner, conversation_id)
        summary = await self._written(known, [_told(message, limit) for message in gone], min(REPLY_TOKENS, limit // 4))
        after = await self._conversations.paths.settings(owner, conversation_id)
        if (after.summary, after.summary_until) != (before.summary, before.summary_until):
            raise InvalidRequest("The summary was changed while another one was being written; what you wrote stays.")
        await self._conversations.update_settings(owner, conversation_id, {"summary": summary, "summary_until": gone[-1].id})
        return summary

    async def _written(self, known: str, pieces: Sequence[str], max_tokens: int) -> str:
        """The summary of all pieces: as many at a time as fit, with what is known so far."""
        left = list(pieces)
        while left:
            taken = len(left)
            while True:
                try:
                    known = await self._reply(_question(known, left[:taken]), max_tokens)
                    break
                except ContextOverflow:
                    if taken == 1:
                        raise
                    taken = (taken + 1) // 2
            left = left[taken:]
        return known

    async def _reply(self, question: str, max_tokens: int) -> str:
        prompt = ChatPrompt(messages=(Message(role="user", content=question),), overflow="refuse")
        size, limit = await self._generation.count(prompt)
        if size + max_tokens > limit:
            raise ContextOverflow("The messages are too long to be summarised at once.")
        request = GenerationRequest(prompt=prompt, params=GenerationParams(max_tokens=max_tokens, temperature=0), client="summary", whole=True, keep_on_disk=False)
        generation = await self._generation.submit(request)
        try:
            written = "".join([delta.text async for delta in generation])
        finally:
            await generation.aclose()
        begun = generation.started.starts_thinking if generation.started else ""
        summary = without_thinking(begun + written).strip()[:SUMMARY_LIMIT]
        if not summary:
            raise InvalidRequest("The model wrote no summary. Try again, write one yourself, or choose another model.")
        return summary


def _question(known: str, pieces: Sequence[str]) -> str:
    before = [f"What came before, in short:\n{known}"] if known else []
    return "\n\n".join([ASKED, *before, *pieces])


def _told(message: MessageRecord, limit_tokens: int) -> str:
    """A message with who said it; of a very long one the beginning and the end."""
    said = without_thinking(message.content) if message.role == "assistant" else message.content
    files = [f"[attached: {file.name}]" for file in message.files]
    whole = " ".join([*files, said.strip()])
    most = int(limit_tokens * PIECE_SHARE) * LEAST_CHARACTERS
    if len(whole) > most:
        whole = f"{whole[: most // 2]} […] {whole[-most // 2 :]}"
    return f"{'Person' if message.role == 'user' else 'Assistant'}: {whole}"
