"""The pieces of a streamed reply as deltas: text, thinking, log-probabilities, how it ended and what it cost.

Thinking that a server sends apart is put in front of the text between the tags that the page and the API know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modules.core.generation import CallPiece, Delta, FinishReason, TokenLogprob, Usage
from modules.core.messages import THINKING_TAGS
from modules.core.tools import call_id

OPENING, CLOSING = THINKING_TAGS[0]
NO_TOKEN = -1  # OpenAI's API names tokens by their text only


class PieceError(Exception):
    """An event that is no piece of a reply."""


class ToldError(Exception):
    """The server told of an error in the middle of a stream; its own words."""


class PieceReader:
    """Reads the events of one reply in order. An `echo` is the beginning of a continued reply, which some servers send again first."""

    def __init__(self, echo: str = "") -> None:
        self._echo = echo.rstrip()
        self._held = ""  # what has come and may be the echo
        self._thinking = False
        self._finish: FinishReason | None = None
        self._stop_string: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._pieces = 0
        self._calls: dict[str, int] = {}  # of tools: our number of a call by the server's

    @property
    def finished(self) -> bool:
        """Whether the server said how the reply ended."""
        return self._finish is not None

    def read(self, data: str) -> Delta | None:
        """What an event adds; None if that is nothing to show yet.

        Raises:
            PieceError: not JSON of the shape of a piece.
            ToldError: the server tells of an error.
        """
        piece = _mapping(data)
        if piece.get("error"):
            raise ToldError(_told(piece["error"]))
        usage = piece.get("usage")
        if isinstance(usage, Mapping):
            self._usage = usage
        choices = _list(piece.get("choices"))
        if not choices:
            return None
        choice = choices[0]
        if not isinstance(choice, Mapping):
            raise PieceError("a choice that is no object")
        self._read_end(choice)
        text = self._without_echo(self._text(choice))
        logprobs, calls = read_logprobs(choice.get("logprobs")), self._read_calls(choice)
        if not text and not logprobs and not calls:
            return None
        self._pieces += 1
        return Delta(text=text, logprobs=logprobs, pieces=1, calls=calls)

    def _read_calls(self, choice: Mapping[str, Any]) -> tuple[CallPiece, ...]:
        """Pieces of calls of tools. Some servers send each call whole, some without an id, and some repeat id and name with every piece."""
        delta = choice.get("delta")
        found = []
        for place, entry in enumerate(_list(delta.get("tool_calls")) if isinstance(delta, Mapping) else ()):
            function = entry.get("function") if isinstance(entry, Mapping) else None
            if not isinstance(function, Mapping):
                continue
            arguments = function.get("arguments")
            text = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
            key, name = str(entry.get("index", f"{len(self._calls)}-{place}")), _string(function.get("name"))
            if key in self._calls:
                found.append(CallPiece(self._calls[key], arguments=text))
            elif name:
                self._calls[key] = number = len(self._calls)
                found.append(CallPiece(number, _string(entry.get("id")) or call_id(), name, text))
        return tuple(found)

    def _read_end(self, choice: Mapping[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if not reason:
            return
        self._finish = "length" if reason == "length" else "stop"
        stop = choice.get("stop_reason")  # of vLLM: the string, or the id of a token
        self._stop_string = stop if isinstance(stop, str) else None

    def _text(self, choice: Mapping[str, Any]) -> str:
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            return _string(choice.get("text"))
        thought = _string(delta.get("reasoning_content")) or _string(delta.get("reasoning"))
        text = _string(delta.get("content"))
        out = ""
        if thought:
            out += thought if self._thinking else OPENING + "\n" + thought
            self._thinking = True
        if text:
            out += ("\n" + CLOSING + "\n\n" + text) if self._thinking else text
            self._thinking = False
        return out

    def _without_echo(self, text: str) -> str:
        if not self._echo:
            return text
        held = self._held + text
        if len(held) < len(self._echo) and self._echo.startswith(held):
            self._held = held
            return ""
        text, self._echo, self._held = held.removeprefix(self._echo), "", ""
        return text

    def last(self, prefill_s: float, decode_s: float, finish: FinishReason | None = None) -> Delta:
        """The last delta, with what the reply cost. Without the server's own count its pieces are counted: about a token each."""
        counted = usage_of(self._usage)
        usage = replace(counted, completion_tokens=counted.completion_tokens or self._pieces, prefill_s=prefill_s, decode_s=decode_s)
        reason = finish or self._finish or "stop"
        return Delta(text=self._held, finish_reason=reason, stop_string=self._stop_string, usage=usage)


def usage_of(value: Any) -> Usage:
    """The tokens that a server counted; none where it does not say."""
    told = value if isinstance(value, Mapping) else {}
    details = told.get("prompt_tokens_details")
    reused = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    return Usage(prompt_tokens=_count(told.get("prompt_tokens")), reused_tokens=reused, completion_tokens=_count(told.get("completion_tokens")))


def read_logprobs(value: Any) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in either of OpenAI's two shapes; nothing where there are none."""
    if not isinstance(value, Mapping):
        return ()
    content = value.get("content")
    if isinstance(content, list):
        return tuple(_entry(row) for row in content if isinstance(row, Mapping))
    tokens, logprobs, tops = (_list(value.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    found = []
    for index, token in enumerate(tokens):
        top = tops[index] if index < len(tops) and isinstance(tops[index], Mapping) else {}
        best = tuple(TokenLogprob(NO_TOKEN, str(text), _number(at)) for text, at in top.items())
        found.append(
            TokenLogprob(
                NO_TOKEN, _string(token), _number(logprobs[index]) if index < len(logprobs) else 0.0, best
            )
        )
    return tuple(found)


def _entry(row: Mapping[str, Any]) -> TokenLogprob:
    # one level deep: an alternative has no alternatives
    top = tuple(_token(entry) for entry in _list(row.get("top_logprobs")) if isinstance(entry, Mapping))
    return replace(_token(row), top=top)


def _token(row: Mapping[str, Any]) -> TokenLogprob:
    token_id = row.get("id")
    return TokenLogprob(
        token_id if isinstance(token_id, int) else NO_TOKEN,
        _string(row.get("token")),
        _number(row.get("logprob")),
    )


def _mapping(data: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise PieceError("something that is no JSON") from None
    if not isinstance(value, Mapping):
        raise PieceError("something that is no object")
    return value


def _told(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
