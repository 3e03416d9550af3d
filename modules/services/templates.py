"""Prompt templates as files, for the page and the API: read, save, delete into a bin, move in and out.

An asynchronous door to `prompts.library`; the model's own chat template is read by its loader and never passes here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.files import dump_yaml
from modules.core.model import TemplateSource
from modules.prompts.library import PromptTemplate, TemplateLibrary, TemplateSummary, read_template
from modules.services.template_bin import BinnedTemplate, TemplateBin

__all__ = ["PromptTemplate", "TemplateService"]

DESCRIPTION_LIMIT = 300


class TemplateService:
    """The prompt templates there are, shipped and own."""

    def __init__(self, library: TemplateLibrary, deleted: TemplateBin) -> None:
        self._library = library
        self._bin = deleted
        self._changing = threading.Lock()  # between the look at what is there and the change of it
        self._watchers: list[Callable[[str], Awaitable[None]]] = []

    def watch(self, callback: Callable[[str], Awaitable[None]]) -> Callable[[], None]:
        """Call `callback` with the name of a prompt template whenever that is another one, or gone; returns the function that ends it."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    async def _tell(self, name: str) -> None:
        for callback in tuple(self._watchers):
            await callback(name)

    async def list(self) -> tuple[TemplateSummary, ...]:
        """All prompt templates, by name."""
        return await asyncio.to_thread(self._library.list)

    async def source(self, name: str) -> TemplateSource:
        """One prompt template.

        Raises:
            NotFound: no such template.
        """
        return await asyncio.to_thread(self._library.read, name)

    async def find(self, name: str) -> PromptTemplate:
        """One prompt template with all that its file says; `Raises` as `source`."""
        return await asyncio.to_thread(self._library.find, name)

    async def save(self, name: str, text: str, *, description: str = "", stop: Sequence[str] = (), stamp: str = "") -> PromptTemplate:
        """Write an own prompt template. `stamp` is that of the template as it was read; empty for a new one.

        Raises:
            InvalidRequest: the name, the text, the description or a stop string is not valid.
            Conflict: there is one of that name, or it changed since it was read.
        """
        if len(description) > DESCRIPTION_LIMIT:
            raise InvalidRequest(
                f"The description has {len(description)} characters; the limit is {DESCRIPTION_LIMIT}. Shorten it.", field="description"
            )
        saved = await asyncio.to_thread(self._save, name, text, description, tuple(stop), stamp)
        await self._tell(saved.name)
        return saved

    def _save(self, name: str, text: str, description: str, stop: tuple[str, ...], stamp: str) -> PromptTemplate:
        with self._changing:
            try:
                present = self._library.find(name).stamp
            except NotFound:
                present = ""
            except InvalidRequest:
                if not any(row.name == name.strip() for row in self._library.list()):
                    raise  # the name itself
                present = stamp  # a file that cannot be used may be replaced
            if present and not stamp:
                raise Conflict(f"There is already a prompt template “{name.strip()}”. Choose another name.", field="name")
            if present and present != stamp:
                raise Conflict(
                    f"“{name.strip()}” was changed meanwhile, in another tab or by a program. Save yours under another name, "
                    "or discard your changes to see it.",
                    field="name",
                )
            self._library.save(name, text, description=description, stop=stop)
            return self._library.find(name)

    async def delete(self, name: str) -> BinnedTemplate:
        """Put an own prompt template into the bin; a shipped one of that name counts again.

        Raises:
            NotFound: there is none, or it comes with Paddock.
        """
        entry = await asyncio.to_thread(self._delete, name)
        await self._tell(entry.name)
        return entry

    def _delete(self, name: str) -> BinnedTemplate:
        with self._changing:
            entry = self._bin.keep(name, self._library.own_file(name))
            self._library.delete(name)
            return entry

    async def deleted(self) -> tuple[BinnedTemplate, ...]:
        """What is in the bin, the newest first."""
        return await asyncio.to_thread(self._bin.entries)

    async def restore(self, entry_id: str) -> PromptTemplate:
        """Bring a template back from the bin.

        Raises:
            NotFound: it is no longer there.
            Conflict: there is an own one of its name.
        """
        restored = await asyncio.to_thread(self._restore, entry_id)
        await self._tell(restored.name)
        return restored

    def _restore(self, entry_id: str) -> PromptTemplate:
        with self._changing:
            entry = self._bin.find(entry_id)
            kinds = {row.name: row.kind for row in self._library.list()}
            if kinds.get(entry.name, "shipped") != "shipped":
                raise Conflict(f"There is another prompt template “{entry.name}” now. Save that under another name and delete it first.")
            source, description = read_template(entry.text, f"{entry.name}.yaml")
            self._library.save(entry.name, source.text, description=description, stop=source.stop)
            self._bin.discard(entry_id)
            return self._library.find(entry.name)

    async def discard(self, entry_id: str) -> None:
        """Delete for good what is in the bin.

        Raises:
            NotFound: it is no longer there.
        """
        await asyncio.to_thread(self._bin.discard, entry_id)

    def exported(self, template: PromptTemplate) -> str:
        """A prompt template as a file, in the form that is read back."""
        values = {"description": template.description, "template": template.source.text, "stop": [*template.source.stop]}
        return dump_yaml({key: value for key, value in values.items() if value})

    def read_file(self, file_name: str, text: str) -> tuple[TemplateSource, str]:
        """Template and description of a file that a person hands in; nothing is saved.

        Raises:
            InvalidRequest: it is no prompt template.
        """
        if not file_name.lower().endswith((".yaml", ".yml", ".jinja", ".jinja2", ".txt")):
            raise InvalidRequest(f"“{file_name[-60:]}” is no prompt template: choose a file that ends in .yaml or .jinja.", field="file")
        return read_template(text, file_name)
