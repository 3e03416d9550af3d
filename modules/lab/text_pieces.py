"""Texts of any length, read and turned into tokens piece by piece: what is in memory never grows with the text.

A tokenizer takes no text beyond a limit, so a text is cut where a cut changes no token: in front of a single space between two words. The cuts
depend on the text alone, so that every model, whatever its context, gets the same pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import ContextOverflow, InvalidRequest, NotFound
from modules.core.model import Tokenizer

READ_CHARS = 1 << 16
PIECE_CHARS = 2048  # every tokenizer takes as many
SHOWN_CHARACTERS = 5


@dataclass(frozen=True)
class TextFacts:
    """What tells one text from another, and how long it is as UTF-8."""

    sha256: str
    bytes: int


def read_text(path: Path) -> Iterator[str]:
    """A UTF-8 file in parts; line ends become newlines, and a byte order mark is no text.

    Raises:
        NotFound: it is gone.
        InvalidRequest: it is not UTF-8, or cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            while part := file.read(READ_CHARS):
                yield part
    except FileNotFoundError:
        raise NotFound(f"The text {path.name} is no longer there; choose another one.") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except OSError as error:
        raise InvalidRequest(f"{path.name} cannot be read: {error.strerror or error}. Check the file and its permissions.") from error


def text_facts(parts: Iterable[str]) -> TextFacts:
    """Hash and length of a text."""
    whole, size = hashlib.sha256(), 0
    for part in parts:
        raw = part.encode("utf-8", "replace")
        whole.update(raw)
        size += len(raw)
    return TextFacts(whole.hexdigest(), size)


def pieces(parts: Iterable[str], limit: int = PIECE_CHARS) -> Iterator[str]:
    """The text in pieces of at most `limit` characters; put together again they are the text."""
    held = ""
    for part in parts:
        held += part
        begin = 0
        while len(held) - begin > limit:
            end = _cut(held, begin, begin + limit)
            yield held[begin:end]
            begin = end
        held = held[begin:]
    if held:
        yield held


def _cut(text: str, begin: int, end: int) -> int:
    """The last place at which a single space between two words begins; the end where there is none."""
    place = text.rfind(" ", begin + 1, end)
    while place > begin:
        if not text[place - 1].isspace() and not text[place + 1].isspace():
            return place
        place = text.rfind(" ", begin + 1, place)
    return end


class PieceEncoder:
    """Token ids of pieces that follow each other, as one text would have them."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._safe_chars = max(1, context_length)  # of so many characters no tokenizer says that they are too many tokens
        self.adds_space = self._adds_space()  # in front of a text: then that of a piece must not be there twice
        self._begun = False

    def _adds_space(self) -> bool:
        try:
            ids = self._encoded("a")
        except InvalidRequest:  # a vocabulary without this letter
            return False
        return b"".join(map(self._tokenizer.piece, ids)).startswith(b" ")

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)

    def encode(self, piece: str) -> list[int]:
        """The tokens of the next piece.

        Raises:
            InvalidRequest: it has characters that the vocabulary cannot hold.
        """
        text = piece[1:] if self.adds_space and self._begun and piece.startswith(" ") else piece
        try:
            ids = self._encoded(text)
        except ContextOverflow:
            if len(piece) <= self._safe_chars:
                raise
            return [token for part in pieces([piece], max(self._safe_chars, len(piece) // 2)) for token in self.encode(part)]
        self._check_known(text, ids)
        self._begun = True
        return ids

    def _check_known(self, text: str, ids: Sequence[int]) -> None:
        """A text read without special tokens has none, but for the one that stands for what is not in the vocabulary."""
        if any(self._stands_for_unknown(token, text) for token in set(ids)):
            lost = sorted({character for character in text if any(self._stands_for_unknown(token, character) for token in self._encoded(character))})
            shown = ", ".join(repr(character)[1:-1] for character in lost[:SHOWN_CHARACTERS]) or "word for a part of the text"
            raise InvalidRequest(f"This model's vocabulary has no {shown} (and no byte tokens); write the text without it.")

    def _stands_for_unknown(self, token: int, text: str) -> bool:
        return self._tokenizer.is_special(token) and self._tokenizer.piece(token).decode("utf-8", "replace") not in text
