"""Text to tokens and back with the tokenizer of a safetensors folder.

Knows how the three families (byte-level BPE, SentencePiece with byte tokens, others) write bytes in their pieces, so that a piece in the
middle of a text is exact. Knows nothing of templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modules.core.errors import ContextOverflow, InvalidRequest, UnsupportedFormat

CHARACTERS_PER_TOKEN = 16
LEAST_CHARACTERS = 4096
SPACE = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Ends of a turn by convention; they count where they are special tokens of the vocabulary
TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|return|>", "<|call|>",
    "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|end_of_turn|>", "<eos>", "</s>", "<EOT>",
)  # fmt: skip


def read_byte_alphabet() -> dict[str, int]:
    """Character → byte of byte-level BPE: printable bytes stand for themselves, the others are moved to 256 and up (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(moved)}


class TransformersTokenizer:
    """The tokenizer of a loaded folder."""

    def __init__(self, tokenizer: Any, folder: Path, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._limit = max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * context_length)
        self.vocab_size = len(tokenizer)
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._written = {token: str(row.content) for token, row in added.items()}
        self._special = {token for token, row in added.items() if row.special} | set(tokenizer.all_special_ids)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.adds_bos = self.bos_id is not None and _encode(tokenizer, "", True)[:1] == [self.bos_id]
        self.end_ids = frozenset(self._find_ends(folder))
        self._pieces: dict[int, bytes] = {}
        self._alphabet = read_byte_alphabet() if self._decoder_has("ByteLevel") else None
        self._sentence_pieces = self._alphabet is None and (self._decoder_has("ByteFallback") or self._decoder_has("Metaspace"))

    @property
    def library(self) -> Any:
        """The tokenizer as transformers made it."""
        return self._tokenizer

    def _decoder_has(self, kind: str) -> bool:
        if self._backend is None or self._backend.decoder is None:
            return False
        return f'"type":"{kind}"' in self._backend.decoder.__getstate__().decode().replace(" ", "")

    def _find_ends(self, folder: Path) -> Iterable[int]:
        if self._tokenizer.eos_token_id is not None:
            yield int(self._tokenizer.eos_token_id)
        for name in ("generation_config.json", "config.json"):
            yield from (token for token in _end_tokens(folder / name) if token < self.vocab_size)
        texts = {text: token for token, text in self._written.items() if token in self._special}
        yield from (texts[text] for text in TURN_ENDS if text in texts)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; BOS in front where the model wants it.

        Raises:
            ContextOverflow: text so long that it cannot fit the context.
            InvalidRequest: text that the tokenizer fails on.
        """
        if len(text) > self._limit:
            raise ContextOverflow(f"The text has {len(text)} characters; this model's context holds at most {self._limit}. Shorten it.")
        text = text.encode("utf-8", "replace").decode()
        ids = [self.bos_id] if add_special and self.adds_bos and self.bos_id is not None else []
        try:
            if self._backend is None:
                return ids + _encode(self._tokenizer, text, False)
            self._backend.encode_special_tokens = not parse_special
            return ids + list(self._backend.encode(text, add_special_tokens=False).ids)
        except (SystemExit, KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # a panic of the Rust tokenizer is no Exception
            raise InvalidRequest(f"This model's tokenizer cannot read this text ({str(error)[:100]}); change it.", field="prompt") from error

    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that this tokenizer puts before and behind a text."""
        alone, word = _encode(self._tokenizer, "", True), _encode(self._tokenizer, "a", True)
        same = next((place for place, (first, second) in enumerate(zip(alone, word, strict=False)) if first != second), len(alone))
        return [token for token in alone[:same] if token in self._special], [token for token in alone[same:] if token in self._special]

    def piece(self, token_id: int) -> bytes:
        """The bytes of a token in the middle of a text; of one outside the vocabulary, none."""
        known = self._pieces.get(token_id)
        if known is None:
            known = self._pieces[token_id] = self._read_piece(token_id) if 0 <= token_id < self.vocab_size else b""
        return known

    def _read_piece(self, token_id: int) -> bytes:
        if token_id in self._written:
            return self._written[token_id].encode()
        text = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(text, str):
            return b""
        if self._alphabet is not None:
            if all(character in self._alphabet for character in text):
                return bytes(self._alphabet[character] for character in text)
            return text.encode()
        if self._sentence_pieces:
            byte = BYTE_TOKEN.fullmatch(text)
            return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()
        return self._piece_by_context(token_id)

    def _piece_by_context(self, token_id: int) -> bytes:
        """What a token adds to a text that ends with itself: exact for decoders that treat the beginning differently."""
        alone = str(self._tokenizer.decode([token_id], skip_special_tokens=False))
        twice = str(self._tokenizer.decode([token_id, token_id], skip_special_tokens=False))
        return (twice[len(alone) :] if twice.startswith(alone) else alone).encode()

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token, hidden from the text of a reply."""
        return token_id in self._special


def _encode(tokenizer: Any, text: str, add_special: bool) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=add_special)]


def _end_tokens(path: Path) -> list[int]:
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    values = value if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and token >= 0]


def read_tokenizer(folder: Path, config: Any, context_length: int, own_tokenizer: Any = None) -> TransformersTokenizer:
    """Load the tokenizer of a folder, by `own_tokenizer` if it is given; other code that comes with it is not run.

    Raises:
        UnsupportedFormat: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        if own_tokenizer is not None:
            tokenizer = own_tokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
        return TransformersTokenizer(tokenizer, folder, context_length)
    except (SystemExit, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # broken files surface as anything, Rust panics included
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnsupportedFormat(f"The tokenizer of {folder.name} cannot be loaded ({reason}); download tokenizer.json again.") from error
