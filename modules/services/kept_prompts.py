"""The prompt of a reply as it was when the reply was written, so that it can be shown and used again whatever was changed since.

Kept are the messages that the model saw, with the template and its options; texts that several prompts share are stored once.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from modules.core.generation import ChatPrompt
from modules.services.storage import Storage
from modules.store.prompts import StoredPrompt

START_CHARACTERS = 80  # of a message, to know it by
LEFT_OUT_LIMIT = 100  # messages that are named
CHARACTERS_LIMIT = 8_000_000  # of a prompt that is kept


@dataclass(frozen=True, slots=True)
class KeptPrompt:
    """What a model was asked, without the messages that were left out; those are named, the oldest first."""

    prompt: ChatPrompt
    left_out: tuple[dict[str, str], ...] = ()
    left_out_count: int = 0


class KeptPrompts:
    """Keeps prompts with the messages that were written from them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def keep(self, owner: str, message_id: str, prompt: ChatPrompt, left_out: Sequence[int]) -> None:
        """Keep the prompt of a reply, of which messages were left out; one that is kept already stays, and one that is very long is not kept."""
        if sum(len(message.content) for message in prompt.messages) > CHARACTERS_LIMIT:
            return
        await self._storage.of(message_id).run(lambda stores: stores.prompts.put(owner, message_id, *packed(prompt, left_out)))

    async def of(self, owner: str, message_id: str) -> KeptPrompt | None:
        """The prompt of a reply; None where none was kept, or an image of it is gone.

        Raises:
            NotFound: there is no such message, or it is another owner's.
        """
        found = await self._storage.of(message_id).run(lambda stores: stores.prompts.get(owner, message_id))
        return None if found is None else unpacked(found)


def packed(prompt: ChatPrompt, left_out: Sequence[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """A prompt as a form, and the texts that it names by their hashes."""
    texts: dict[str, str] = {}

    def named(text: str) -> str:
        key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        texts[key] = text
        return key

    gone = set(left_out)
    images: dict[str, None] = {}
    messages = []
    for place, message in enumerate(prompt.messages):
        if place in gone:
            continue
        row = message.model_dump(mode="json", exclude={"content", "images"}, exclude_defaults=True) | {"role": message.role, "text": named(message.content)}
        for image in message.images:
            key = hashlib.sha256(base64.b64decode(image.data)).hexdigest()
            images[key] = None
            row.setdefault("images", []).append({"kind": image.kind, "hash": key, "at": image.at})
        messages.append(row)
    names = [{"role": prompt.messages[place].role, "start": prompt.messages[place].content[:START_CHARACTERS]} for place in sorted(gone)[:LEFT_OUT_LIMIT]]
    rest = named(prompt.model_copy(update={"messages": ()}).model_dump_json())
    return {"rest": rest, "messages": messages, "images": list(images), "left_out": names, "left_out_count": len(gone)}, texts


def unpacked(stored: StoredPrompt) -> KeptPrompt | None:
    """The prompt that was packed; None where something of it is gone, or was written by another version of Paddock."""
    try:
        messages = [_message(row, stored) for row in stored.form["messages"]]
        prompt = ChatPrompt.model_validate({**json.loads(stored.texts[stored.form["rest"]]), "messages": messages})
        return KeptPrompt(prompt, tuple(stored.form["left_out"]), stored.form["left_out_count"])
    except (KeyError, ValidationError):
        return None


def _message(row: Mapping[str, Any], stored: StoredPrompt) -> dict[str, Any]:
    images = [{"kind": image["kind"], "at": image["at"], "data": base64.b64encode(stored.images[image["hash"]]).decode()} for image in row.get("images", ())]
    return {**{key: value for key, value in row.items() if key != "text"}, "content": stored.texts[row["text"]], "images": images}
