"""How choices of POST /v1/chat/completions look, whole and in pieces of a stream. Source: the public OpenAI API reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from modules.api.chat_parts import CallPiece, ChatPart, ChatReader, ChatWhole, whole_chat
from modules.api.choices import Whole, prompt_ids
from modules.core.generation import Delta, GenerationRequest, TokenLogprob
from modules.services.generation import ClientGeneration


class ChatShape:
    """How chat choices look, whole and in pieces."""

    prefix, kind, piece_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool, tells_ids: bool) -> None:
        self._logprobs = logprobs
        self.tells_ids = tells_ids

    def beside(self, generation: ClientGeneration) -> dict[str, Any]:
        """What stands beside the choices: the ids of the prompt, which all of them share."""
        return {"prompt_token_ids": prompt_ids(generation)} if self.tells_ids else {}

    def first(self, index: int) -> dict[str, Any]:
        """The piece that opens a choice."""
        return self._with_ids({"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}, ())

    def reading(self, index: int, generation: ClientGeneration, request: GenerationRequest) -> Callable[[Delta], Sequence[dict[str, Any]]]:
        """What makes pieces of a stream of the deltas of one choice."""
        reader = ChatReader(generation, request)

        def read(delta: Delta) -> Sequence[dict[str, Any]]:
            part = reader.read(delta)
            if part.calls and part.finish_reason:  # who puts calls together looks for the end in a piece behind them, as OpenAI sends it
                end = {"index": index, "delta": {}, "logprobs": None, "finish_reason": part.finish_reason}
                return self._piece(index, replace(part, finish_reason=None)), self._with_ids(end, ())
            if part.thinking or part.text or part.calls or delta.logprobs or part.finish_reason or (self.tells_ids and delta.token_ids):
                return (self._piece(index, part),)
            return ()

        return read

    def _piece(self, index: int, part: ChatPart) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if part.thinking:
            body["reasoning_content"] = part.thinking
        if part.text:
            body["content"] = part.text
        if part.calls:
            body["tool_calls"] = [_call_piece(piece) for piece in part.calls]
        piece = {"index": index, "delta": body, "logprobs": self._table(part.delta.logprobs), "finish_reason": part.finish_reason}
        return self._with_ids(piece, part.delta.written_ids) if self.tells_ids else piece

    async def finished(self, index: int, generation: ClientGeneration, request: GenerationRequest) -> tuple[Whole, dict[str, Any]]:
        """A choice once it is finished."""
        choice = await whole_chat(generation, request)
        return choice, self._whole(index, choice)

    def _whole(self, index: int, choice: ChatWhole) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.thinking:
            message["reasoning_content"] = choice.thinking
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in choice.calls
            ]
        told = {"index": index, "message": message, "logprobs": self._table(choice.logprobs), "finish_reason": choice.finish_reason}
        return self._with_ids(told, choice.token_ids)

    def _with_ids(self, told: dict[str, Any], token_ids: Sequence[int]) -> dict[str, Any]:
        return {**told, "token_ids": list(token_ids)} if self.tells_ids else told

    def _table(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": told_logprobs(logprobs)}


def _call_piece(piece: CallPiece) -> dict[str, Any]:
    if piece.id:
        return {"index": piece.index, "id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": piece.arguments}}
    return {"index": piece.index, "function": {"arguments": piece.arguments}}


def told_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their alternatives as OpenAI tells them."""
    return [{**_entry(entry), "top_logprobs": [_entry(top) for top in entry.top]} for entry in logprobs]


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.raw)}
