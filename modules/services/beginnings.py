"""How a conversation begins in the page: as the last one that was used, or with the defaults, by the person's choice.

A program that makes a conversation says its settings itself (conversations.py). Knows no HTML.
"""

from __future__ import annotations

import time

from modules.core.errors import InvalidRequest, NotFound
from modules.services.characters import Casting
from modules.services.chat_preferences import ChatPreferenceService
from modules.services.conversation_settings import ConversationSettings, stored_settings
from modules.services.preset_choices import PresetChoices
from modules.services.storage import Storage, Stores
from modules.services.templates import TemplateService
from modules.store.records import NEW_TITLE, MessageRecord, NewConversation, NewMessage, StoredConversation

FORGOTTEN_S = 48 * 3600.0


class Beginnings:
    """Makes the conversations that a person begins."""

    def __init__(
        self, storage: Storage, casting: Casting, presets: PresetChoices, templates: TemplateService, preferences: ChatPreferenceService
    ) -> None:
        self._storage = storage
        self._casting = casting
        self._presets = presets
        self._templates = templates
        self._preferences = preferences

    async def begin(self, owner: str, *, private: bool = False) -> str:
        """The id of a conversation in which the person has not said anything; the newest one when it began the same way and is untouched.

        A private one is in memory alone, and always new.
        """
        settings = ConversationSettings(preset=self._presets.default())
        if self._preferences.read(owner).begin_as_last:
            last = await self._storage.run(lambda stores: stores.conversations.last_used(owner))
            settings = await self._carried(stored_settings(last.settings)) if last else settings
        settings = self._as_with_the_model(settings)
        greetings = await self._greetings(settings)
        new = NewConversation(NEW_TITLE, settings.model_dump(mode="json"), greetings, head=0, title_is_auto=True)
        if private:
            return await self._storage.private.run(lambda stores: _private(stores, owner, new))
        return await self._storage.run(lambda stores: _untouched(stores, owner, settings) or stores.messages.insert_tree(owner, new))

    def _as_with_the_model(self, settings: ConversationSettings) -> ConversationSettings:
        """With the preset that the person last chose for the loaded model, if that is another one."""
        mine = self._presets.of_model()
        if mine is None or mine.preset == settings.preset:
            return settings
        return settings.model_copy(update={"preset": mine.preset, "params": {}})

    async def _carried(self, settings: ConversationSettings) -> ConversationSettings:
        """What goes over into the next conversation: what is gone meanwhile stays behind, and so does what was said."""
        changes: dict[str, str] = {"summary": "", "summary_until": ""}
        for name, folder in (("character", self._casting.characters), ("profile", self._casting.profiles)):
            chosen = getattr(settings, name)
            try:
                _ = await folder.read(chosen) if chosen else None
            except (NotFound, InvalidRequest):
                changes[name] = ""
        if not self._presets.usable(settings.preset):
            changes["preset"] = self._presets.default()
        if settings.template and settings.template not in {row.name for row in await self._templates.list() if not row.problem}:
            changes["template"] = ""
        return settings.model_copy(update=changes)

    async def _greetings(self, settings: ConversationSettings) -> tuple[NewMessage, ...]:
        """What the character says first, each greeting a version."""
        card, _ = await self._casting.cards(settings)
        names = await self._casting.names(settings)
        told = card.greetings if card else ()
        return tuple(NewMessage("assistant", names.put_into(greeting), None, time.time(), speaker=names.char) for greeting in told)


def _untouched(stores: Stores, owner: str, settings: ConversationSettings) -> str | None:
    """The newest conversation, if nothing was done in it and it would begin the same way."""
    newest = stores.conversations.newest(owner)
    if newest is None or not newest.title_is_auto or newest.pinned or newest.tags or stored_settings(newest.settings) != settings:
        return None
    whole: StoredConversation = stores.messages.read_all(owner, newest.id)
    return newest.id if all(is_greeting(message) for message in whole.messages) else None


def _private(stores: Stores, owner: str, new: NewConversation) -> str:
    """A new one; those whose pages never said that they were closed, since their browser broke down, are forgotten."""
    for row in stores.conversations.list(owner):
        if time.time() - row.updated_s > FORGOTTEN_S:
            stores.bin.discard(owner, stores.conversations.delete(owner, row.id))
    return stores.messages.insert_tree(owner, new)


def is_greeting(message: MessageRecord) -> bool:
    """Whether it is a first message that nobody asked for and no model wrote."""
    return message.role == "assistant" and message.parent_id is None and not message.model
