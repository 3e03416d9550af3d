"""From the path of a conversation to the messages that a chat template receives. Pure; knows no template."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.messages import Message, Role, without_thinking
from modules.store.records import MessageRecord

SEPARATOR = "\n\n"


def prompt_messages(path: Sequence[MessageRecord], system_prompt: str) -> tuple[Message, ...]:
    """The messages of a path, as the model should see them.

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
        if content.strip():
            _add(messages, record.role, content)
    if path:
        _add(messages, path[-1].role, path[-1].content)
    return tuple(messages)


def _add(messages: list[Message], name: str, content: str) -> None:
    role = _role(name)
    joins = messages and messages[-1].role == role and (role == "user" or (role == "system" and len(messages) == 1))
    if joins:
        messages[-1] = Message(role=role, content=messages[-1].content + SEPARATOR + content)
    else:
        messages.append(Message(role=role, content=content))


def _role(name: str) -> Role:
    return "system" if name == "system" else "assistant" if name == "assistant" else "user"
