"""Fixtures for templates: one warm renderer for a module, the prompt templates that ship."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modules.prompts.library import TemplateLibrary
from modules.prompts.renderer import TemplateRenderer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    """A renderer with its child process."""
    with TemplateRenderer() as made:
        yield made


@pytest.fixture(scope="session")
def shipped(root: Path) -> TemplateLibrary:
    """The prompt templates of Paddock."""
    return TemplateLibrary(root / "prompt_templates")
