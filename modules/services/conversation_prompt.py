"""From the path of a conversation to the messages that a chat template receives. Pure; knows no template."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.core.messages import Image, Message, Role, without_thinking
from modules.services.character_prompt import spoken
from modules.store.records import MessageRecord

SEPARATOR = "\n\n"
FENCE = re.compile(r"`{3,}")


@dataclass(frozen=True, slots=True)
class PromptPart:
    """One message of a prompt, and the ids of the stored ones that it was made of: none for the system prompt."""

    message: Message
    origins: tuple[str, ...] = ()


def prompt_messages(
    path: Sequence[MessageRecord], system_prompt: str, images: Mapping[str, bytes], texts: Mapping[str, str] | None = None
) -> tuple[Message, ...]:
    """The messages of a path, as the model should see them: see `prompt_parts`."""
    return tuple(part.message for part in prompt_parts(path, system_prompt, images, texts or {}))


def prompt_parts(
    path: Sequence[MessageRecord], system_prompt: str, images: Mapping[str, bytes], texts: Mapping[str, str]
) -> tuple[PromptPart, ...]:
    """The messages of a path, as the model should see them; `images` are files and `texts` what was read from documents, by hash.

    The system prompt comes first, joined with a system message that the conversation itself begins with. Earlier replies go without
    their thinking; those without an answer (failed, or stopped too early) are left out, and the user messages that then follow each
    other are joined, since the templates of many models refuse two in a row. The last message stays as it is: it may be a reply to
    be continued.
    """
    parts: list[PromptPart] = []
    if system_prompt.strip():
        parts.append(PromptPart(Message(role="system", content=system_prompt)))
    for record in path[:-1]:
        content = without_thinking(record.content) if record.role == "assistant" else record.content
        if content.strip() or record.images or record.files:
            _add(parts, _part(record, content, images, texts))
    if path:
        _add(parts, _part(path[-1], path[-1].content, images, texts))
    return tuple(parts)


def summarised_path(path: Sequence[MessageRecord], until: str) -> tuple[MessageRecord, ...] | None:
    """What is left of a path when a summary stands for all up to the message `until`: turns with a pinned message stay. None: it is not on the path."""
    place = next((place for place, record in enumerate(path[:-1]) if record.id == until), None)
    if place is None:
        return None
    kept: list[MessageRecord] = []
    turn: list[MessageRecord] = []
    for record in path[: place + 1]:
        if record.role == "user":
            kept += _kept_of(turn)
            turn = []
        turn.append(record)
    return (*kept, *_kept_of(turn), *path[place + 1 :])


def _kept_of(turn: list[MessageRecord]) -> list[MessageRecord]:
    return turn if any(record.pinned for record in turn) else [record for record in turn if record.role == "system"]


def with_summary(parts: Sequence[PromptPart], summary: str) -> tuple[PromptPart, ...]:
    """The messages with a summary of earlier ones before the first that a person wrote: any template takes it there."""
    place = next((place for place, part in enumerate(parts) if part.message.role == "user"), None)
    if place is None or not summary.strip():
        return tuple(parts)
    message = parts[place].message
    before = f"[Summary of the conversation so far: {summary.strip()}]{SEPARATOR}"
    images = tuple(image.model_copy(update={"at": image.at + len(before)}) for image in message.images)
    told = message.model_copy(update={"content": before + message.content, "images": images})
    return (*parts[:place], PromptPart(told, parts[place].origins), *parts[place + 1 :])


def document_block(name: str, text: str) -> str:
    """A document as it stands in a prompt: its name, and its text between fences that are not in it."""
    fence = "`" * max(3, max((len(run) + 1 for run in FENCE.findall(text)), default=0))
    return f"Attached file “{name}”:\n{fence}\n{text.strip()}\n{fence}"


def _part(record: MessageRecord, content: str, files: Mapping[str, bytes], texts: Mapping[str, str]) -> PromptPart:
    """A message with its documents, then its text; its images stand before both."""
    images = tuple(Image(kind=image.kind, data=base64.b64encode(files[image.hash]).decode()) for image in record.images)
    blocks = [document_block(file.name, texts[file.hash]) for file in record.files if file.hash in texts]
    whole = SEPARATOR.join([*blocks, *([spoken(record.speaker, content)] if content.strip() or not blocks else [])])
    return PromptPart(Message(role=_role(record.role), content=whole, images=images, pinned=record.pinned), (record.id,))


def _add(parts: list[PromptPart], new: PromptPart) -> None:
    before = parts[-1].message if parts else None
    role = new.message.role
    if before is None or before.role != role or not (role == "user" or (role == "system" and len(parts) == 1)):
        parts.append(new)
        return
    start = len(before.content) + len(SEPARATOR)
    moved = tuple(image.model_copy(update={"at": image.at + start}) for image in new.message.images)
    joined = Message(
        role=role,
        content=before.content + SEPARATOR + new.message.content,
        images=(*before.images, *moved),
        pinned=before.pinned or new.message.pinned,
    )
    parts[-1] = PromptPart(joined, (*parts[-1].origins, *new.origins))


def _role(name: str) -> Role:
    return "system" if name == "system" else "assistant" if name == "assistant" else "user"
