"""Taking conversations along: our own JSON with everything, Markdown to read, and two forms that programs train and test with.

Only our own form holds all versions; the others hold the path that is shown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from modules.core.errors import InvalidRequest
from modules.services.conversation_files import exported
from modules.services.conversation_settings import stored_settings
from modules.services.storage import Storage, Stores
from modules.store.records import MessageRecord, StoredConversation

NAME_LIMIT = 60
SHAREGPT_SPEAKERS: Mapping[str, str] = MappingProxyType({"system": "system", "user": "human", "assistant": "gpt"})
SPEAKERS: Mapping[str, str] = MappingProxyType({"system": "System", "user": "You", "assistant": "Reply"})


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A conversation as a file."""

    name: str
    kind: str  # media type
    content: bytes


class _Whole(NamedTuple):
    """A conversation with everything that hangs on it."""

    conversation: StoredConversation  # all messages
    path: tuple[MessageRecord, ...]  # those shown
    images: Mapping[str, bytes]
    texts: Mapping[str, str]


class Writer(NamedTuple):
    """A form to write in: the word for it, ending, media type, what makes the text."""

    ending: str
    kind: str
    text: Callable[[_Whole], str]


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
        whole = await self._storage.of(conversation_id).run(lambda stores: _whole(stores, owner, conversation_id))
        return ExportedFile(f"{_file_name(whole.conversation)}{writer.ending}", writer.kind, writer.text(whole).encode("utf-8", "replace"))


def _whole(stores: Stores, owner: str, conversation_id: str) -> _Whole:
    found = stores.messages.read_all(owner, conversation_id)
    path = stores.messages.read(owner, conversation_id).messages
    files = [file for message in found.messages for file in message.files]
    return _Whole(found, path, stores.messages.image_files(owner, conversation_id, found.messages), stores.files.texts(owner, conversation_id, files))


def _file_name(conversation: StoredConversation) -> str:
    plain = unicodedata.normalize("NFKD", conversation.title).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-").lower()[:NAME_LIMIT].strip("-") or f"conversation-{conversation.id[:8]}"


def _own(whole: _Whole) -> str:
    return json.dumps(exported(whole.conversation, whole.images, whole.texts), ensure_ascii=False, indent=1)


# ---- forms of the path that is shown --------------------------------------------------------------------------------


def _markdown(whole: _Whole) -> str:
    parts = [f"# {whole.conversation.title or 'Conversation'}"]
    if system := _system(whole):
        parts.append(f"> {_quoted(system)}")
    for message in whole.path:
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


def _openai(whole: _Whole) -> str:
    messages = [{"role": role, "content": text} for role, text in _turns(whole)]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _sharegpt(whole: _Whole) -> str:
    turns = [{"from": SHAREGPT_SPEAKERS[role], "value": text} for role, text in _turns(whole)]
    return json.dumps([{"id": whole.conversation.id, "conversations": turns}], ensure_ascii=False, indent=1) + "\n"


def _turns(whole: _Whole) -> Sequence[tuple[str, str]]:
    """Role and text of the system prompt and of each message shown; the text of attached files stands before its message."""
    found = [("system", system)] if (system := _system(whole)) else []
    for message in whole.path:
        files = [f"{file.name}:\n\n{whole.texts[file.hash]}" for file in message.files if file.hash in whole.texts]
        found.append((message.role, "\n\n".join((*files, message.content))))
    return found


def _system(whole: _Whole) -> str:
    settings: Any = stored_settings(whole.conversation.settings)
    return str(settings.system_prompt).strip()


WRITERS: Mapping[str, Writer] = MappingProxyType({
    "json": Writer(".json", "application/json", _own),
    "markdown": Writer(".md", "text/markdown; charset=utf-8", _markdown),
    "openai": Writer(".jsonl", "application/jsonl", _openai),
    "sharegpt": Writer(".json", "application/json", _sharegpt),
})  # fmt: skip
