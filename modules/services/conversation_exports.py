"""Taking conversations along: our own JSON with everything, Markdown to read, and two forms that programs train and test with.

Only our own form holds all versions; the others hold the path that is shown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from modules.core.errors import InvalidRequest, NotFound
from modules.services.conversation_files import exported_head, exported_message
from modules.services.conversation_settings import stored_settings
from modules.services.prompt_files import PromptTexts
from modules.services.storage import Storage, Stores
from modules.store.records import MessageRecord, StoredConversation

NAME_LIMIT = 60
NEW_LINE, END = "\n ", "\n}"  # between the members of an object as it is written, and behind the last
SHAREGPT_SPEAKERS: Mapping[str, str] = MappingProxyType({"system": "system", "user": "human", "assistant": "gpt"})
SPEAKERS: Mapping[str, str] = MappingProxyType({"system": "System", "user": "You", "assistant": "Reply"})


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A conversation as a file, written as it is taken."""

    name: str
    kind: str  # media type
    pieces: AsyncIterator[bytes]


class _Shown(NamedTuple):
    """A conversation with the path that is shown, and what was read from the files of its messages."""

    conversation: StoredConversation
    path: tuple[MessageRecord, ...]
    texts: Mapping[str, str]


class Writer(NamedTuple):
    """A form to write in: ending, media type, what makes the text; None for our own, which is written message by message."""

    ending: str
    kind: str
    text: Callable[[_Shown], str] | None


class ConversationExports:
    """Writes conversations of an owner as files."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def write(self, owner: str, conversation_id: str, form: str) -> ExportedFile:
        """A conversation as a file.

        Raises:
            InvalidRequest: no such form.
            NotFound: no such conversation.
        """
        writer = WRITERS.get(form)
        if writer is None:
            raise InvalidRequest(f"“{form[:40]}” is no form of a file; use {', '.join(WRITERS)}.", field="form")
        storage = self._storage.of(conversation_id)
        if writer.text is None:
            found = await storage.run(lambda stores: stores.messages.read_all(owner, conversation_id))
            pieces = _own(storage, owner, found)
        else:
            shown = await storage.run(lambda stores: _shown(stores, owner, conversation_id))
            found, pieces = shown.conversation, _in_one_piece(writer.text(shown))
        return ExportedFile(f"{_file_name(found)}{writer.ending}", writer.kind, pieces)


def _shown(stores: Stores, owner: str, conversation_id: str) -> _Shown:
    found = stores.messages.read(owner, conversation_id)
    files = [file for message in found.messages for file in message.files]
    return _Shown(found, found.messages, stores.files.texts(owner, conversation_id, files))


async def _in_one_piece(text: str) -> AsyncIterator[bytes]:
    yield text.encode("utf-8", "replace")


def _file_name(conversation: StoredConversation) -> str:
    plain = unicodedata.normalize("NFKD", conversation.title).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-").lower()[:NAME_LIMIT].strip("-") or f"conversation-{conversation.id[:8]}"


async def _own(storage: Storage, owner: str, found: StoredConversation) -> AsyncIterator[bytes]:
    """Our own form; of images and texts of files those of one message are in memory at a time."""
    yield f"{_json(exported_head(found)).removesuffix(END)},{NEW_LINE}\"messages\": [".encode("utf-8", "replace")
    prompts = PromptTexts()
    for place, message in enumerate(found.messages):
        text = _json(await storage.run(partial(_attached, owner=owner, message=message, prompts=prompts)))
        yield f"{',' if place else ''}\n{text}".encode("utf-8", "replace")
    yield b"\n ]\n}"


def _attached(stores: Stores, owner: str, message: MessageRecord, prompts: PromptTexts) -> dict[str, Any]:
    try:
        images = stores.messages.image_files(owner, message.conversation_id, (message,)) if message.images else {}
        texts = stores.files.texts(owner, message.conversation_id, message.files) if message.files else {}
        kept = stores.prompts.get(owner, message.id) if message.role == "assistant" else None
    except NotFound:  # deleted since the file was begun: what it said then is in it
        return exported_message(message, {}, {})
    return exported_message(message, images, texts) | ({"prompt": prompts.written(kept)} if kept is not None else {})


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1)


# ---- forms of the path that is shown --------------------------------------------------------------------------------


def _markdown(shown: _Shown) -> str:
    parts = [f"# {shown.conversation.title or 'Conversation'}"]
    if system := _system(shown):
        parts.append(f"> {_quoted(system)}")
    for message in shown.path:
        name = message.speaker or SPEAKERS.get(message.role, message.role)
        when = datetime.fromtimestamp(message.created_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        parts.append(f"## {name} · {when}" + (f" · {message.model}" if message.model else ""))
        parts.extend(f"*Attached file {file.name}*" for file in message.files)
        parts.extend(f"*Attached image {place}*" for place in range(1, len(message.images) + 1))
        parts.append(_thinking_quoted(message.content))
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _thinking_quoted(content: str) -> str:
    found = re.match(r"\s*<think>(.*?)</think>", content, re.DOTALL)
    if not found:
        return content
    thinking = found[1].strip()
    return (f"> *Thinking:* {_quoted(thinking)}\n\n" if thinking else "") + content[found.end() :].lstrip()


def _quoted(text: str) -> str:
    return text.strip().replace("\n", "\n> ")


def _openai(shown: _Shown) -> str:
    messages = [{"role": role, "content": text} for role, text in _turns(shown)]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _sharegpt(shown: _Shown) -> str:
    turns = [{"from": SHAREGPT_SPEAKERS[role], "value": text} for role, text in _turns(shown)]
    return json.dumps([{"id": shown.conversation.id, "conversations": turns}], ensure_ascii=False, indent=1) + "\n"


def _turns(shown: _Shown) -> Sequence[tuple[str, str]]:
    """Role and text of the system prompt and of each message shown; the text of attached files stands before its message."""
    found = [("system", system)] if (system := _system(shown)) else []
    for message in shown.path:
        files = [f"{file.name}:\n\n{shown.texts[file.hash]}" for file in message.files if file.hash in shown.texts]
        found.append((message.role, "\n\n".join((*files, message.content))))
    return found


def _system(shown: _Shown) -> str:
    settings: Any = stored_settings(shown.conversation.settings)
    return str(settings.system_prompt).strip()


WRITERS: Mapping[str, Writer] = MappingProxyType({
    "json": Writer(".json", "application/json", None),
    "markdown": Writer(".md", "text/markdown; charset=utf-8", _markdown),
    "openai": Writer(".jsonl", "application/jsonl", _openai),
    "sharegpt": Writer(".json", "application/json", _sharegpt),
})  # fmt: skip
