"""Characters and the person's own profiles: files of two folders, and what they add to the prompt of a conversation.

Files are read and written in threads, so nothing here blocks the event loop. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from modules.core.dialogue import COMMAND, COMMAND_LIMIT, Dialogue
from modules.core.errors import InvalidRequest
from modules.core.messages import Message
from modules.core.params import GenerationParams
from modules.core.person import FIRST_PERSON, asking, own_folder
from modules.core.settings import validation_sentence
from modules.prompts.character_card import CardText, json_file, png_file
from modules.prompts.characters import CharacterFolder, CharacterSummary
from modules.prompts.lorebook import Lorebook, read_lorebook
from modules.prompts.png_text import plain_picture
from modules.services.character_prompt import Names, in_role, last_words, names_of, stop_strings
from modules.services.conversation_settings import ConversationSettings

FileForm = Literal["png", "v1", "v2", "v3"]
PROFILE_FIELDS = MappingProxyType({  # a profile has these alone, in words of its own
    "name": ("Name", "What you are called, also in {{user}}."),
    "description": ("About you", "What the model is to know of you; part of every prompt."),
})  # fmt: skip
LISTS = ("alternate_greetings", "tags")
SHORT = ("name", "creator", "character_version")
STOP_LIMIT = 64  # of params.stop


class CharacterService:
    """Cards of one kind: characters, which are everybody's, or profiles, of which each person with an account has their own."""

    def __init__(self, folder: Path, what: str = "character", *, state_dir: Path | None = None) -> None:
        """`state_dir`: where folders of their own are made for people with accounts; the first of them has the common one, as nobody has where there are no accounts."""
        self._common = CharacterFolder(folder, what)
        self._state_dir = state_dir
        self._own: dict[str, CharacterFolder] = {}
        self._what = what

    @property
    def _folder(self) -> CharacterFolder:
        """The folder of who asks."""
        person = asking()
        if self._state_dir is None or person is None or not person.has_account or person.id == FIRST_PERSON:
            return self._common
        if person.id not in self._own:
            self._own[person.id] = CharacterFolder(own_folder(self._state_dir, person.id) / self._common.folder.name, self._what)
        return self._own[person.id]

    async def list(self) -> tuple[CharacterSummary, ...]:
        """All of them by name, broken ones with their problem."""
        return await asyncio.to_thread(self._folder.list)

    def fields(self) -> builtins.list[dict[str, str]]:
        """What can be edited: name, title and sentence of each field, and how it is typed (line, text or list)."""
        words = {name: (field.title or name, field.description or "") for name, field in CardText.model_fields.items()}
        chosen = words if self._what == "character" else PROFILE_FIELDS
        return [
            {"name": name, "title": title, "description": description, "form": "list" if name in LISTS else "line" if name in SHORT else "text"}
            for name, (title, description) in chosen.items()
        ]

    async def read(self, name: str) -> tuple[CardText, int]:
        """The texts of a card, and how many entries of lore it has that can be used.

        Raises:
            NotFound: there is none of that name; so for every verb.
            InvalidRequest: the name or the file is not valid.
        """
        text = await asyncio.to_thread(self._folder.text, name)
        book = await self.book(name)
        return text, len(book.entries)

    async def book(self, name: str) -> Lorebook:
        """The lore of a card."""
        card = await asyncio.to_thread(self._folder.card, name)
        return read_lorebook(card["data"].get("character_book"))

    async def save(self, values: Mapping[str, Any], name: str = "") -> str:
        """Write what was edited; its name. Without a name it is a new one; what is not named in `values` stays.

        Raises:
            InvalidRequest: a field outside its limits, or no name.
        """
        before = (await asyncio.to_thread(self._folder.text, name)).model_dump() if name else {}
        unknown = next((key for key in values if key not in CardText.model_fields), None)
        if unknown is not None:
            raise InvalidRequest(f"“{unknown[:60]}” is no field of a {self._what}; check the spelling.", field=unknown[:60])
        try:
            text = CardText.model_validate({**before, **values})
        except ValidationError as error:
            where = error.errors()[0]["loc"]
            raise InvalidRequest(validation_sentence(error), field=str(where[0]) if where else "name") from error
        return await asyncio.to_thread(self._folder.save, text, name)

    async def add(self, file: bytes) -> str:
        """Take the file of a card, PNG, JSON or YAML; its name.

        Raises:
            InvalidRequest: no card, damaged or too large.
        """
        return await asyncio.to_thread(self._folder.add, file)

    async def file(self, name: str, form: FileForm) -> bytes:
        """The card as a file to pass on; without a picture of its own the PNG is a plain one."""

        def make() -> bytes:
            card = self._folder.card(name)
            if form != "png":
                return json_file(card, form)
            return png_file(card, self._folder.picture(name) or _plain(name))

        return await asyncio.to_thread(make)

    async def picture(self, name: str) -> bytes | None:
        """The picture as a PNG file, if there is one."""
        return await asyncio.to_thread(self._folder.picture, name)

    async def set_picture(self, name: str, picture: bytes | None) -> None:
        """Give a PNG picture, or take it away.

        Raises:
            InvalidRequest: no PNG, damaged or too large.
        """
        await asyncio.to_thread(self._folder.set_picture, name, picture)

    async def delete(self, name: str) -> str:
        """Move one into the bin; the mark by which it can be put back."""
        return await asyncio.to_thread(self._folder.delete, name)

    async def restore(self, mark: str) -> str:
        """Put one back; its name.

        Raises:
            Conflict: another one has its name meanwhile.
        """
        return await asyncio.to_thread(self._folder.restore, mark)


class Casting:
    """Who speaks in a conversation: its character and its profile."""

    def __init__(self, characters: CharacterService, profiles: CharacterService) -> None:
        self.characters = characters
        self.profiles = profiles

    async def cards(self, settings: ConversationSettings) -> tuple[CardText | None, CardText | None]:
        """The character and the profile that the settings name.

        Raises:
            NotFound: one of them is gone.
        """
        character = (await self.characters.read(settings.character))[0] if settings.character else None
        profile = (await self.profiles.read(settings.profile))[0] if settings.profile else None
        return character, profile

    async def names(self, settings: ConversationSettings) -> Names:
        """How both are called."""
        return names_of(*await self.cards(settings))

    async def variables(self, settings: ConversationSettings) -> dict[str, str]:
        """What a prompt template may name both by, `char` and `user`, where a character speaks; also as templates of TextGen know them."""
        if not settings.character:
            return {}
        character, profile = await self.cards(settings)
        names = names_of(character, profile)
        about = names.put_into(profile.description.strip()) if profile else ""
        return {"char": names.char, "user": names.user, "name1": names.user, "name2": names.char, "user_bio": about}

    async def dialogue(self, settings: ConversationSettings) -> Dialogue | None:
        """How the conversation is told as one instruction; None where its turns go into the chat template."""
        if settings.mode == "instruct":
            return None
        character, profile = await self.cards(settings)
        names = names_of(character, profile)
        command = "\n\n".join(part for part in (settings.command.strip() or COMMAND, last_words(character)) if part)
        return Dialogue(command=command[:COMMAND_LIMIT], char=names.char, user=names.user)

    async def play(
        self, settings: ConversationSettings, messages: Sequence[Message], params: GenerationParams
    ) -> tuple[tuple[Message, ...], GenerationParams]:
        """The messages and parameters of a request, as the character and the profile of the conversation want them."""
        as_turns = settings.mode == "instruct"
        if as_turns and not settings.character and not settings.profile:
            return tuple(messages), params
        character, profile = await self.cards(settings)
        book = await self.characters.book(settings.character) if settings.character else None
        changed = in_role(messages, character, profile, book, turns=as_turns)
        if character is None and as_turns:
            return changed, params
        stop = dict.fromkeys((*params.stop, *stop_strings(names_of(character, profile))))
        return changed, params.model_copy(update={"stop": tuple(stop)[:STOP_LIMIT]})


def _plain(name: str) -> bytes:
    """A picture for those who have none, of colours that go with the name."""
    red, green, blue = (80 + byte % 120 for byte in hashlib.sha256(name.encode()).digest()[:3])
    return plain_picture(400, 600, (red, green, blue), (red // 3, green // 3, blue // 3))
