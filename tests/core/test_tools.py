"""Arguments of calls as models write them, which need not be JSON."""

from __future__ import annotations

from typing import Any

import pytest

from modules.api.answers import json_bytes
from modules.api.anthropic_events import whole_message
from modules.api.chat_parts import ChatCall, ChatWhole
from modules.api.ollama_writing import _calls
from modules.core.generation import CallPiece
from modules.core.tools import arguments_of


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
