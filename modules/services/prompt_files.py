"""Prompts of replies in a conversation's file: each text is in it once, with the first reply whose prompt has it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, Field

from modules.store.records import NewPrompt, StoredPrompt

HASH_LENGTH = 64
PROMPT_LIMIT_CHARS = 128 << 20  # of all texts of a prompt together, each as often as it is in it
Hash = Annotated[str, Field(min_length=HASH_LENGTH, max_length=HASH_LENGTH)]


class _Start(BaseModel, frozen=True, extra="ignore"):
    role: str = Field(max_length=20)
    start: str = Field(max_length=200)


class PromptForm(BaseModel, frozen=True, extra="ignore"):
    """How texts make a prompt: see kept_prompts.py."""

    rest: Hash
    runs: tuple[Hash, ...] = Field(max_length=100_000)
    images: tuple[Hash, ...] = Field((), max_length=1000)
    left_out: tuple[_Start, ...] = Field((), max_length=1000)
    left_out_count: int = Field(0, ge=0)


class FilePrompt(BaseModel, frozen=True, extra="ignore"):
    """The prompt of a reply as a file tells it."""

    form: PromptForm
    texts: dict[Hash, str] = Field(default_factory=dict)


class PromptTexts:
    """The texts of prompts that a file has told so far."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}  # characters of each

    def written(self, prompt: StoredPrompt) -> dict[str, Any]:
        """A prompt for the file, with those of its texts that are not in it yet."""
        new = {key: text for key, text in prompt.texts.items() if key not in self._told}
        self._told.update({key: len(text) for key, text in new.items()})
        return {"form": prompt.form, "texts": new}

    def read(self, prompt: FilePrompt) -> NewPrompt | None:
        """A prompt of the file; None where it names a text that the file does not have, or not as its hash says, or is far longer than one that is kept."""
        uses = dict.fromkeys((prompt.form.rest, *prompt.form.runs))
        texts = {key: text for key, text in prompt.texts.items() if key in uses and _is(key, text)}
        sizes = {key: len(texts[key]) if key in texts else self._told.get(key) for key in uses}
        known = [sizes[key] for key in (prompt.form.rest, *prompt.form.runs)]
        if None in known or sum(filter(None, known)) > PROMPT_LIMIT_CHARS:
            return None
        self._told.update({key: len(text) for key, text in texts.items()})
        return NewPrompt(prompt.form.model_dump(mode="json"), texts, tuple(uses))


def _is(key: str, text: str) -> bool:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() == key
