"""Token ids in pieces of a stream: none is lost where text is held back, thought or part of a call."""

from __future__ import annotations

from typing import Any, cast

import pytest

from modules.api.chat_choices import ChatShape
from modules.api.chat_parts import whole_chat
from modules.api.text_completions import TextShape
from modules.core.generation import Delta, Usage
from tests.api.test_chat_parts import CALL, Written, request

PROMPT = (1, 2, 3)
THOUGHT = f"It is far.\n</think>\n\nI look.\n{CALL}"


def numbered(text: str) -> list[Delta]:
    """A delta with an id of its own for each letter, then one without, then the end with another id."""
    return [*(Delta(char, (place,)) for place, char in enumerate(text)), Delta(), Delta(finish_reason="stop", usage=Usage(), end_id=999)]


@pytest.mark.parametrize("tells", [True, False])
async def test_thinking_text_and_a_call_lose_no_id(tells: bool) -> None:
    generation: Any = cast("Any", Written(numbered(THOUGHT), starts_thinking="<think>", call_format="hermes", prompt_ids=PROMPT))
    shape = ChatShape(logprobs=False, tells_ids=tells)
    read = shape.reading(0, generation, request())
    pieces = [shape.first(0), *[piece for delta in numbered(THOUGHT) for piece in read(delta)]]
    expected = [*range(len(THOUGHT)), 999]
    if not tells:
        assert not any("token_ids" in piece for piece in pieces) and shape.beside(generation) == {}
        return
    assert [token_id for piece in pieces for token_id in piece["token_ids"]] == expected
    assert any(not piece["delta"] and piece["token_ids"] for piece in pieces)  # marks of the call, which nobody is shown
    assert pieces[-1]["finish_reason"] == "tool_calls" and shape.beside(generation) == {"prompt_token_ids": [1, 2, 3]}
    choice, whole = await shape.finished(0, generation, request())
    assert whole["token_ids"] == choice.token_ids == expected == (await whole_chat(generation, request())).token_ids


async def test_text_that_is_held_back_has_its_ids_at_once() -> None:
    deltas = [Delta("", (5,)), Delta("", ()), Delta("", (6,)), Delta("ab", (7,)), Delta("", (8,)), Delta(finish_reason="length", usage=Usage())]
    for echoes, echoed in (([], []), (["Once"], [("Once", [])])):
        generation: Any = cast("Any", Written(deltas, prompt_ids=PROMPT))
        shape = TextShape(logprobs=False, echoes=echoes, prompt_logprobs=False, tells_ids=True)
        read = shape.reading(0, generation, request())
        pieces = [piece for delta in deltas for piece in read(delta)]
        assert shape.first(0) is None
        assert [(piece["text"], piece["token_ids"]) for piece in pieces] == [*echoed, ("", [5]), ("", [6]), ("ab", [7]), ("", [8]), ("", [])]
        assert [piece.get("prompt_token_ids") for piece in pieces] == [[1, 2, 3]] + [None] * (len(pieces) - 1)
        _, whole = await shape.finished(0, generation, request())
        assert (whole["token_ids"], whole["prompt_token_ids"]) == ([5, 6, 7, 8], [1, 2, 3])
