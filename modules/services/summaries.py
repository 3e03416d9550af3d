"""Has the model summarise the oldest messages of a conversation that is longer than the context. The summary is a setting, so a person can edit it.

The messages stay as they are: a prompt has the summary instead of them (see prompt_material.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Message, without_thinking
from modules.core.params import GenerationParams
from modules.services.context import ContextService
from modules.services.conversation_settings import SUMMARY_LIMIT
from modules.services.conversations import ConversationService, MessageRecord
from modules.services.generation import GenerationService

ASKED = (
    "Summarise the conversation below in a few sentences. Keep names, numbers, decisions and open questions; leave out greetings. Write only the summary."
)
REPLY_TOKENS = 384
PIECE_SHARE = 0.5  # of the context that one message may take, in the least characters a token has
LEAST_CHARACTERS = 3  # about those of a token


class SummaryService:
    """Writes summaries."""

    def __init__(self, conversations: ConversationService, generation: GenerationService, context: ContextService) -> None:
        self._conversations = conversations
        self._generation = generation
        self._context = context

    async def summarise(self, owner: str, conversation_id: str, text: str = "") -> str:
        """Write a summary of the messages that would be left out if `text` were sent, and use it from now on; an earlier summary goes into it.

        Raises:
            InvalidRequest: nothing would be left out, or nobody can count here.
        """
        use = await self._context.look(owner, conversation_id, text)
        if use is None:
            raise InvalidRequest("What the context holds is not known for models of other servers; load a model of this machine.")
        if not use.left_out:
            raise InvalidRequest("Nothing would be left out of the next prompt, so there is nothing to summarise.")
        record = await self._conversations.read(owner, conversation_id)
        wanted = {message.id for message in use.left_out}
        pieces = [_told(message, use.limit) for message in record.messages if message.id in wanted]
        settings = record.settings
        known = settings.summary if any(message.id == settings.summary_until for message in record.messages) else ""
        summary = await self._written(known, pieces, min(REPLY_TOKENS, use.limit // 4))
        until = next(message.id for message in reversed(record.messages) if message.id in wanted)
        await self._conversations.update_settings(owner, conversation_id, {"summary": summary, "summary_until": until})
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
