"""All notebooks of an owner: list, make, name, put into the bin; and the versions of each. Knows no generation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from modules.core.errors import InvalidRequest
from modules.services.conversation_files import title_from
from modules.services.conversation_settings import Within, edited_and_checked
from modules.services.storage import Storage
from modules.store.notebook_records import NotebookSummary, NotebookVersion

BIN_S = 30 * 86_400.0
NAME_LIMIT = 200
UNTITLED = "Untitled"
LOOKED_AT = 4_000  # characters of a text, for its name
MARKS = " \t#>*-_=`~"  # of Markdown, around the words of a line


def name_of(name: str, text: str) -> str:
    """The name that a person gave, or the first words of the first line that has any."""
    first = next((words for line in text[:LOOKED_AT].splitlines() if (words := line.strip(MARKS))), "")
    return name or title_from(first) or UNTITLED


class NotebookShelf:
    """Notebooks as things: what is in them is changed elsewhere."""

    def __init__(self, storage: Storage) -> None:
        self._run = storage.run

    async def list(self, owner: str, search: str = "", *, deleted: bool = False) -> tuple[NotebookSummary, ...]:
        """The last opened first; with `search` those that have every word. What was in the bin for 30 days is removed for good."""
        await self._run(lambda stores: stores.notebooks.purge(time.time() - BIN_S))
        return await self._run(lambda stores: stores.notebooks.list(owner, search, deleted=deleted))

    async def open(self, owner: str, notebook_id: str = "") -> str:
        """Remember which one is open; its id. An owner without one gets an empty one.

        Raises:
            NotFound: there is none, or it is another owner's; so for every verb.
        """
        return await self._run(lambda stores: stores.notebooks.open(owner, notebook_id))

    async def create(self, owner: str, name: str = "", text: str = "", settings: Mapping[str, Any] | None = None) -> str:
        """The id of a new notebook, written on as the last one was but for `settings`."""
        last = await self._run(lambda stores: stores.notebooks.read(owner))
        return await self._run(lambda stores: stores.notebooks.create(owner, _checked(name), text, {**last.settings, **(settings or {})}))

    async def rename(self, owner: str, notebook_id: str, name: str) -> None:
        """Name it; an empty name is that of its first words.

        Raises:
            InvalidRequest: the name is too long.
        """
        await self._run(lambda stores: stores.notebooks.rename(owner, notebook_id, _checked(name)))

    async def delete(self, owner: str, notebook_id: str) -> None:
        """Put it into the bin, where it stays for 30 days."""
        await self._run(lambda stores: stores.notebooks.delete(owner, notebook_id))

    async def restore(self, owner: str, notebook_id: str) -> None:
        """Take it out of the bin."""
        await self._run(lambda stores: stores.notebooks.restore(owner, notebook_id))

    async def change_settings(self, owner: str, settings: Mapping[str, Any], notebook_id: str = "") -> None:
        """Remember how it is written on."""
        await self._run(lambda stores: stores.notebooks.change_settings(owner, notebook_id, settings))

    async def edit_settings(self, owner: str, settings: Mapping[str, Any], within: Within, at_first: Mapping[str, Any], notebook_id: str = "") -> dict[str, Any]:
        """Replace the named ones, and change single entries of others; all of them then. `at_first` is what they are where none were stored.

        Raises:
            InvalidRequest: a parameter that is put is unknown, outside its limits, or excludes another one.
        """
        return await self._run(lambda stores: stores.notebooks.edit_settings(owner, notebook_id, lambda before: edited_and_checked(before or at_first, settings, within)))

    async def versions(self, owner: str, notebook_id: str = "") -> tuple[NotebookVersion, ...]:
        """All versions, each with the part of its text that is new in it, newest first."""
        return await self._run(lambda stores: stores.notebooks.versions(owner, notebook_id))

    async def version(self, owner: str, number: int, notebook_id: str = "") -> NotebookVersion:
        """One version with its whole text.

        Raises:
            NotFound: there is none with that number.
        """
        return await self._run(lambda stores: stores.notebooks.version(owner, number, notebook_id))


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if len(name) > NAME_LIMIT:
        raise InvalidRequest(f"The name has {len(name)} characters and may have {NAME_LIMIT}; choose a shorter one.", field="name")
    return name
