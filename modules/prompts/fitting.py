"""Makes a conversation fit into the room there is, and says what was left out. Never cuts a message.

Knows neither templates nor tokenizers: who searches counts the tokens of what is proposed.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from modules.core.generation import OverflowPolicy
    from modules.core.messages import Message

SYSTEM_ROLES = ("system", "developer")
LARGEST_RESERVE_TOKENS = 512  # kept free for a reply of unknown length
CHARACTERS_PER_TOKEN = 16  # no tokenizer makes fewer tokens of a text that is worth tokenizing
LEAST_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Fitted:
    """Token ids of the conversation without the `dropped` messages that were left out."""

    token_ids: list[int]
    dropped: int = 0


def room_tokens(context_length: int, max_tokens: int | None, policy: OverflowPolicy = "drop_oldest") -> int:
    """Tokens a prompt may have: what the reply will need is kept free, as far as that is sensible.

    Where nothing may be left out, nothing is refused that would fit.
    """
    if policy == "refuse":
        return context_length - 1
    reserve = min(LARGEST_RESERVE_TOKENS, context_length // 4)
    return context_length - max(1, min(max_tokens or reserve, reserve))


def character_limit(context_length: int) -> int:
    """Characters of the longest text that is tokenized for a context of so many tokens."""
    return max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * context_length)


def fit_chat(
    messages: Sequence[Message],
    *,
    count: Callable[[tuple[Message, ...]], list[int]],
    limit_tokens: int,
    limit_characters: int | None = None,
    policy: OverflowPolicy = "drop_oldest",
) -> Fitted:
    """Token ids of at most `limit_tokens`, leaving out the oldest turns if the policy allows it: see `search_fit`.

    `count` renders and tokenizes; it may raise `ContextOverflow` for a text too long to be tokenized.

    Raises:
        ContextOverflow: too long, and nothing more may be left out.
    """
    counted: dict[int, list[int]] = {}  # by the number of messages: of as many there is one choice
    search = search_fit(messages, limit_tokens=limit_tokens, limit_characters=limit_characters, policy=policy)
    proposed = next(search)
    while True:
        try:
            ids = counted[len(proposed)] = count(proposed)
            size: int | None = len(ids)
        except ContextOverflow:
            size = None
        try:
            proposed = search.send(size)
        except StopIteration as end:
            kept: tuple[Message, ...] = end.value
            return Fitted(counted[len(kept)], len(messages) - len(kept))


def search_fit(
    messages: Sequence[Message], *, limit_tokens: int, limit_characters: int | None = None, policy: OverflowPolicy = "drop_oldest"
) -> Generator[tuple[Message, ...], int | None, tuple[Message, ...]]:
    """Proposes shorter and shorter conversations, is sent the tokens of each (None: too many to be counted), and returns the longest that fits.

    System messages and everything from the last user message on stay. A user message and the replies to it go together, so that a
    user message comes first; where one of them is pinned, they stay. The number of proposals grows with the logarithm of the number of
    turns. What may be shortened is not proposed while its contents alone have more than `limit_characters`.

    Raises:
        ContextOverflow: too long, and nothing more may be left out.
    """
    whole = tuple(messages)
    if policy == "refuse":
        limit_characters = None  # it is to be told how long it is
    size = yield from _size(whole, limit_characters)
    if size is not None and size <= limit_tokens:
        return whole
    if policy == "refuse":
        cure = "Start a new chat, allow the oldest messages to be left out, or load the model with a longer context."
        raise _overflow("The conversation", cure, limit_tokens, size)
    starts = _starts(whole)
    best: tuple[Message, ...] | None = None
    low, high = 0, len(starts) - 1
    probe = high  # the shortest first: if that does not fit, nothing will
    while low <= high:
        kept = _since(whole, starts[probe])
        size = yield from _size(kept, limit_characters)
        if size is not None and size <= limit_tokens:
            best = kept
            high = probe - 1
        elif best is None:
            break
        else:
            low = probe + 1
        probe = (low + high) // 2
    if best is not None:
        return best
    if any(message.pinned for message in whole):
        cure = "Unpin some, shorten it, ask for a shorter reply, or load the model with a longer context."
        raise _overflow("The last message, with the system text and the pinned messages before it,", cure, limit_tokens, size)
    cure = "Shorten it, ask for a shorter reply, or load the model with a longer context."
    raise _overflow("The last message, with the system text before it,", cure, limit_tokens, size)


def without_hopeless(messages: Sequence[Message], limit_characters: int) -> tuple[Message, ...]:
    """The longest of what `search_fit` would propose with this limit: what it would leave out in any case is gone."""
    whole = tuple(messages)
    if _has_room(whole, limit_characters):
        return whole
    starts = _starts(whole)
    place = bisect_left(starts, True, key=lambda start: _has_room(_since(whole, start), limit_characters))
    return _since(whole, starts[min(place, len(starts) - 1)]) if starts else whole


def _size(messages: tuple[Message, ...], limit_characters: int | None) -> Generator[tuple[Message, ...], int | None, int | None]:
    """The tokens of a proposal; None, without a question, where its contents alone are too long."""
    if limit_characters is not None and not _has_room(messages, limit_characters):
        return None
    return (yield messages)


def _has_room(messages: Sequence[Message], limit_characters: int) -> bool:
    return sum(len(message.content.strip()) for message in messages) <= limit_characters  # templates may cut the spaces around a content


def _starts(messages: tuple[Message, ...]) -> list[int]:
    """Where a shortened conversation may begin: user messages that have something before them to leave out."""
    first = next((i for i, message in enumerate(messages) if message.role not in SYSTEM_ROLES), len(messages))
    return [i for i, message in enumerate(messages) if message.role == "user" and i > first]


def _since(messages: tuple[Message, ...], start: int) -> tuple[Message, ...]:
    """The conversation from `start` on, with the system messages and the turns with a pinned message from before it."""
    kept: list[Message] = []
    turn: list[Message] = []
    for message in messages[:start]:
        if message.role == "user":
            kept += _kept_of(turn)
            turn = []
        turn.append(message)
    return (*kept, *_kept_of(turn), *messages[start:])


def _kept_of(turn: list[Message]) -> list[Message]:
    if any(message.pinned and message.role not in SYSTEM_ROLES for message in turn):
        return turn
    return [message for message in turn if message.role in SYSTEM_ROLES]


def _overflow(what: str, cure: str, limit_tokens: int, got_tokens: int | None) -> ContextOverflow:
    got = got_tokens or 0
    needs = f"needs {got:,} tokens" if got else "has more text than can be rendered"
    return ContextOverflow(f"{what} {needs}, and there is room for {limit_tokens:,}. {cure}", limit=limit_tokens, got=got, field="messages")
