"""Prompt templates as files, for the page and the API.

A thin asynchronous door to `prompts.library`; the model's own chat template is read by its loader and never passes here.
"""

from __future__ import annotations

import asyncio

from modules.core.model import TemplateSource
from modules.prompts.library import TemplateLibrary, TemplateSummary


class TemplateService:
    """Lists and reads prompt templates."""

    def __init__(self, library: TemplateLibrary) -> None:
        self._library = library

    async def list(self) -> tuple[TemplateSummary, ...]:
        """All prompt templates, by name."""
        return await asyncio.to_thread(self._library.list)

    async def source(self, name: str) -> TemplateSource:
        """One prompt template.

        Raises:
            NotFound: no such template.
        """
        return await asyncio.to_thread(self._library.read, name)
