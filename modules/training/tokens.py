"""The tokenizer of a base model for training: loaded without running foreign code, with new tokens, and where each token stands in its text.

Knows no template and no label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest, UnsupportedFormat
from modules.loaders.folder_header import read_folder_header
from modules.loaders.transformers.tokenizer import TransformersTokenizer
from modules.training.options import TrainingOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_CUTOFF_TOKENS = 2048  # of options.cutoff_tokens 0
LONGEST_NEW_TOKEN = 64
CONTROL_LIKE = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
# Tokens made for filling up, in vocabularies whose files do not say so
PAD_TEXTS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|padding|>", "<|endoftext|>", "<unk>")
CHUNK_CHARACTERS = 1_000_000


def check_new_tokens(new_tokens: Sequence[str]) -> None:
    """Refuse what cannot be a token.

    Raises:
        InvalidRequest: one is empty, too long or begins or ends with space.
    """
    for token in new_tokens:
        if not token or token != token.strip() or len(token) > LONGEST_NEW_TOKEN:
            raise InvalidRequest(
                f"The new token “{token[:80]}” must have 1 to {LONGEST_NEW_TOKEN} characters and no space at its ends.", field="new_tokens"
            )


def load_tokenizer(path: Path, new_tokens: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder and add tokens; what is in the vocabulary already stays as it is.

    Raises:
        InvalidRequest: a new token is empty, too long or begins or ends with space.
        UnsupportedFormat: there is no tokenizer, or it cannot be read.
    """
    from transformers import AddedToken, AutoTokenizer

    check_new_tokens(new_tokens)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (SystemExit, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # broken files surface as anything, Rust panics included
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnsupportedFormat(f"The tokenizer of {path.name} cannot be loaded ({reason}); download tokenizer.json again.") from error
    known = tokenizer.get_vocab()
    for token in dict.fromkeys(new_tokens):
        if token not in known:  # marks like <|im_start|> are no text to be shown in replies
            is_mark = CONTROL_LIKE.fullmatch(token) is not None
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=is_mark)], special_tokens=is_mark)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token rows are filled up with. Nothing learns from it, so any will do, and the vocabulary stays as it is."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    known = tokenizer.get_vocab()
    return next((int(known[text]) for text in PAD_TEXTS if text in known), int(tokenizer.eos_token_id or 0))


def length_limit(path: Path, options: TrainingOptions) -> int:
    """Most tokens of a sequence: what is asked for, or 2048, but never more than the positions that the model knows."""
    header = read_folder_header(path)
    known = header.number("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")
    asked = options.cutoff_tokens or DEFAULT_CUTOFF_TOKENS
    return min(asked, known) if known else asked


@dataclass(frozen=True, slots=True)
class Placed:
    """Tokens of a text, each with the range of characters it stands for."""

    ids: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


class PlacedTokenizer:
    """Text to tokens with their places."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.plain = tokenizer
        self.pieces = TransformersTokenizer(tokenizer, Path(str(tokenizer.name_or_path)), DEFAULT_CUTOFF_TOKENS)
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._numbers = tuple(range(len(tokenizer)))  # one object for each id: millions of tokens share them
        self.eos_id: int | None = tokenizer.eos_token_id
        self.bos_token = str(tokenizer.bos_token or "")
        self.eos_token = str(tokenizer.eos_token or "")

    @property
    def adds_bos(self) -> bool:
        """Whether the model wants its BOS before plain text."""
        return self.pieces.adds_bos

    def place(self, text: str) -> Placed:
        """Tokens of a text with their places; marks like <|im_end|> become what they are; no BOS is added.

        Raises:
            InvalidRequest: the tokenizer fails on the text.
            UnsupportedFormat: it does not say where its tokens stand.
        """
        text = text.encode("utf-8", "replace").decode()
        if self._backend is None:
            return self._placed_by_pieces(text)
        self._backend.encode_special_tokens = False
        found = self._encoded(text)
        return Placed(self._shared(found.ids), _joined_up(found.offsets))

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a plain text of any length; no BOS is added.

        A long text is read in parts of a million characters that end before a space or a line break, to bound memory.
        """
        text = text.encode("utf-8", "replace").decode()
        if self._backend is None:
            return self._shared(self.plain.encode(text, add_special_tokens=False))
        self._backend.encode_special_tokens = False
        return tuple(number for part in _parts(text) for number in self._shared(self._encoded(part).ids))

    def _shared(self, ids: Sequence[int]) -> tuple[int, ...]:
        numbers = self._numbers
        return tuple(numbers[number] for number in ids)

    def _encoded(self, text: str) -> Any:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except (SystemExit, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # a panic of the Rust tokenizer is no Exception
            raise InvalidRequest(f"This model's tokenizer cannot read a text ({str(error)[:100]}); change it: “{text[:80]}”.") from error

    def _placed_by_pieces(self, text: str) -> Placed:
        """Places of a tokenizer that does not tell them: by the bytes of its tokens, which must add up to the text."""
        ids = self._shared(self.plain.encode(text, add_special_tokens=False))
        ends = [0]
        for number in ids:
            ends.append(ends[-1] + len(self.pieces.piece(number)))
        written = b"".join(self.pieces.piece(number) for number in ids)
        if written != text.encode():
            raise UnsupportedFormat("This model's tokenizer does not say where its tokens stand in a text, so replies cannot be marked; learn “everything”.")
        characters = [0] * (len(written) + 1)  # byte → character that holds it
        at = 0
        for number, character in enumerate(text):
            for _ in character.encode():
                characters[at] = number
                at += 1
        characters[at] = len(text)
        return Placed(ids, tuple((characters[begin], characters[end - 1] + 1 if end > begin else characters[begin]) for begin, end in pairwise(ends)))


def _joined_up(offsets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges without gaps: some tokenizers leave spaces out of the ranges they tell; they belong to the token that follows."""
    ranges: list[tuple[int, int]] = []
    before = 0
    for begin, end in offsets:
        ranges.append((min(begin, before), max(end, before)) if end > begin or end > before else (before, before))
        before = max(before, end)
    return tuple(ranges)


def _parts(text: str) -> list[str]:
    parts, at = [], 0
    while len(text) - at > CHUNK_CHARACTERS:
        border = at + CHUNK_CHARACTERS
        near = max(text.rfind(" ", border - 10_000, border), text.rfind("\n", border - 10_000, border))
        border = near if near > at else border
        parts.append(text[at:border])
        at = border
    return [*parts, text[at:]]
