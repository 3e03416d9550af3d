"""Text to tokens and back with the vocabulary inside a GGUF file.

Knows which text would make the native tokenizer abort or take minutes, and refuses it. Knows nothing of templates.
"""

from __future__ import annotations

import ctypes

from modules.core.errors import ContextOverflow, InvalidRequest
from modules.loaders.llama_cpp.c_api import FastCalls, library

CHARACTERS_PER_TOKEN = 16
LEAST_CHARACTERS = 4096
KEPT_PIECES = 20_000  # what replies are written with; a shape of a text asks for all there are, once
GAP = "\0"  # where a special token was found
SPACE = "▁"  # how SentencePiece writes a space


def character_limit(context_length: int) -> int:
    """Longest text worth tokenizing: beyond it no text fits the context, and tokenizing time grows with the square."""
    return max(LEAST_CHARACTERS, CHARACTERS_PER_TOKEN * context_length)


class LlamaCppTokenizer:
    """The tokenizer of a loaded GGUF model."""

    def __init__(self, vocab: int, context_length: int) -> None:
        binding = self._binding = library()
        self._vocab = vocab
        self._fast = FastCalls()
        self._limit = character_limit(context_length)
        self._context_length = context_length
        self.vocab_size = int(binding.llama_vocab_n_tokens(vocab))
        bos = int(binding.llama_vocab_bos(vocab))
        self.bos_id = bos if bos >= 0 else None
        self.adds_bos = bool(binding.llama_vocab_get_add_bos(vocab)) and self.bos_id is not None
        ends = self._fast.ends_generation
        self.end_ids = frozenset(token for token in range(self.vocab_size) if ends(vocab, token))
        hidden = binding.LLAMA_TOKEN_ATTR_CONTROL | binding.LLAMA_TOKEN_ATTR_UNKNOWN
        attributes = [int(self._fast.token_attributes(vocab, token)) for token in range(self.vocab_size)]
        self._special = bytes(bool(held & hidden) for held in attributes)
        self._pieces: dict[int, bytes] = {}  # of those that were met first
        self._known_characters = self._coverage()
        self._special_texts = self._texts(attributes, hidden)
        self._always_special = self._texts(attributes, binding.LLAMA_TOKEN_ATTR_USER_DEFINED)
        self._all_special = self._texts(attributes, hidden | binding.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _coverage(self) -> frozenset[str] | None:
        """Characters this vocabulary can hold, or None where it can hold any: one without byte tokens aborts on others."""
        if self._binding.llama_vocab_type(self._vocab) != self._binding.LLAMA_VOCAB_TYPE_SPM:
            return None
        text = self._fast.token_text
        texts = {(text(self._vocab, token) or b"").decode("utf-8", "replace") for token in range(self.vocab_size)}
        if all(f"<0x{byte:02X}>" in texts for byte in range(256)):
            return None
        return frozenset(piece for piece in texts if len(piece) == 1)

    def _texts(self, attributes: list[int], wanted: int) -> tuple[str, ...]:
        """How the tokens with one of these attributes are written, longest first: so the native tokenizer looks for them."""
        texts = {self.token_text(token) for token, held in enumerate(attributes) if held & wanted}
        return tuple(sorted(texts - {""}, key=len, reverse=True))

    def token_text(self, token_id: int | None) -> str:
        """How the vocabulary writes a token; for the special strings a template may name."""
        if token_id is None or not 0 <= token_id < self.vocab_size:
            return ""
        return (self._fast.token_text(self._vocab, token_id) or b"").decode("utf-8", "replace")

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; BOS in front where the model wants it.

        Raises:
            ContextOverflow: text so long, or with so many special tokens, that it cannot fit the context.
            InvalidRequest: a character that this vocabulary cannot hold.
        """
        if len(text) > self._limit:
            raise ContextOverflow(f"The text has {len(text)} characters; this model's context holds at most {self._limit}. Shorten it.")
        self._check_specials(text, parse_special)
        self._check_characters(text, parse_special)
        ids = [self.bos_id] if add_special and self.adds_bos and self.bos_id is not None else []
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        for _ in range(2):
            buffer = (ctypes.c_int32 * room)()
            count = int(self._binding.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, parse_special))
            if count >= 0:
                return ids + buffer[:count]
            room = -count
        raise InvalidRequest("This text cannot be split into tokens; shorten it.")

    def _check_specials(self, text: str, parse_special: bool) -> None:
        """The native tokenizer needs time that grows with the square of the special tokens in a text: seconds at 40 000 of them."""
        if len(text) <= self._context_length:
            return
        count = 0
        for special in self._all_special if parse_special else self._always_special:
            found = text.count(special)
            if found:
                count += found
                text = text.replace(special, GAP)
        if count > self._context_length:
            raise ContextOverflow(f"The text has {count} special tokens; this model's context holds {self._context_length} tokens. Shorten it.")

    def _check_characters(self, text: str, parse_special: bool) -> None:
        known = self._known_characters
        if known is None:
            return
        for special in self._special_texts if parse_special else ():
            text = text.replace(special, "")
        unknown = set(text.replace(" ", SPACE)) - known
        if unknown:
            shown = ", ".join(sorted(repr(character)[1:-1] for character in unknown)[:5])
            raise InvalidRequest(f"This model's vocabulary has no {shown} (and no byte tokens); write the text without it.", field="prompt")

    def piece(self, token_id: int) -> bytes:
        """The bytes of a token; of one outside the vocabulary, none."""
        if not 0 <= token_id < self.vocab_size:
            return b""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._fast.piece(self._vocab, token_id)
            if len(self._pieces) < KEPT_PIECES:
                self._pieces[token_id] = piece
        return piece

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token (or the unknown one), hidden from replies; user-defined tokens are text."""
        return 0 <= token_id < self.vocab_size and bool(self._special[token_id])
