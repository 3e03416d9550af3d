"""How choices of POST /v1/completions look, whole and in pieces of a stream. Source: the public OpenAI API reference."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from modules.api.choices import FINISH_WORDS, Whole, prompt_table
from modules.core.generation import Delta, TokenLogprob

Table = dict[str, list[Any]]
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class TextShape:
    """How plain completion choices look, whole and in pieces. `echoes` are the prompts of the choices, where they are wanted."""

    prefix, kind, piece_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, logprobs: bool, echoes: Sequence[str], prompt_logprobs: bool = False) -> None:
        self._logprobs = logprobs
        self._echoes = tuple(echoes)
        self._prompt_logprobs = prompt_logprobs

    def first(self, index: int) -> dict[str, Any] | None:
        """The piece that opens a choice: the prompt itself, if asked for and nothing is to be told about its tokens."""
        if not self._echoes or self._logprobs:
            return None
        return {"index": index, "text": self._echoes[index], "logprobs": None, "finish_reason": None}

    def prompt(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The piece of a stream with the prompt and its tokens."""
        echo = self._echo(index)
        return {"index": index, "text": echo, "logprobs": _prompt_rows(entries, echo), "finish_reason": None}

    def piece(self, index: int, thinking: str, text: str, delta: Delta, offset: int) -> dict[str, Any]:
        """One piece of a stream."""
        return {
            "index": index,
            "text": thinking + text,
            "logprobs": _rows(delta.logprobs, len(self._echo(index)) + offset) if self._logprobs else None,
            "finish_reason": FINISH_WORDS[delta.finish_reason],
        }

    def whole(self, index: int, choice: Whole) -> dict[str, Any]:
        """A finished choice."""
        echo = self._echo(index)
        table = None
        if self._logprobs:
            own = _rows(choice.logprobs, len(echo))
            before = _prompt_rows(choice.prompt_logprobs, echo) if self._echoes else _rows((), 0)
            table = {name: before[name] + own[name] for name in LISTS}
        return {
            "index": index,
            "text": echo + choice.text,
            "logprobs": table,
            "finish_reason": FINISH_WORDS[choice.finish_reason],
            **({"prompt_logprobs": prompt_table(choice.prompt_logprobs)} if self._prompt_logprobs else {}),
        }

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""


def _prompt_rows(entries: Sequence[TokenLogprob], echo: str) -> Table:
    """The tokens of a prompt: nothing stands before the first, and what a model puts in front of a text has no place in it."""
    table = _rows(entries, 0)
    surplus = len(b"".join(entry.raw for entry in entries).decode("utf-8", "replace")) - len(echo)
    table["text_offset"] = [max(0, offset - surplus) for offset in table["text_offset"]]
    table["token_logprobs"][:1] = table["top_logprobs"][:1] = [None] * len(entries[:1])
    return table


def _rows(entries: Sequence[TokenLogprob], offset: int) -> Table:
    """Tokens, their log-probabilities and places in the text, of which the first is `offset`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be made of several tokens
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(decoder.decode(entry.raw))
    return {
        "tokens": [_name(entry) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [_alternatives(entry) for entry in entries],
        "text_offset": offsets,
    }


def _alternatives(entry: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens by name, and where alternatives are wanted the one that stands there too."""
    named: dict[str, float] = {}
    for other in (*entry.top, entry) if entry.top else ():
        named.setdefault(_name(other), other.logprob)
    return named


def _name(entry: TokenLogprob) -> str:
    """A token as a key: its text, or its bytes where they are part of a character, in OpenAI's way."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.part) if entry.part else entry.text
