"""Between chat and notebook: a conversation as one text to be written on."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.messages import THINKING_TAGS
from modules.store.records import MessageRecord

NAMES = (("system", "System"), ("user", "User"), ("assistant", "Assistant"))


def as_text(messages: Sequence[MessageRecord], last_id: str = "") -> str:
    """The messages shown, each with who speaks, up to one of them (without an id: to the last)."""
    ids = [message.id for message in messages]
    chosen = messages[: ids.index(last_id) + 1] if last_id in ids else messages
    names = dict(NAMES)
    return "\n\n".join(f"{message.speaker or names.get(message.role, message.role)}: {message.content}" for message in chosen)


def gone_on(prompt: str, reply: str) -> str:
    """A prompt and the reply to it; a thinking block that the prompt has opened is not opened twice."""
    opened = next((tag for tag, _ in THINKING_TAGS if prompt.rstrip().endswith(tag) and reply.startswith(tag)), "")
    return prompt + reply.removeprefix(opened)
