"""The title of a conversation from its first exchange: a few words of the model, written while nobody waits for it, or else the first words said.

Never a message, and no reply waits for it: whoever goes on, or asks the model for anything, ends it. Knows no HTML.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from typing import NamedTuple

from modules.core.errors import AppError
from modules.core.generation import ChatPrompt
from modules.core.messages import Message, without_thinking
from modules.core.params import GenerationParams
from modules.services.chat_preferences import ChatPreferenceService
from modules.services.conversation_files import title_from
from modules.services.conversations import ConversationService
from modules.services.generation import GenerationService
from modules.services.models import ModelService
from modules.services.reply import Reply
from modules.services.reply_request import ReplyRequests
from modules.store.records import NEW_TITLE

log = logging.getLogger(__name__)

ASKED = "Write a title for this conversation so far: two to six words that say what it is about. Write only the title."
TITLE_TOKENS = 16
LETTERS = (3, 60)  # of a title
MOST_WORDS = 9
REPEATS = 3  # of one word, from which on it is nonsense
FIRST_MESSAGES = 12  # with greetings, narration and replies set by hand
SHORT_QUESTION = 3  # words, up to which a question alone says too little
BEFORE = re.compile(r"^\W*(?:title|titel|titre|título|titolo)\s*[:：]", re.IGNORECASE)
AROUND = " \t\"'“”„«»‘’`*_#.:;,-–—"
WORD = re.compile(r"\w+")


class Exchange(NamedTuple):
    """What was asked and answered first."""

    question: str
    reply: str


def cleaned_title(written: str, exchange: Exchange) -> str:
    """What a model wrote as a title; empty where that is none: too long, no words, the same ones again, or the reply once more."""
    line = BEFORE.sub("", next((line for line in without_thinking(written).splitlines() if line.strip()), "")).strip()
    is_sentence = line.endswith(("!", "?", "。")) or (line.endswith(".") and len(line.split()) > MOST_WORDS // 2)
    title = " ".join(line.strip(AROUND).split())
    words = WORD.findall(title.casefold())
    if is_sentence or not words or len(words) > MOST_WORDS or not LETTERS[0] <= len(title) <= LETTERS[1]:
        return ""
    if max(Counter(words).values()) >= REPEATS or (len(words) > 1 and len(set(words)) == 1):
        return ""
    begins = WORD.findall(exchange.reply[:200].casefold())[: len(words)]
    return "" if begins == words else title


def plain_title(exchange: Exchange) -> str:
    """The first words of the question; where these are as few as in “Hi”, or it is an image alone, those of the reply behind them."""
    question = title_from(exchange.question)
    if len(WORD.findall(exchange.question)) > SHORT_QUESTION:
        return question
    told = re.sub(r"[*_`#>|]+", "", exchange.reply).strip()
    return title_from(" · ".join(part for part in (question.rstrip(".!?… "), told) if part)) if told else question


class TitleService:
    """Gives titles after first replies."""

    def __init__(
        self,
        conversations: ConversationService,
        requests: ReplyRequests,
        generation: GenerationService,
        models: ModelService,
        preferences: ChatPreferenceService,
    ) -> None:
        self._conversations = conversations
        self._requests = requests
        self._generation = generation
        self._models = models
        self._preferences = preferences
        self._writing: dict[str, asyncio.Task[None]] = {}  # by conversation

    def after(self, reply: Reply) -> None:
        """A reply is complete: if it was the first one, its conversation gets a title when there is time for it."""
        if self._preferences.read(reply.owner).title_from_exchange:
            self.stop(reply.conversation_id)
            task = asyncio.create_task(self._give(reply))
            self._writing[reply.conversation_id] = task
            task.add_done_callback(lambda done: self._ended(reply.conversation_id, done))

    def stop(self, conversation_id: str) -> None:
        """The person goes on there."""
        task = self._writing.pop(conversation_id, None)
        if task is not None:
            task.cancel()

    @property
    def writing(self) -> bool:
        """Whether any title is being written."""
        return bool(self._writing)

    async def close(self) -> None:
        """Stop all."""
        tasks = tuple(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, conversation_id: str, task: asyncio.Task[None]) -> None:
        if self._writing.get(conversation_id) is task:
            del self._writing[conversation_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AppError):  # of a conversation that was deleted meanwhile, say
            log.warning("A title could not be made", exc_info=error)

    async def _give(self, reply: Reply) -> None:
        """Put a better title in place of the first words, as long as these are the title."""
        record = await self._conversations.paths.end(reply.owner, reply.conversation_id, FIRST_MESSAGES)
        if len(record.path) > len(record.messages):
            return  # not the first exchange: of a long conversation nothing more is read
        said = [message for message in record.messages if message.role == "user"]
        shown = record.messages[-1] if record.messages else None
        if len(said) != 1 or shown is None or shown.role != "assistant" or reply.id not in shown.version_ids:
            return
        exchange = Exchange(said[0].content, without_thinking(shown.content).strip())
        before = title_from(exchange.question) or NEW_TITLE
        if record.title != before:
            return
        title = ""
        with contextlib.suppress(AppError):
            title = cleaned_title(await self._written(reply, shown.id), exchange)
        title = title or plain_title(exchange)
        if title and title != before:
            await self._conversations.rename(reply.owner, reply.conversation_id, title, instead_of=before)

    async def _written(self, reply: Reply, end_id: str) -> str:
        """What the model writes when it is asked for a title; empty where it is not asked, or did not come to an end."""
        engine = self._models.loaded(reply.model)
        if engine is None or engine.card.host or not engine.card.template_origin:
            return ""
        counters = await engine.counters()
        if counters.running or counters.waiting:
            return ""
        made = await self._requests.make(reply.owner, reply.conversation_id, end_id, continues=False)
        if not isinstance(made.request.prompt, ChatPrompt) or made.request.prompt.dialogue is not None:
            return ""
        # The conversation itself with a question behind it: what was computed for it serves for both, and stays for the next reply.
        prompt = made.request.prompt
        variables = {**prompt.template_variables, "enable_thinking": False}
        asked = prompt.model_copy(
            update={"messages": (*prompt.messages, Message(role="user", content=ASKED)), "template_variables": variables, "overflow": "refuse"}
        )
        params = GenerationParams(temperature=0, max_tokens=TITLE_TOKENS)
        request = made.request.model_copy(update={"prompt": asked, "params": params})
        generation = await self._generation.submit(request, reply.model, made.adapters, background=True)
        text, reason = "", None
        try:
            async for delta in generation:
                text += delta.text
                reason = delta.finish_reason or reason
        finally:
            await asyncio.shield(generation.aclose())
        begun = generation.started.starts_thinking if generation.started else ""
        return begun + text if reason == "stop" else ""
