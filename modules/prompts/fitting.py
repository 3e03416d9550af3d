"""Makes a conversation fit into the room there is, and says what was left out. Never cuts a message.

Knows neither templates nor tokenizers: a callable turns messages into token ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modules.core.generation import OverflowPolicy
    from modules.core.messages import Message

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Token ids of the conversation without its `dropped` oldest messages."""

    token_ids: list[int]
    dropped: int = 0


def fit_chat(
    messages: Sequence[Message],
    *,
    count: Callable[[tuple[Message, ...]], list[int]],
    limit_tokens: int,
    policy: OverflowPolicy = "drop_oldest",
) -> Fitted:
    """Token ids of at most `limit_tokens`, leaving out the oldest turns if the policy allows it.

    System messages and everything from the last user message on stay. A user message and the replies to it go together, so that a
    user message comes first. The number of renderings grows with the logarithm of the number of turns.

    `count` renders and tokenizes; it may raise `ContextOverflow` for a text too long to be tokenized.

    Raises:
        ContextOverflow: too long, and nothing more may be left out.
    """
    whole = tuple(messages)
    result = _measured(whole, count, limit_tokens)
    if isinstance(result, list):
        return Fitted(result)
    if policy == "refuse":
        cure = "Start a new chat, allow the oldest messages to be left out, or load the model with a longer context."
        raise _overflow("The conversation", cure, limit_tokens, result)
    starts = _starts(whole)
    best: Fitted | None = None
    low, high = 0, len(starts) - 1
    probe = high  # the shortest first: if that does not fit, nothing will
    while low <= high:
        kept = _since(whole, starts[probe])
        result = _measured(kept, count, limit_tokens)
        if isinstance(result, list):
            best = Fitted(result, len(whole) - len(kept))
            high = probe - 1
        elif best is None:
            break
        else:
            low = probe + 1
        probe = (low + high) // 2
    if best is None:
        cure = "Shorten it, ask for a shorter reply, or load the model with a longer context."
        raise _overflow("The last message, with the system text before it,", cure, limit_tokens, result)
    return best


def _measured(messages: tuple[Message, ...], count: Callable[[tuple[Message, ...]], list[int]], limit_tokens: int) -> list[int] | int:
    """Token ids if they fit; otherwise how many there are, 0 when the text is too long to be counted."""
    try:
        ids = count(messages)
    except ContextOverflow:
        return 0
    return ids if len(ids) <= limit_tokens else len(ids)


def _starts(messages: tuple[Message, ...]) -> list[int]:
    """Where a shortened conversation may begin: user messages that have something before them to leave out."""
    first = next((i for i, message in enumerate(messages) if message.role not in SYSTEM_ROLES), len(messages))
    return [i for i, message in enumerate(messages) if message.role == "user" and i > first]


def _since(messages: tuple[Message, ...], start: int) -> tuple[Message, ...]:
    """The conversation from `start` on, with the system messages from before it."""
    return (*(message for message in messages[:start] if message.role in SYSTEM_ROLES), *messages[start:])


def _overflow(what: str, cure: str, limit_tokens: int, got_tokens: list[int] | int) -> ContextOverflow:
    got = len(got_tokens) if isinstance(got_tokens, list) else got_tokens
    needs = f"needs {got:,} tokens" if got else "has more text than can be rendered"
    return ContextOverflow(f"{what} {needs}, and there is room for {limit_tokens:,}. {cure}", limit=limit_tokens, got=got, field="messages")
