"""Replies being written: server-side generations bound to a message of a conversation.

A reply lives here, not in a browser: tabs only follow it, so a reload, a second tab or a phone re-attaches. The text is saved when it starts,
at most once a second while it grows, and at its end. Knows no HTML.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import AppError, Conflict, InvalidRequest
from modules.core.generation import ChatPrompt, Delta, GenerationRequest
from modules.core.messages import Image, split_thinking
from modules.core.model import AdapterChoice
from modules.services.conversations import ConversationService, MessageStatus
from modules.services.generation import ClientGeneration, GenerationService
from modules.services.models import ModelService
from modules.services.presets import PresetService
from modules.services.templates import TemplateService

log = logging.getLogger(__name__)

SAVE_INTERVAL_S = 1.0


@dataclass
class Reply:
    """One reply being written. Followers wait on `changed` and read the fields."""

    id: str
    conversation_id: str
    owner: str
    text: str = ""  # everything the message holds, also what was there before "continue"
    status: MessageStatus = "streaming"
    error: str = ""
    model: str = ""
    thinking_s: float | None = None
    receipt: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    waiter: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    generation: ClientGeneration | None = None
    stop_asked: bool = False
    first_token_s: float = 0.0

    def touch(self) -> None:
        """Wake every follower."""
        self.version += 1
        waiter, self.waiter = self.waiter, asyncio.Event()
        waiter.set()

    def speed(self) -> float:
        """Tokens per second so far, the first token left out."""
        tokens = int(self.receipt.get("completion_tokens", 0))
        elapsed_s = time.monotonic() - self.first_token_s if self.first_token_s else 0.0
        return round((tokens - 1) / elapsed_s, 1) if elapsed_s > 0 and tokens > 1 else 0.0

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self.status == "streaming"


class ReplyService:
    """Starts, follows and stops replies."""

    def __init__(
        self,
        *,
        models: ModelService,
        generation: GenerationService,
        conversations: ConversationService,
        presets: PresetService,
        templates: TemplateService,
    ) -> None:
        self._models = models
        self._generation = generation
        self._conversations = conversations
        self._presets = presets
        self._templates = templates
        self._running: dict[str, Reply] = {}
        self._starting: set[str] = set()  # conversations in which one is about to be

    def running(self, conversation_id: str) -> Reply | None:
        """The reply being written in a conversation, if any."""
        return self._running.get(conversation_id)

    def running_ids(self) -> frozenset[str]:
        """Conversations in which a reply is being written."""
        return frozenset(self._running)

    # ---- start -----------------------------------------------------------------------------------------------------

    async def send(self, owner: str, conversation_id: str, text: str, images: Sequence[Image] = ()) -> tuple[str, str]:
        """Add what the person wrote and attached, and start the reply; ids of both messages.

        Raises:
            InvalidRequest: nothing written.
            Conflict: a reply is still being written.
        """
        if not text.strip() and not images:
            raise InvalidRequest("There is nothing to send; write a message first.", field="text")
        with self._only_one(conversation_id):
            record = await self._conversations.read(owner, conversation_id)
            parent = record.messages[-1].id if record.messages else None
            message = await self._conversations.append(owner, conversation_id, parent, "user", text, images=images)
            return message.id, await self._answer(owner, conversation_id, message.id)

    async def regenerate(self, owner: str, conversation_id: str, message_id: str) -> str:
        """Write another version of a reply; id of the new message."""
        with self._only_one(conversation_id):
            return await self._again(owner, conversation_id, message_id)

    async def _again(self, owner: str, conversation_id: str, message_id: str) -> str:
        message = await self._conversations.message(owner, message_id, conversation_id)
        if message.role != "assistant":
            return await self._answer(owner, conversation_id, message_id)
        if message.parent_id is None:
            raise InvalidRequest("This message answers nothing, so there is nothing to write again.")
        return await self._answer(owner, conversation_id, message.parent_id)

    async def resend(self, owner: str, conversation_id: str, message_id: str, text: str) -> tuple[str, str]:
        """Write a new version of a user message and answer it."""
        with self._only_one(conversation_id):
            await self._conversations.message(owner, message_id, conversation_id)
            message = await self._conversations.add_version(owner, message_id, text)
            return message.id, await self._answer(owner, conversation_id, message.id)

    async def extend(self, owner: str, conversation_id: str, message_id: str) -> str:
        """Continue a reply where it stopped; the same message grows."""
        with self._only_one(conversation_id):
            message = await self._conversations.message(owner, message_id, conversation_id)
            if message.role != "assistant":
                raise InvalidRequest("Only a reply can be continued; choose one.")
            if not message.content.strip():
                return await self._again(owner, conversation_id, message_id)
            reply = Reply(message.id, conversation_id, owner, text=message.content, model=message.model)
            self._begin(reply, message.id, continues=True)
            self._conversations.tell(conversation_id)
            return reply.id

    async def _answer(self, owner: str, conversation_id: str, parent_id: str) -> str:
        message = await self._conversations.append(owner, conversation_id, parent_id, "assistant", "", status="streaming")
        self._begin(Reply(message.id, conversation_id, owner), parent_id, continues=False)
        return message.id

    @contextmanager
    def _only_one(self, conversation_id: str) -> Iterator[None]:
        """Refuse a second reply, also while the first is only about to start."""
        if conversation_id in self._running or conversation_id in self._starting:
            raise Conflict("A reply is still being written in this conversation; stop it or wait for it.")
        self._starting.add(conversation_id)
        try:
            yield
        finally:
            self._starting.discard(conversation_id)

    def _begin(self, reply: Reply, prompt_end_id: str, *, continues: bool) -> None:
        self._running[reply.conversation_id] = reply
        reply.task = asyncio.create_task(self._write(reply, prompt_end_id, continues))

    # ---- write -----------------------------------------------------------------------------------------------------

    async def _write(self, reply: Reply, prompt_end_id: str, continues: bool) -> None:
        """The life of one reply, from prompt to saved text."""
        try:
            await self._generate(reply, prompt_end_id, continues)
        except AppError as error:
            reply.status, reply.error = ("stopped", "") if reply.stop_asked else ("failed", error.message)
        except asyncio.CancelledError:
            reply.status = "stopped"
            if not reply.stop_asked:
                reply.error = "The server stopped while this was being written; the text so far was kept."
                raise
        finally:
            await asyncio.shield(self._end(reply))

    async def _end(self, reply: Reply) -> None:
        if reply.status == "streaming":
            reply.status = "failed"
            reply.error = reply.error or "The reply ended unexpectedly; the text so far was kept. Send again or regenerate."
        try:
            await self._save(reply)
        except AppError as error:
            reply.error = f"{reply.error} {error.message}".strip()
        finally:
            self._running.pop(reply.conversation_id, None)
            reply.touch()

    async def _generate(self, reply: Reply, prompt_end_id: str, continues: bool) -> None:
        request, adapters = await self._request(reply, prompt_end_id, continues)
        generation = await self._generation.submit(request, adapters=adapters)
        reply.generation, reply.model = generation, generation.model
        if generation.adapters:
            reply.receipt["adapters"] = [choice.model_dump() for choice in generation.adapters]
        if reply.stop_asked:
            await generation.cancel()
        saved_s = time.monotonic()
        thinking_since: float | None = None
        on_place: Callable[[], None] = reply.touch
        generation.on_place = on_place
        try:
            async for delta in generation:
                thinking_since = self._take(reply, delta, thinking_since, continues)
                if time.monotonic() - saved_s >= SAVE_INTERVAL_S:
                    await self._save(reply)
                    saved_s = time.monotonic()
        finally:
            await generation.aclose()

    def _take(self, reply: Reply, delta: Delta, thinking_since: float | None, continues: bool) -> float | None:
        """Put one delta into the reply and wake the followers; returns since when the model has been thinking."""
        generation = reply.generation
        if not reply.text and not continues and generation and generation.started and generation.started.starts_thinking:
            reply.text = generation.started.starts_thinking
        reply.text += delta.text
        thought = split_thinking(reply.text)
        if thought.open and thinking_since is None:
            thinking_since = time.monotonic()
        elif not thought.open and thinking_since is not None and reply.thinking_s is None:
            reply.thinking_s = time.monotonic() - thinking_since
        reply.first_token_s = reply.first_token_s or time.monotonic()
        self._receive_usage(reply, delta)
        reply.touch()
        return thinking_since

    def _receive_usage(self, reply: Reply, delta: Delta) -> None:
        generation = reply.generation
        if generation and generation.started and "seed" not in reply.receipt:
            started = generation.started
            reply.receipt.update(
                prompt_tokens=started.prompt_tokens,
                reused_tokens=started.reused_tokens,
                dropped_messages=started.dropped_messages,
                seed=started.seed,
            )
        reply.receipt["completion_tokens"] = reply.receipt.get("completion_tokens", 0) + delta.tokens
        if reply.thinking_s is not None:
            reply.receipt["thinking_s"] = round(reply.thinking_s, 1)
        if delta.finish_reason is None:
            return
        reply.receipt["finish_reason"] = delta.finish_reason
        if delta.usage is not None:
            reply.receipt.update(
                prompt_tokens=delta.usage.prompt_tokens,  # known at the start, but for models of other servers
                reused_tokens=delta.usage.reused_tokens,
                completion_tokens=delta.usage.completion_tokens,
                tokens_per_s=round(delta.usage.tokens_per_s, 1),
                prefill_s=round(delta.usage.prefill_s, 3),
                queue_s=round(delta.usage.queue_s, 3),
            )
            if delta.usage.drafted_tokens:
                reply.receipt.update(drafted_tokens=delta.usage.drafted_tokens, accepted_tokens=delta.usage.accepted_tokens)
        reply.status = "stopped" if delta.finish_reason == "cancelled" else "complete"

    async def _request(self, reply: Reply, prompt_end_id: str, continues: bool) -> tuple[GenerationRequest, Sequence[AdapterChoice] | None]:
        """The request, and the adapters of the conversation."""
        record = await self._conversations.read(reply.owner, reply.conversation_id)
        messages = await self._conversations.messages_for_prompt(reply.owner, prompt_end_id)
        settings = record.settings
        params = self._presets.merge(settings.preset, settings.params)
        template = await self._templates.source(settings.template) if settings.template else None
        request = GenerationRequest(
            prompt=ChatPrompt(
                messages=messages,
                template=template,
                template_variables=settings.template_variables,
                continue_final_message=continues,
            ),
            params=params,
            client=f"{reply.owner}/{reply.conversation_id}",
        )
        return request, settings.adapters

    async def _save(self, reply: Reply) -> None:
        await self._conversations.save_reply(
            reply.owner,
            reply.id,
            content=reply.text,
            status=reply.status,
            model=reply.model,
            receipt=dict(reply.receipt),
            error=reply.error,
        )

    # ---- stop and follow -------------------------------------------------------------------------------------------

    async def stop(self, conversation_id: str) -> None:
        """Stop the reply of a conversation; its text so far is kept. Stopping nothing is no error."""
        reply = self._running.get(conversation_id)
        if reply is None:
            return
        reply.stop_asked = True
        if reply.generation is not None:
            await reply.generation.cancel()
        elif reply.task is not None:  # still waiting for a model to load
            reply.status = "stopped"
            await asyncio.sleep(0)  # a task cancelled before its first step would never come to its end, where it is saved
            reply.task.cancel()

    async def stop_below(self, owner: str, conversation_id: str, message_id: str) -> None:
        """Stop the reply of a conversation if it is the message or follows it, and wait until it is saved."""
        reply = self._running.get(conversation_id)
        if reply is None:
            return
        record = await self._conversations.read(owner, conversation_id)
        path = [message.id for message in record.messages]
        if message_id in path and reply.id in path[path.index(message_id) :]:
            await self.stop(conversation_id)
            if reply.task is not None:
                await asyncio.wait({reply.task}, timeout=5)

    async def close(self) -> None:
        """Stop all replies and wait until they are saved."""
        replies = tuple(self._running.values())
        for reply in replies:
            await self.stop(reply.conversation_id)
        tasks = [reply.task for reply in replies if reply.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=3)
