"""What a person does with turns besides asking: choose who speaks, write a turn by hand, begin the reply, have the own turn written, take one back.

Works on the path that is shown. Knows no HTML and no engine.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from modules.core.dialogue import NARRATOR
from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.generation import ChatPrompt
from modules.core.messages import FILE_LIMIT, Image, Message
from modules.services.beginnings import is_greeting
from modules.services.character_prompt import ASSISTANT, PERSON, SEPARATOR, Names
from modules.services.characters import Casting
from modules.services.conversation_files import new_images, title_from
from modules.services.conversation_settings import ConversationSettings
from modules.services.conversations import ConversationRecord, ConversationService, MessageRecord
from modules.services.generation import GenerationService
from modules.services.replies import ReplyService
from modules.services.reply_request import ReplyRequests
from modules.services.storage import Storage, Stores
from modules.store.records import NewMessage, StoredFile

ROLES = ("user", "assistant", "narrator")


class Attached(NamedTuple):
    """What goes with a turn: images, and ids of documents that wait in the conversation."""

    images: Sequence[Image] = ()
    files: Sequence[str] = ()


NOTHING = Attached()


class TakenBack(NamedTuple):
    """What was in a turn that was taken back, and where it lies in the bin."""

    text: str
    bin_id: str
    images: Sequence[Image] = ()
    files: Sequence[StoredFile] = ()  # copies, which wait for the next turn


class TurnService:
    """Verbs on the turns of a conversation. The owner is part of every call; what is another's does not exist."""

    def __init__(
        self,
        storage: Storage,
        conversations: ConversationService,
        replies: ReplyService,
        generation: GenerationService,
        requests: ReplyRequests,
        casting: Casting,
    ) -> None:
        self._storage = storage
        self._conversations = conversations
        self._replies = replies
        self._generation = generation
        self._requests = requests
        self._casting = casting

    async def cast(self, owner: str, conversation_id: str, character: str, profile: str) -> None:
        """Choose who speaks, empty for nobody in particular. Where nothing was said yet, the character's greetings are the first message, each a version.

        Raises:
            NotFound: there is no such character or profile.
            Conflict: a reply is being written.
        """
        self._refuse_while_writing(conversation_id)
        before = await self._conversations.read(owner, conversation_id)
        chosen = before.settings.model_copy(update={"character": character, "profile": profile})
        card, _ = await self._casting.cards(chosen)
        names = await self._casting.names(chosen)
        said = len(before.messages) > 1 or (bool(before.messages) and not is_greeting(before.messages[0]))
        if said:
            await self._note_speakers(owner, before, chosen)
        await self._conversations.update_settings(owner, conversation_id, {"character": character, "profile": profile})
        if said or (character == before.settings.character and before.messages):
            return
        for message in before.messages:
            for version_id in message.version_ids:
                await self._conversations.delete_message(owner, version_id)
        added = [
            await self._add(owner, conversation_id, None, _turn("assistant", names.put_into(greeting), names.char))
            for greeting in (card.greetings if card else ())
        ]
        if len(added) > 1:
            await self._conversations.select_version(owner, added[0].id)

    async def insert(self, owner: str, conversation_id: str, role: str, text: str, attached: Attached = NOTHING) -> str:
        """Add a turn at the end without having it answered: the person's, a reply written by hand, or what a narrator tells; its id.

        Raises:
            InvalidRequest: no such role, or nothing written.
            Conflict: a reply is being written.
        """
        if role not in ROLES:
            raise InvalidRequest(f"“{role[:40]}” cannot speak; use {', '.join(ROLES)}.", field="role")
        if not text.strip() and not any(attached):
            raise InvalidRequest("There is nothing to add; write a message first.", field="text")
        record = await self._open(owner, conversation_id)
        parent_id = record.messages[-1].id if record.messages else None
        speaker = NARRATOR if role == "narrator" else ""
        if role == "assistant" and record.settings.character:
            speaker = (await self._casting.names(record.settings)).char
        new = _turn("assistant" if role == "assistant" else "user", text, speaker, attached)
        return (await self._add(owner, conversation_id, parent_id, new)).id

    async def begin(self, owner: str, conversation_id: str, text: str, begin_with: str, attached: Attached = NOTHING) -> str:
        """Ask, and have the reply begin with given words; id of the reply. Without a text the last turn is answered, or its reply is written again.

        Raises:
            InvalidRequest: there is nothing to answer, or no words to begin with.
            Conflict: a reply is being written.
        """
        if not begin_with.strip():
            raise InvalidRequest("Write the words that the reply is to begin with.", field="begin_with")
        record = await self._open(owner, conversation_id)
        if text.strip() or any(attached):
            await self.insert(owner, conversation_id, "user", text, attached)
            record = await self._conversations.read(owner, conversation_id)
        last = record.messages[-1] if record.messages else None
        parent_id = last.parent_id if last and last.role == "assistant" else last.id if last else None
        if parent_id is None:
            raise InvalidRequest("There is nothing to answer yet; write a message first.", field="text")
        return await self._replies.start_reply(owner, conversation_id, parent_id, begin_with)

    async def impersonate(self, owner: str, conversation_id: str, text: str) -> AsyncGenerator[str]:
        """The person's next turn as the model would write it, piece by piece, going on from `text`. Nothing is stored.

        Raises:
            InvalidRequest: nothing was said yet, or the model's server cannot do it.
            Conflict: a reply is being written.
        """
        record = await self._open(owner, conversation_id)
        if not record.messages:
            raise InvalidRequest("There is nothing to go on from yet; send a message or choose a character that begins.", field="text")
        asked = await self._requests.make(owner, conversation_id, record.messages[-1].id, continues=False)
        prompt = asked.request.prompt
        if not isinstance(prompt, ChatPrompt):
            raise InvalidRequest("This conversation has no turns that could be gone on from.")
        messages = _with_open_turn(prompt.messages, text)
        request = asked.request.model_copy(update={"prompt": prompt.model_copy(update={"messages": messages, "continue_final_message": True})})
        generation = await self._generation.submit(request, adapters=asked.adapters)
        try:
            async for delta in generation:
                if delta.text:
                    yield delta.text
        finally:
            await generation.aclose()

    async def take_back(self, owner: str, conversation_id: str) -> TakenBack:
        """Put the person's last turn with what followed it into the bin; what was in it, to be written anew.

        Raises:
            InvalidRequest: the person has not said anything, or its documents and those that wait are more than a turn can have.
            Conflict: a reply is being written.
        """
        record = await self._open(owner, conversation_id)
        own = [message for message in record.messages if message.role == "user"]
        if not own:
            raise InvalidRequest("You have not said anything here yet, so there is nothing to take back.")
        storage, last = self._storage.of(conversation_id), own[-1]
        waiting = await storage.run(lambda stores: len(stores.files.waiting(owner, conversation_id))) if last.files else 0
        if waiting + len(last.files) > FILE_LIMIT:
            raise InvalidRequest(
                f"A message can have {FILE_LIMIT} files: your last one has {len(last.files)}, and {waiting} are attached already. "
                "Remove some of these, then take it back.",
                field="files",
            )
        images = await storage.run(lambda stores: _images(stores, owner, last))
        bin_id = await self._conversations.delete_message(owner, last.id)
        files = await storage.run(lambda stores: stores.files.wait_again(owner, conversation_id, last.files)) if last.files else ()
        return TakenBack(last.content, bin_id, images, files)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _refuse_while_writing(self, conversation_id: str) -> None:
        if conversation_id in self._replies.running_ids():
            raise Conflict("A reply is still being written in this conversation; stop it or wait for it.")

    async def _open(self, owner: str, conversation_id: str) -> ConversationRecord:
        self._refuse_while_writing(conversation_id)
        return await self._conversations.read(owner, conversation_id)

    async def _note_speakers(self, owner: str, before: ConversationRecord, chosen: ConversationSettings) -> None:
        """Who spoke so far keeps the name, when somebody else speaks from now on."""
        old = before.settings
        names = await self._former_names(old)
        changed = {
            role: name
            for role, name, is_other in (
                ("assistant", names.char, old.character != chosen.character),
                ("user", names.user, old.profile != chosen.profile),
            )
            if is_other
        }

        def note(stores: Stores) -> None:
            for record in stores.messages.read_all(owner, before.id).messages:
                if not record.speaker and record.role in changed:
                    stores.messages.save(owner, record.id, {"speaker": changed[record.role]})

        if changed:
            await self._storage.of(before.id).run(note)
            self._conversations.tell(before.id)

    async def _former_names(self, settings: ConversationSettings) -> Names:
        """How both were called; one whose card is gone by the name of its file."""
        try:
            return await self._casting.names(settings)
        except (NotFound, InvalidRequest):
            return Names(settings.character or ASSISTANT, settings.profile or PERSON)

    async def _add(self, owner: str, conversation_id: str, parent_id: str | None, new: NewMessage) -> MessageRecord:
        title = title_from(new.content) if new.role == "user" and new.speaker != NARRATOR else ""
        message, _ = await self._storage.of(conversation_id).run(lambda stores: stores.messages.append(owner, conversation_id, parent_id, new, auto_title=title))
        self._conversations.tell(conversation_id, message.id)
        return message


def _turn(role: str, text: str, speaker: str, attached: Attached = NOTHING) -> NewMessage:
    return NewMessage(role, text, None, time.time(), images=new_images(attached.images), files=tuple(attached.files), speaker=speaker)


def _images(stores: Stores, owner: str, message: MessageRecord) -> tuple[Image, ...]:
    """The images of a message with their files."""
    files = stores.messages.image_files(owner, message.conversation_id, (message,))
    return tuple(Image(kind=image.kind, data=base64.b64encode(files[image.hash]).decode()) for image in message.images if image.hash in files)


def _with_open_turn(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The messages with an unfinished turn of the person at the end; one that was not answered yet goes on."""
    if messages and messages[-1].role == "user":
        last = messages[-1]
        return (*messages[:-1], last.model_copy(update={"content": last.content + SEPARATOR + text}))
    return (*messages, Message(role="user", content=text))
