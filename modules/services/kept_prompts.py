"""The prompt of a reply as it was when the reply was written, so that it can be shown and used again whatever was changed since.

Kept are the messages that the model saw, with the template and its options; texts that several prompts share are stored once.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.core.generation import ChatPrompt
from modules.core.messages import Message
from modules.services.storage import Storage, Stores
from modules.store.records import StoredPrompt

START_CHARACTERS = 80  # of a message, to know it by
LEFT_OUT_LIMIT = 100  # messages that are named
LONG_CHARACTERS = 2000  # a message that ends a run
RUN_END = "0"  # and so does every sixteenth other one, by its hash
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

    async def keep(self, owner: str, message_id: str, kept: KeptPrompt, dropped: Sequence[int]) -> None:
        """Keep the prompt of a reply, of which these messages had no room; one that is kept already stays, and one that is very long is not kept."""
        if sum(len(message.content) for message in kept.prompt.messages) > CHARACTERS_LIMIT:
            return
        await self._storage.of(message_id).run(lambda stores: stores.prompts.put(owner, message_id, *packed(kept, dropped)))

    async def of(self, owner: str, message_id: str) -> KeptPrompt | None:
        """The prompt of a reply; None where none was kept, or an image of it is gone.

        Raises:
            NotFound: there is no such message, or it is another owner's.
        """

        def read(stores: Stores) -> KeptPrompt | None:
            found = stores.prompts.get(owner, message_id)
            return None if found is None else unpacked(found)

        return await self._storage.of(message_id).run(read)


def named(role: str, text: str) -> dict[str, str]:
    """A message that was left out, as it is told."""
    return {"role": role, "start": text[:START_CHARACTERS]}


def packed(kept: KeptPrompt, dropped: Sequence[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """A prompt without these messages as a form, and the texts that it names by their hashes: its options, and its messages in runs."""
    prompt, gone = kept.prompt, set(dropped)
    rows = [_row(message) for place, message in enumerate(prompt.messages) if place not in gone]
    rest = json.dumps(prompt.model_copy(update={"messages": ()}).model_dump(mode="json"))  # pydantic's own JSON knows no half pairs
    texts = {_hash(text): text for text in (rest, *_runs(rows))}
    later = [named(prompt.messages[place].role, prompt.messages[place].content) for place in sorted(gone)[:LEFT_OUT_LIMIT]]
    names = [*kept.left_out, *later][:LEFT_OUT_LIMIT] if kept.left_out_count == len(kept.left_out) else list(kept.left_out)
    images = dict.fromkeys(image["hash"] for row in rows for image in row.get("images", ()))
    count = kept.left_out_count + len(gone)
    form = {"rest": _hash(rest), "runs": [_hash(run) for run in _runs(rows)], "images": list(images), "left_out": names, "left_out_count": count}
    return form, texts


def unpacked(stored: StoredPrompt) -> KeptPrompt | None:
    """The prompt that was packed; None where something of it is gone, or was written by another version of Paddock."""
    try:
        messages = [_message(row, stored.images) for key in stored.form["runs"] for row in json.loads(stored.texts[key])]
        prompt = ChatPrompt.model_validate({**json.loads(stored.texts[stored.form["rest"]]), "messages": messages})
        return KeptPrompt(prompt, tuple(stored.form["left_out"]), stored.form["left_out_count"])
    except (KeyError, TypeError, ValueError):
        return None


def _runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Messages behind each other, as one text. Where a run ends depends on its last message alone, so the prompts of a conversation share theirs."""
    run: list[Mapping[str, Any]] = []
    for row in rows:
        run.append(row)
        if len(row["content"]) > LONG_CHARACTERS or _hash(json.dumps(row)).endswith(RUN_END):
            yield json.dumps(run)
            run = []
    if run:
        yield json.dumps(run)


def _row(message: Message) -> dict[str, Any]:
    images = [{"kind": image.kind, "at": image.at, "hash": hashlib.sha256(base64.b64decode(image.data)).hexdigest()} for image in message.images]
    row = message.model_dump(mode="json", exclude={"images"}, exclude_defaults=True) | {"content": message.content}
    return {**row, "images": images} if images else row


def _message(row: Mapping[str, Any], images: Mapping[str, bytes]) -> dict[str, Any]:
    files = [{"kind": image["kind"], "at": image["at"], "data": base64.b64encode(images[image["hash"]]).decode()} for image in row.get("images", ())]
    return {**row, "images": files}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
