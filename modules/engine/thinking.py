"""A shape of the answer where the prompt has already opened a thinking block: what is thought is free, the shape begins behind the closing tag.

Knows tags and a constraint; knows no logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modules.core.messages import THINKING_TAGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modules.engine.constraints import Constraint, Vocabulary

MOST_NEWLINES = 2  # tokens of newlines between the closing tag and the answer


def closing_tag(prompt_end: bytes) -> bytes:
    """The tag that ends the thinking which a prompt has opened with its last words; nothing where it has not."""
    end = prompt_end.rstrip()
    return next((closing.encode() for opening, closing in THINKING_TAGS if end.endswith(opening.encode())), b"")


class AfterThinking:
    """A constraint that waits for a closing tag; until then everything but an end is allowed."""

    def __init__(self, inner: Constraint, vocabulary: Vocabulary, closing: bytes) -> None:
        self._inner = inner
        self._pieces: Sequence[bytes] = vocabulary.pieces
        self._words = vocabulary.words
        self._closing = closing
        self._end = b""  # of the thinking, as much of it as may begin the tag
        self._thinking = True
        self._newlines = MOST_NEWLINES

    @property
    def finished(self) -> bool:
        """Whether the answer is."""
        return not self._thinking and self._inner.finished

    def allows(self, token_id: int) -> bool:
        """Thinking as it comes; a token that closes it may have newlines behind the tag and nothing else."""
        if not self._thinking:
            return self._is_newlines(token_id) or self._inner.allows(token_id)
        if token_id >= len(self._pieces) or not (self._words[token_id] or self._pieces[token_id] == self._closing):
            return False
        return not (self._behind(token_id) or b"").strip(b"\n")

    def allowed(self) -> NDArray[np.int64]:
        """All tokens that `allows` grants; asked for seldom, so each that could close the thinking is looked at by itself."""
        if not self._thinking:
            ids = self._inner.allowed()
            return np.union1d(ids, [one for one in range(len(self._pieces)) if self._is_newlines(one)]) if self._newlines else ids
        granted = self._words.copy()
        for token_id, piece in enumerate(self._pieces):
            if self._closing[-1:] in piece:
                granted[token_id] = self.allows(token_id)
        return granted.nonzero()[0]

    def advance(self, token_id: int) -> None:
        """Take note of a token; the shape begins where the tag was closed."""
        if self._thinking:
            behind = self._behind(token_id)
            self._thinking = behind is None
            self._end = (self._end + self._pieces[token_id])[-len(self._closing) + 1 :]
        elif self._is_newlines(token_id):
            self._newlines -= 1
        else:
            self._newlines = 0
            self._inner.advance(token_id)

    def _behind(self, token_id: int) -> bytes | None:
        """What a token has behind the closing tag that it completes; None where it completes none."""
        text = self._end + self._pieces[token_id]
        place = text.find(self._closing)
        return None if place < 0 else text[place + len(self._closing) :]

    def _is_newlines(self, token_id: int) -> bool:
        """Whether the token is nothing but newlines, and some may still come before the answer."""
        piece = self._pieces[token_id] if self._newlines and token_id < len(self._pieces) else b""
        return bool(piece) and not piece.strip(b"\n") and bool(self._words[token_id])
