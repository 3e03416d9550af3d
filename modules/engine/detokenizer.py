"""Token ids to text, one token at a time: characters are never split, special tokens are hidden.

Knows the byte pieces of a tokenizer and nothing of stop strings or of the model. The bytes are passed on as the model wrote them: a
leading space that a SentencePiece model writes at the beginning of a reply is part of the reply.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.core.model import Tokenizer

Piece = tuple[bytes, str | None]  # the bytes, and the text when they are whole characters by themselves


class PieceTable:
    """What each token adds to the text, looked up in the tokenizer once. One per model, used by the engine thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, Piece] = {}

    def piece(self, token_id: int) -> Piece:
        """Bytes and text of a token inside a reply; special tokens add nothing."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._read(token_id)
        return piece

    def written(self, token_id: int) -> str:
        """How a token is shown by itself, special tokens in their written form."""
        return self._tokenizer.piece(token_id).decode("utf-8", "replace")

    def _read(self, token_id: int) -> Piece:
        if self._tokenizer.is_special(token_id):
            return b"", ""
        raw = self._tokenizer.piece(token_id)
        try:
            return raw, raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw, None


class Detokenizer:
    """The text of one reply. Bytes that cannot be UTF-8 become U+FFFD as soon as that is certain, and not earlier."""

    __slots__ = ("_decoder", "_open", "_table")

    def __init__(self, table: PieceTable) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = False  # whether the decoder holds the beginning of a character

    def feed(self, token_id: int) -> str:
        """The characters that are complete after this token."""
        raw, text = self._table.piece(token_id)
        if text is not None and not self._open:
            return text
        decoded = self._decoder.decode(raw)
        self._open = bool(self._decoder.getstate()[0])
        return decoded

    def flush(self) -> str:
        """What remains at the end: U+FFFD for a character that was never completed."""
        self._open = False
        return self._decoder.decode(b"", True)
