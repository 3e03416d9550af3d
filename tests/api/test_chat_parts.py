"""Deltas of a generation told apart: thinking, text and calls, as every dialect of the API uses them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modules.api.chat_parts import ChatCall, asked_params, chat_parts, whole_chat
from modules.api.schemas import CompletionRequest
from modules.core.generation import CallPiece, ChatPrompt, Delta, GenerationRequest, Started, Usage
from modules.core.messages import Message
from modules.core.params import GenerationParams
from modules.core.tools import checked_tools
from modules.services.presets import PresetService

TOOLS = checked_tools([{"function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}])
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sea"}}\n</tool_call>'


class Written:
    """A generation that wrote these deltas."""

    def __init__(self, deltas: Sequence[Delta], **started: Any) -> None:
        self.started = Started(5, 0, 0, seed=7, **started)
        self._deltas = deltas

    async def __aiter__(self) -> AsyncIterator[Delta]:
        for delta in self._deltas:
            yield delta


def pieces_of(text: str, finish: Any = "stop") -> list[Delta]:
    return [*(Delta(text=char) for char in text), Delta(finish_reason=finish, usage=Usage(completion_tokens=len(text)), stop_string="END")]


def request(**more: Any) -> GenerationRequest:
    return GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="Look."),), tools=TOOLS, **more))


async def told(deltas: Sequence[Delta], asked: GenerationRequest, **started: Any) -> tuple[str, str, list[CallPiece], list[str | None]]:
    parts = [part async for part in chat_parts(cast("Any", Written(deltas, **started)), asked)]
    return (
        "".join(part.thinking for part in parts), "".join(part.text for part in parts),
        [piece for part in parts for piece in part.calls], [part.finish_reason for part in parts if part.finish_reason],
    )  # fmt: skip


async def test_thinking_then_text_then_a_call() -> None:
    text = f"It is far.\n</think>\n\nI look.\n{CALL}"
    thinking, answer, calls, finish = await told(pieces_of(text), request(), starts_thinking="<think>", call_format="hermes")
    assert (thinking, answer, finish) == ("It is far.\n", "I look.", ["tool_calls"])
    assert (calls[0].name, "".join(piece.arguments for piece in calls)) == ("look", '{"at": "sea"}')
    assert len(calls) > 10
    whole = await whole_chat(cast("Any", Written(pieces_of(text), starts_thinking="<think>", call_format="hermes")), request())
    (call,) = whole.calls
    assert (whole.thinking, whole.text, whole.finish_reason, whole.stop_string, whole.seed) == (thinking, answer, "tool_calls", "END", 7)
    assert (call.name, json.loads(call.arguments), whole.usage.completion_tokens) == ("look", {"at": "sea"}, len(text))


async def test_a_call_that_breaks_off_is_a_matter_of_length() -> None:
    _, answer, calls, finish = await told(pieces_of(CALL[:50], "length"), request(), call_format="hermes")
    assert (answer, calls[0].name, finish) == ("", "look", ["length"])
    _, answer, calls, finish = await told(pieces_of(CALL[:20], "length"), request(), call_format="hermes")
    assert (answer, calls, finish) == (CALL[:20], [], ["length"])


async def test_without_tools_marks_are_text() -> None:
    asked = GenerationRequest(prompt=ChatPrompt(messages=(Message(role="user", content="Look."),)))
    assert (await told(pieces_of(CALL), asked))[1:] == (CALL, [], ["stop"])


async def test_calls_that_another_server_told_apart() -> None:
    deltas = [Delta(text="I look."), Delta(calls=(CallPiece(0, "id1", "look"),)), Delta(calls=(CallPiece(0, arguments="{}"),)), Delta(finish_reason="stop")]
    _, answer, calls, finish = await told(deltas, request())
    assert (answer, [piece.arguments for piece in calls], finish) == ("I look.", ["", "{}"], ["tool_calls"])
    whole = await whole_chat(cast("Any", Written(deltas)), request())
    assert whole.calls == [ChatCall("id1", "look", "{}")]


@pytest.mark.parametrize("usual", [0, 16])
async def test_a_preset_says_how_long_a_reply_is_where_the_request_does_not(tmp_path: Path, usual: int) -> None:
    presets = PresetService(tmp_path)
    presets.save("Short", GenerationParams(max_tokens=100, temperature=0.5))
    presets.save("Warm", GenerationParams(temperature=1.5))
    app = cast("Any", SimpleNamespace(presets=presets))

    async def most(**fields: Any) -> int:
        body = CompletionRequest(**fields)
        return (await asked_params(app, body, body.max_tokens, None, usual_tokens=usual)).max_tokens

    assert await most(preset="Short") == 100
    assert await most(preset="Short", max_tokens=7) == 7
    assert await most(preset="Warm") == await most() == usual
    assert await most(max_tokens=7) == 7
