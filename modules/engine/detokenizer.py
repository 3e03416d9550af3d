"""Token ids to text, one token at a time: characters are never split, special tokens are hidden, but for those that fence in thinking.

Replies in channels (those of gpt-oss) come out as other models write: what is thought between the tags of thinking, then the answer.
Knows the byte pieces of a tokenizer and nothing of stop strings or of the model. The bytes are passed on as the model wrote them: a
leading space that a SentencePiece model writes at the beginning of a reply is part of the reply.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from modules.core.messages import THINKING_TAGS

if TYPE_CHECKING:
    from modules.core.model import Tokenizer

Piece = tuple[bytes, str | None]  # the bytes, and the text when they are whole characters by themselves

TAGS = frozenset(tag for pair in THINKING_TAGS for tag in pair if not tag.startswith("<|")) | {"<|channel>"}  # that of Gemma 4 has its name behind it
OPENING, CLOSING = THINKING_TAGS[0]
CHANNEL, START, MESSAGE = "<|channel|>", "<|start|>", "<|message|>"
THINK, END, BEGIN, CONTENT, CALLS = "<|think|>", "<|end|>", "<|begin|>", "<|content|>", "<|tool_calls|>"  # of the parts of Solar Open, mostly ordinary tokens
MARKS = frozenset((CHANNEL, START, MESSAGE, THINK, END, BEGIN, CONTENT, CALLS))
THOUGHT_CHANNELS = ("analysis", "commentary", THINK)

TO, LONGEST_ADDRESS = "to=", 300
ADDRESS = re.compile(r"to=(functions\.[\w.:-]+)")


class PieceTable:
    """What each token adds to the text, looked up in the tokenizer once. One per model, used by the engine thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, Piece] = {}
        self._marks: dict[int, str] = {}  # of channels and parts, by token

    def piece(self, token_id: int) -> Piece:
        """Bytes and text of a token inside a reply; special tokens add nothing."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._read(token_id)
        return piece

    def bare(self, token_id: int) -> Piece:
        """Bytes and text of a token inside a reply that hides nothing."""
        raw = self._tokenizer.piece(token_id)
        try:
            return raw, raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw, None

    def mark(self, token_id: int) -> str:
        """The mark of a channel that a token is, if it is one that was looked up as a piece before."""
        return self._marks.get(token_id, "")

    def written(self, token_id: int) -> str:
        """How a token is shown by itself, special tokens in their written form."""
        return self._tokenizer.piece(token_id).decode("utf-8", "replace")

    def part(self, token_id: int) -> bytes:
        """The bytes of a token that are no whole characters by themselves; nothing where they are."""
        raw, text = self.piece(token_id)
        return raw if text is None else b""

    def _read(self, token_id: int) -> Piece:
        raw = self._tokenizer.piece(token_id)
        written = raw.decode("utf-8", "replace")
        if written in MARKS:
            self._marks[token_id] = written
        if not self._tokenizer.is_special(token_id):
            return self.bare(token_id)
        return (raw, written) if written in TAGS else (b"", "")


class Channels:
    """The text of a reply in channels or parts: headers are left out, all but the last one is thinking.

    With `tells_calls` the header of one that is addressed to a function stays, in one spelling whatever the model's was.
    """

    def __init__(self, *, tells_calls: bool = False, header: str = "") -> None:
        self._tells_calls = tells_calls
        self._header: str | None = header  # while one is being written
        self._thinking = False

    def feed(self, text: str, mark: str) -> str:
        """What one token adds."""
        if mark in (MESSAGE, THINK, CONTENT):
            header, self._header = self._header or "", None
            return self._enter(header.strip() if mark == MESSAGE else mark)
        if mark == CALLS:
            self._header = None
            return self._enter(mark) + text
        if mark:
            self._header = f"{self._header} " if mark == CHANNEL and "to=" in (self._header or "") else ""  # the address may stand before the channel
            return ""
        if self._header is not None:
            self._header += text
            return ""
        return text

    def _enter(self, header: str) -> str:
        address = ADDRESS.search(header) if self._tells_calls else None
        if address:
            was, self._thinking = self._thinking, False
            return (f"\n{CLOSING}\n\n" if was else "") + f"{CHANNEL}commentary to={address[1]}{MESSAGE}"
        was, self._thinking = self._thinking, header.startswith(THOUGHT_CHANNELS)
        if self._thinking:
            return "\n\n" if was else f"{OPENING}\n"
        return f"\n{CLOSING}\n\n" if was else ""


def _showing(table: PieceTable, shown: Set[int]) -> Callable[[int], Piece]:
    """Pieces where some special tokens are not hidden; those that mark channels are the channels' business."""

    def piece(token_id: int) -> Piece:
        hidden = table.piece(token_id)
        return table.bare(token_id) if token_id in shown and not table.mark(token_id) else hidden

    return piece


class Detokenizer:
    """The text of one reply. Bytes that cannot be UTF-8 become U+FFFD as soon as that is certain, and not earlier."""

    __slots__ = ("_address", "_begun", "_channels", "_decoder", "_hides_special", "_open", "_piece", "_table", "_tells_calls")

    def __init__(self, table: PieceTable, *, hides_special: bool = True, shown: Set[int] = frozenset()) -> None:
        self._table = table
        self._piece = _showing(table, shown) if shown and hides_special else table.piece if hides_special else table.bare
        self._hides_special = hides_special
        self._tells_calls = bool(shown)
        self._address = ""  # of a channel, where the reply begins with one
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = False  # whether the decoder holds the beginning of a character
        self._channels: Channels | None = None  # once there is one
        self._begun = False  # whether any words came

    def feed(self, token_id: int) -> str:
        """The characters that are complete after this token."""
        text, mark = self._characters(token_id), self._table.mark(token_id)
        if self._channels is None:
            if self._tells_calls and not self._begun:
                text = self._held(text, mark)
            if not (mark and self._opens(text, mark)):
                self._begun = self._begun or bool(text.strip())
                return text
            self._channels = Channels(tells_calls=self._tells_calls, header=self._address)
            self._address = ""
        return self._channels.feed(text, mark)

    def _held(self, text: str, mark: str) -> str:
        """Text at the beginning of a reply without what may be the address of a channel, which a mark has to follow."""
        self._address += text
        begin = self._address.lstrip()
        if mark == CHANNEL or (begin and len(begin) < LONGEST_ADDRESS and begin.startswith(TO[: len(begin)])):
            return ""
        text, self._address = self._address, ""
        return text

    def _opens(self, text: str, mark: str) -> bool:
        """Whether the reply is in channels or parts. The marks of parts may be ordinary tokens, so they count only as the first word of a reply."""
        return (mark == CHANNEL and not text) or (self._hides_special and mark in (THINK, CONTENT) and not self._begun)

    def _characters(self, token_id: int) -> str:
        raw, text = self._piece(token_id)
        if text is not None and not self._open:
            return text
        decoded = self._decoder.decode(raw)
        self._open = bool(self._decoder.getstate()[0])
        return decoded

    def flush(self) -> str:
        """What remains at the end: U+FFFD for a character that was never completed."""
        self._open = False
        address, self._address = self._address, ""
        return address + self._decoder.decode(b"", True)
