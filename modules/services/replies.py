"""Replies being written: server-side generations bound to messages of a conversation.

A reply lives here, not in a browser: tabs only follow it, so a reload, a second tab or a phone re-attaches. The text is saved when it starts,
soon after each piece that comes, and at its end. Several replies to one message can be written at the same time, as versions of each other.
Knows no HTML.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from modules.core.errors import AppError, Conflict, ContextOverflow, InvalidRequest
from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Image
from modules.services.conversations import ConversationService
from modules.services.generation import GenerationService
from modules.services.kept_prompts import KeptPrompt
from modules.services.receipts import ReceiptService, asked
from modules.services.replay import Original, original_of
from modules.services.reply import Reply, grow
from modules.services.reply_request import ReplyRequest, ReplyRequests
from modules.services.summaries import SummaryService
from modules.services.titles import TitleService

__all__ = ["VERSIONS_LIMIT", "Reply", "ReplyService"]

log = logging.getLogger(__name__)

VERSIONS_LIMIT = 6  # written at the same time
STOP_S = 5.0
LOOK_S = 2.0  # for what wrote it: no reply ends later because of its receipt


class ReplyService:
    """Starts, follows and stops replies."""

    def __init__(
        self,
        *,
        generation: GenerationService,
        conversations: ConversationService,
        requests: ReplyRequests,
        receipts: ReceiptService,
        titles: TitleService,
        summaries: SummaryService,
    ) -> None:
        self._generation = generation
        self._conversations = conversations
        self._requests = requests
        self._receipts = receipts
        self.titles = titles
        self._summaries = summaries
        self._running: dict[str, list[Reply]] = {}
        self._starting: set[str] = set()  # conversations in which one is about to be
        self._together: dict[str, tuple[str, ...]] = {}  # conversation → versions written together, until one is picked

    def running(self, conversation_id: str) -> Reply | None:
        """The reply being written in a conversation, if any; the first of several."""
        return next(iter(self._running.get(conversation_id, ())), None)

    def all_running(self, conversation_id: str) -> tuple[Reply, ...]:
        """All replies being written in a conversation."""
        return tuple(self._running.get(conversation_id, ()))

    def running_ids(self) -> frozenset[str]:
        """Conversations in which a reply is being written."""
        return frozenset(self._running)

    def together(self, conversation_id: str) -> tuple[str, ...]:
        """The versions that were asked for together and of which none was picked yet."""
        return self._together.get(conversation_id, ())

    # ---- start -----------------------------------------------------------------------------------------------------

    async def send(
        self, owner: str, conversation_id: str, text: str, images: Sequence[Image] = (), *, files: Sequence[str] = (), versions: int = 1
    ) -> tuple[str, str]:
        """Add what the person wrote and attached (`files`: ids of documents that wait), and start the reply; ids of both messages.

        Raises:
            InvalidRequest: nothing written.
            Conflict: a reply is still being written.
        """
        if not text.strip() and not images and not files:
            raise InvalidRequest("There is nothing to send; write a message first.", field="text")
        _check_count(versions)
        with self._only_one(conversation_id):
            parent = await self._conversations.paths.head(owner, conversation_id)
            message = await self._conversations.append(owner, conversation_id, parent, "user", text, images=images, files=files)
            return message.id, await self._answer(owner, conversation_id, message.id, versions=versions)

    async def regenerate(self, owner: str, conversation_id: str, message_id: str, *, versions: int = 1) -> str:
        """Write another version of a reply, or several; id of the (first) new message."""
        _check_count(versions)
        with self._only_one(conversation_id):
            return await self._again(owner, conversation_id, message_id, versions)

    async def _again(self, owner: str, conversation_id: str, message_id: str, versions: int = 1) -> str:
        message = await self._conversations.message(owner, message_id, conversation_id)
        if message.role != "assistant":
            return await self._answer(owner, conversation_id, message_id, versions=versions)
        if message.parent_id is None:
            raise InvalidRequest("This message answers nothing, so there is nothing to write again.")
        return await self._answer(owner, conversation_id, message.parent_id, versions=versions)

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
            self._together.pop(conversation_id, None)
            self._begin([Reply.continuing(message, owner)], message.id, continues=True)
            self._conversations.tell(conversation_id, message.id)
            return message.id

    async def replay(self, owner: str, conversation_id: str, message_id: str) -> str:
        """Write a reply again from its receipt, as another version whose receipt says whether it became the same; id of that message.

        Raises:
            InvalidRequest: its receipt says too little.
            Conflict: a reply is still being written.
        """
        with self._only_one(conversation_id):
            message = await self._conversations.message(owner, message_id, conversation_id)
            kept = await self._conversations.prompts.of(owner, message_id)
            original = original_of(message, kept)
            return await self._answer(owner, conversation_id, message.parent_id or "", original.begun, original=original)

    async def start_reply(self, owner: str, conversation_id: str, parent_id: str, begin_with: str = "") -> str:
        """Write a reply to a message, going on from the words it is to begin with; id of the new message.

        Raises:
            NotFound: no such message in the conversation.
            Conflict: a reply is still being written.
        """
        with self._only_one(conversation_id):
            await self._conversations.message(owner, parent_id, conversation_id)
            return await self._answer(owner, conversation_id, parent_id, begin_with)

    async def _answer(
        self, owner: str, conversation_id: str, parent_id: str, begin_with: str = "", versions: int = 1, original: Original | None = None
    ) -> str:
        """Add the messages that are to hold the replies, and begin; of several the first is shown until one is picked."""
        replies: list[Reply] = []
        try:
            for place in range(versions):
                message = await self._conversations.append(owner, conversation_id, parent_id, "assistant", begin_with, status="streaming")
                replies.append(Reply(message.id, conversation_id, owner, parent_id=parent_id, place=place, text=begin_with, original=original))
            self._together.pop(conversation_id, None)
            if versions > 1:
                await self._conversations.select_version(owner, replies[0].id)
                self._together[conversation_id] = tuple(reply.id for reply in replies)
        except (AppError, asyncio.CancelledError):
            await asyncio.shield(self._give_up(replies))
            raise
        self._begin(replies, replies[0].id if begin_with else parent_id, continues=bool(begin_with))
        return replies[0].id

    async def _give_up(self, replies: Sequence[Reply]) -> None:
        """End replies that were stored and cannot begin, since another one of them could not be stored: nobody would ever write them."""
        for reply in replies:
            reply.fail("Not all versions that were asked for could be stored, so none was begun. Regenerate.")
            with suppress(AppError):  # the disk may be full; the cause is told to who asked
                await self._save(reply)
            self._conversations.tell(reply.conversation_id, reply.id)

    @contextmanager
    def _only_one(self, conversation_id: str) -> Iterator[None]:
        """Refuse a second time of asking, also while the first is only about to start."""
        if conversation_id in self._running or conversation_id in self._starting:
            raise Conflict("A reply is still being written in this conversation; stop it or wait for it.")
        self._starting.add(conversation_id)
        try:
            yield
        finally:
            self._starting.discard(conversation_id)

    def _begin(self, replies: list[Reply], prompt_end_id: str, *, continues: bool) -> None:
        self.titles.stop(replies[0].conversation_id)
        self._running[replies[0].conversation_id] = list(replies)
        for reply in replies:
            reply.task = asyncio.create_task(self._write(reply, prompt_end_id, continues))

    # ---- write -----------------------------------------------------------------------------------------------------

    async def _write(self, reply: Reply, prompt_end_id: str, continues: bool) -> None:
        """The life of one reply, from prompt to saved text."""
        try:
            await self._generate(reply, prompt_end_id, continues)
        except AppError as error:
            if reply.stop_asked:
                reply.status = "stopped"
            else:
                reply.fail(error.message)
        except asyncio.CancelledError:
            reply.status = "stopped"
            if not reply.stop_asked:
                reply.error = "The server stopped while this was being written; the text so far was kept."
                raise
        finally:
            await asyncio.shield(self._end(reply))

    async def _end(self, reply: Reply) -> None:
        if reply.status == "streaming":
            reply.fail(reply.error or "The reply ended unexpectedly; the text so far was kept. Send again or regenerate.")
        if reply.status == "complete":
            reply.error = ""  # it was done before it was stopped
        try:
            await self._save(reply)
        except AppError as error:
            reply.error = f"{reply.error} {error.message}".strip()
        finally:
            self._forget(reply)
            reply.touch()
        self._receipts.complete(reply.owner, reply.id, reply.model, reply.receipt)
        if reply.status == "complete" and reply.conversation_id not in self._running:
            self.titles.after(reply)

    def _forget(self, reply: Reply) -> None:
        left = [other for other in self._running.get(reply.conversation_id, ()) if other is not reply]
        if left:
            self._running[reply.conversation_id] = left
        else:
            self._running.pop(reply.conversation_id, None)

    async def _generate(self, reply: Reply, prompt_end_id: str, continues: bool) -> None:
        made = await self._request(reply, prompt_end_id, continues)
        request, reply.left_out = made.request, made.left_out
        if reply.before is None and isinstance(request.prompt, ChatPrompt):
            reply.kept = KeptPrompt(request.prompt, made.first_left_out, made.left_out)
        generation = await self._generation.submit(request, adapters=made.adapters)
        reply.generation, reply.model = generation, generation.model
        reply.receipt.update(asked(request))
        if generation.adapters:
            reply.receipt["adapters"] = [choice.model_dump() for choice in generation.adapters]
        if reply.stop_asked:
            await generation.cancel()
        on_place: Callable[[], None] = reply.touch
        generation.on_place = on_place
        looking = asyncio.create_task(self._receipts.made_by(generation.model))
        try:
            await grow(reply, generation, self._save)
        finally:
            await asyncio.wait({looking}, timeout=LOOK_S)
            if looking.cancel() or looking.cancelled() or looking.exception() is not None:
                log.info("What wrote a reply of %s is not in its receipt", reply.model)
            else:
                reply.receipt["made_by"] = looking.result()

    async def _request(self, reply: Reply, prompt_end_id: str, continues: bool) -> ReplyRequest:
        original = reply.original
        if original is not None and original.kept is not None:
            return self._requests.again(reply.owner, reply.conversation_id, original.kept, original.params, original.adapters)
        if original is None:
            await self._make_room(reply, prompt_end_id, continues)
        limit_characters = self._generation.character_limit()
        made = await self._requests.make(reply.owner, reply.conversation_id, prompt_end_id, continues=continues, limit_characters=limit_characters)
        request = _of_its_own(made.request, reply.place) if original is None else original.asked(made.request)
        adapters = made.adapters if original is None else original.adapters
        return replace(made, request=await self._generation.resolved(request), adapters=adapters)

    async def _make_room(self, reply: Reply, prompt_end_id: str, continues: bool) -> None:
        """Where no summary can be written, the oldest messages are left out, and the receipt says why."""
        begun = partial(reply.now_doing, "Summarising the oldest messages…")
        try:
            count = await self._summaries.make_room(reply.owner, reply.conversation_id, prompt_end_id, continues=continues, begun=begun)
            if count:
                reply.receipt["summarised_messages"] = count
        except (InvalidRequest, ContextOverflow) as error:
            reply.receipt["not_summarised"] = error.message
        if reply.doing:
            reply.now_doing("")

    async def _save(self, reply: Reply) -> None:
        started = reply.generation.started if reply.generation else None
        if reply.kept is not None and started is not None:
            kept, reply.kept = reply.kept, None
            prompt = await self._generation.spelled_out(kept.prompt, reply.model, started.template_hash)
            await self._conversations.prompts.keep(reply.owner, reply.id, replace(kept, prompt=prompt), started.dropped)
        await self._conversations.save_reply(
            reply.owner,
            reply.id,
            content=reply.text,
            status=reply.status,
            model=reply.model,
            receipt=dict(reply.receipt),
            error=reply.error,
        )

    # ---- stop and pick ---------------------------------------------------------------------------------------------

    async def stop(self, conversation_id: str, why: str = "") -> None:
        """Stop the replies of a conversation; their texts so far are kept, with a sentence for who did not ask for it. Stopping nothing is no error."""
        for reply in self.all_running(conversation_id):
            await self._stop(reply, why)

    async def _stop(self, reply: Reply, why: str = "") -> None:
        reply.stop_asked, reply.error = True, why
        if reply.generation is not None:
            await reply.generation.cancel()
        elif reply.task is not None:  # still waiting for a model to load
            reply.status = "stopped"
            await asyncio.sleep(0)  # a task cancelled before its first step would never come to its end, where it is saved
            reply.task.cancel()

    async def stop_below(self, owner: str, conversation_id: str, message_id: str) -> None:
        """Stop the replies of a conversation that are the message or follow it, and wait until they are saved."""
        replies = self.all_running(conversation_id)
        if not replies:
            return
        record = await self._conversations.read(owner, conversation_id)
        path = [message.id for message in record.messages]
        above = path.index(message_id) if message_id in path else len(path)
        below = set(path[above:])
        stopped = [reply for reply in replies if reply.id == message_id or reply.id in below or reply.parent_id in below]
        for reply in stopped:
            await self._stop(reply)
        tasks = {reply.task for reply in stopped if reply.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_S)

    async def pick(self, owner: str, conversation_id: str, message_id: str) -> None:
        """Go on with one of the versions written together; those still being written are stopped and stay as versions.

        Raises:
            NotFound: no such message in the conversation.
        """
        await self._conversations.message(owner, message_id, conversation_id)
        for reply in self.all_running(conversation_id):
            if reply.id != message_id:
                await self._stop(reply)
        self._together.pop(conversation_id, None)
        await self._conversations.select_version(owner, message_id)

    async def close(self) -> None:
        """Stop all replies and wait until they are saved."""
        replies = tuple(reply for running in self._running.values() for reply in running)
        for reply in replies:
            await self._stop(reply)
        tasks = [reply.task for reply in replies if reply.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=3)
        await self.titles.close()
        await self._receipts.close()


def _check_count(versions: int) -> None:
    if not 1 <= versions <= VERSIONS_LIMIT:
        raise InvalidRequest(f"1 to {VERSIONS_LIMIT} versions can be written at the same time, not {versions}.", field="versions")


def _of_its_own(request: GenerationRequest, place: int) -> GenerationRequest:
    """The request of one of several versions: a given seed counts up, so that they differ and can be repeated."""
    seed = request.params.seed
    if not place or seed is None:
        return request
    return request.model_copy(update={"params": request.params.model_copy(update={"seed": (seed + place) % 2**64})})
