"""From the path of a conversation to the messages that a chat template receives. Pure; knows no template."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from modules.core.messages import Image, Message, Role, without_thinking
from modules.store.records import MessageRecord

SEPARATOR = "\n\n"


def prompt_messages(path: Sequence[MessageRecord], system_prompt: str, files: Mapping[str, bytes]) -> tuple[Message, ...]:
    """The messages of a path, as the model should see them; `files` are those of their images, by hash.

    The system prompt comes first, joined with a system message that the conversation itself begins with. Earlier replies go without
    their thinking; those without an answer (failed, or stopped too early) are left out, and the user messages that then follow each
    other are joined, since the templates of many models refuse two in a row. The last message stays as it is: it may be a reply to
    be continued.
    """
    messages: list[Message] = []
    if system_prompt.strip():
        messages.append(Message(role="system", content=system_prompt))
    for record in path[:-1]:
        content = without_thinking(record.content) if record.role == "assistant" else record.content
        if content.strip() or record.images:
            _add(messages, _message(record, content, files))
    if path:
        _add(messages, _message(path[-1], path[-1].content, files))
    return tuple(messages)


def _message(record: MessageRecord, content: str, files: Mapping[str, bytes]) -> Message:
    """A message with its images before the text."""
    images = tuple(Image(kind=image.kind, data=base64.b64encode(files[image.hash]).decode()) for image in record.images)
    return Message(role=_role(record.role), content=content, images=images)


def _add(messages: list[Message], new: Message) -> None:
    before = messages[-1] if messages else None
    if before is None or before.role != new.role or not (new.role == "user" or (new.role == "system" and len(messages) == 1)):
        messages.append(new)
        return
    start = len(before.content) + len(SEPARATOR)
    moved = tuple(image.model_copy(update={"at": image.at + start}) for image in new.images)
    messages[-1] = Message(role=new.role, content=before.content + SEPARATOR + new.content, images=(*before.images, *moved))


def _role(name: str) -> Role:
    return "system" if name == "system" else "assistant" if name == "assistant" else "user"
