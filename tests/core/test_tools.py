"""Arguments of calls as models write them, which need not be JSON."""

from __future__ import annotations

import time
from typing import Any

import pytest

from modules.api.answers import json_bytes
from modules.api.anthropic_events import whole_message
from modules.api.chat_parts import ChatCall, ChatWhole
from modules.api.ollama_writing import _calls
from modules.core.generation import CallPiece
from modules.core.messages import Message
from modules.core.tools import arguments_of, with_names


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a": [1, "b"]}', {"a": [1, "b"]}), ("", {}), ("[1]", None), ('{"a": ', None), ('{"a": NaN}', None), ('{"a": -Infinity}', None), ('{"a": 1e999}', None),
        ("[" * 5000, None), ('{"a":' + "9" * 5000 + "}", None),
    ],
)  # fmt: skip
def test_what_is_no_object_of_json_is_none_and_every_answer_can_be_sent(written: str, read: dict[str, Any] | None) -> None:
    assert arguments_of(written) == read
    message = whole_message({}, ChatWhole(finish_reason="tool_calls", calls=[ChatCall("1", "look", written)]), ())
    assert message["content"][0]["input"] == ({"arguments": written} if read is None else read) and json_bytes(message)
    calls = _calls([CallPiece(0, "1", "look"), CallPiece(0, arguments=written)])
    assert calls == ([] if read is None else [{"function": {"name": "look", "arguments": read}}]) and json_bytes(calls)


def test_thousands_of_answers_find_their_calls_at_once() -> None:
    """Each looked through all calls without an answer: ten thousand in reverse order held up everybody for seconds."""
    count = 20_000
    calls = tuple({"id": f"c{number}", "type": "function", "function": {"name": f"f{number % 2}", "arguments": "{}"}} for number in range(count))
    answers = [Message(role="tool", content="x", tool_call_id=f"c{number}") for number in reversed(range(count))]
    begun_s = time.thread_time()
    found = with_names([Message(role="assistant", tool_calls=calls), *answers])
    assert time.thread_time() - begun_s < 3
    assert [message.name for message in found[1:4]] == ["f1", "f0", "f1"]


def test_an_answer_takes_one_call_and_no_other_answer_takes_it_again() -> None:
    calls = tuple({"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}} for call_id, name in (("a", "look"), ("b", "now"), ("a", "now"), ("c", "look")))
    asked: tuple[tuple[str | None, str | None], ...] = (("a", None), (None, "look"), (None, None), ("b", None), ("a", None), ("a", None), (None, None))
    found = with_names([Message(role="assistant", tool_calls=calls), *(Message(role="tool", tool_call_id=call_id, name=name) for call_id, name in asked)])
    assert [(message.tool_call_id, message.name) for message in found[1:]] == [
        ("a", "look"), ("c", "look"), ("b", "now"), ("b", None), ("a", "now"), ("a", None), (None, None),
    ]  # fmt: skip
