"""How choices of POST /v1/completions look, whole and in pieces of a stream. Source: the public OpenAI API reference."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from modules.api.choices import FINISH_WORDS, Whole, prompt_ids, prompt_table
from modules.core.generation import Delta, GenerationRequest, TokenLogprob
from modules.services.generation import ClientGeneration

Table = dict[str, list[Any]]
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class TextShape:
    """How plain completion choices look, whole and in pieces. `echoes` are the prompts of the choices, where they are wanted."""

    prefix, kind, piece_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, logprobs: bool, echoes: Sequence[str], prompt_logprobs: bool, tells_ids: bool) -> None:
        self._logprobs = logprobs
        self._echoes = tuple(echoes)
        self._prompt_logprobs = prompt_logprobs
        self.tells_ids = tells_ids

    def beside(self, generation: ClientGeneration) -> dict[str, Any]:
        """What stands beside the choices: nothing, as they may have different prompts."""
        return {}

    def first(self, index: int) -> dict[str, Any] | None:
        """The piece that opens a choice: the prompt itself, if asked for and nothing is to be told about its tokens."""
        return None if self.tells_ids else self._opening(index)

    def _opening(self, index: int) -> dict[str, Any] | None:
        if not self._echoes or self._logprobs:
            return None
        return {"index": index, "text": self._echoes[index], "logprobs": None, "finish_reason": None}

    def reading(self, index: int, generation: ClientGeneration, request: GenerationRequest) -> Callable[[Delta], Sequence[dict[str, Any]]]:
        """What makes pieces of a stream of the deltas of one choice."""
        read = self._reading(index)
        return self._reading_ids(index, generation, read) if self.tells_ids else read

    def _reading_ids(
        self, index: int, generation: ClientGeneration, read: Callable[[Delta], Sequence[dict[str, Any]]]
    ) -> Callable[[Delta], Sequence[dict[str, Any]]]:
        """The same with token ids: those of the prompt, which are known with the first delta, in the first piece."""
        is_first = True

        def told(delta: Delta) -> Sequence[dict[str, Any]]:
            nonlocal is_first
            pieces = list(read(delta))
            if not pieces and delta.written_ids:  # its text is held back
                pieces.append(self._piece(index, delta, 0))
            if not pieces:
                return ()
            if is_first and (opening := self._opening(index)) is not None:
                pieces.insert(0, opening)
            for piece in pieces[:-1]:
                piece["token_ids"] = []
            pieces[-1]["token_ids"] = list(delta.written_ids)
            if is_first:
                pieces[0]["prompt_token_ids"] = prompt_ids(generation)
            is_first = False
            return pieces

        return told

    def _reading(self, index: int) -> Callable[[Delta], Sequence[dict[str, Any]]]:
        offset = 0
        asked: list[TokenLogprob] = []  # tokens of the prompt

        def read(delta: Delta) -> Sequence[dict[str, Any]]:
            nonlocal offset
            asked.extend(delta.prompt_logprobs)
            pieces: list[dict[str, Any]] = []
            if delta.text or delta.logprobs or delta.finish_reason:
                if asked:
                    pieces.append(self._prompt(index, asked))
                    asked.clear()
                pieces.append(self._piece(index, delta, offset))
            offset += len(delta.text)
            return pieces

        return read

    def _prompt(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The piece of a stream with the prompt and its tokens."""
        echo = self._echo(index)
        return {"index": index, "text": echo, "logprobs": _prompt_rows(entries, echo), "finish_reason": None}

    def _piece(self, index: int, delta: Delta, offset: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": delta.text,
            "logprobs": _rows(delta.logprobs, len(self._echo(index)) + offset) if self._logprobs else None,
            "finish_reason": FINISH_WORDS[delta.finish_reason],
        }

    async def finished(self, index: int, generation: ClientGeneration, request: GenerationRequest) -> tuple[Whole, dict[str, Any]]:
        """A choice once it is finished."""
        choice = Whole()
        async for delta in generation:
            choice.add("", delta.text, delta)
        choice.seed = generation.started.seed if generation.started else 0
        ids = {"prompt_token_ids": prompt_ids(generation), "token_ids": choice.token_ids} if self.tells_ids else {}
        return choice, {**self._whole(index, choice), **ids}

    def _whole(self, index: int, choice: Whole) -> dict[str, Any]:
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
            "finish_reason": choice.finish_reason,
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
