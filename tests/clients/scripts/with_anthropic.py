"""The `anthropic` package."""

from __future__ import annotations

import json

import anthropic
from asked import (
    CITIES,
    MAX_TOKENS,
    QUESTION,
    SCHEMA,
    STOP,
    SYSTEM,
    TOO_LONG,
    UNKNOWN,
    WRONG_KEY,
    Server,
    name_of_error,
    tell,
)

server = Server()
client = anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0)
stranger = anthropic.Anthropic(base_url=server.url, api_key=WRONG_KEY, max_retries=0)
# The client has no field for the temperature any more; servers still have
asked = {
    "model": server.model, "system": SYSTEM, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": MAX_TOKENS,
    "extra_body": {"temperature": 0},
}  # fmt: skip
tools = {"tools": [{"name": "weather", "description": "The weather of a city.", "input_schema": CITIES}], "tool_choice": {"type": "any"}}


def used(message: anthropic.types.Message) -> list[int]:
    """Tokens of the prompt, wherever they came from, and of the answer."""
    return [message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0), message.usage.output_tokens]


def calls(message: anthropic.types.Message) -> list[list[object]]:
    """The tools it calls."""
    return [[block.name, block.input] for block in message.content if block.type == "tool_use"]


whole = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
with client.messages.stream(**asked, **tools) as call_stream:
    called_streamed = call_stream.get_final_message()
called = client.messages.create(**asked, **tools)
answer = {"type": "tool_result", "tool_use_id": next(block.id for block in called.content if block.type == "tool_use"), "content": "It rains."}
turns = [*asked["messages"], {"role": "assistant", "content": called.content}, {"role": "user", "content": [answer]}]
shaped = client.messages.create(**asked, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
counted = client.messages.count_tokens(model=server.model, system=SYSTEM, messages=asked["messages"])
tell({
    "models": [model.id for model in client.models.list()],
    "text": whole.content[0].text,
    "usage": used(whole),
    "counted": counted.input_tokens,
    "streamed": "".join(pieces),
    "streamed_usage": used(final),
    "pieces": len(pieces),
    "stopped": client.messages.create(**asked, stop_sequences=[STOP]).content[0].text,
    "shaped": json.loads(shaped.content[0].text),
    "called": calls(called),
    "called streamed": calls(called_streamed),
    "after the tool": client.messages.create(**{**asked, "messages": turns}).content[0].text,
    "wrong key": name_of_error(lambda: stranger.messages.create(**asked)),
    "unknown model": name_of_error(lambda: client.messages.create(**{**asked, "model": UNKNOWN})),
    "too long": name_of_error(lambda: client.messages.create(**{**asked, "messages": [{"role": "user", "content": TOO_LONG}]})),
})
