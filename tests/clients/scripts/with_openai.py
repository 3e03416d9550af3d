"""The `openai` package, of the major version before the one that tests/live uses."""

from __future__ import annotations

import json

import openai
from asked import (
    MAX_TOKENS,
    MESSAGES,
    SCHEMA,
    STOP,
    TEXTS,
    TOO_LONG,
    TOOL,
    UNKNOWN,
    WRONG_KEY,
    Server,
    name_of_error,
    tell,
)

server = Server()
client = openai.OpenAI(base_url=server.openai_url, api_key=server.key, max_retries=0)
stranger = openai.OpenAI(base_url=server.openai_url, api_key=WRONG_KEY, max_retries=0)
asked = {"model": server.model, "messages": list(MESSAGES), "temperature": 0, "max_tokens": MAX_TOKENS}
shape = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}

whole = client.chat.completions.create(**asked)
chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
shaped = client.chat.completions.create(**asked, response_format=shape)
tools = {"tools": [TOOL], "tool_choice": "required"}
called = client.chat.completions.create(**asked, **tools).choices[0]
parts = [chunk.choices[0].delta.tool_calls[0] for chunk in client.chat.completions.create(**asked, **tools, stream=True) if chunk.choices[0].delta.tool_calls]
# The conversation as it goes on once the tool has answered
answer = {"role": "tool", "tool_call_id": called.message.tool_calls[0].id, "content": "It rains."}
after = client.chat.completions.create(**{**asked, "messages": [*MESSAGES, called.message.to_dict(), answer]})
vectors = client.embeddings.create(model=server.model, input=list(TEXTS))
tell({
    "version": openai.__version__,
    "models": [model.id for model in client.models.list()],
    "text": whole.choices[0].message.content,
    "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "streamed_usage": [chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens],
    "pieces": len(chunks),
    "stopped": client.chat.completions.create(**asked, stop=STOP).choices[0].message.content,
    "shaped": json.loads(shaped.choices[0].message.content),
    "called": [[call.function.name, json.loads(call.function.arguments)] for call in called.message.tool_calls],
    "called streamed": [[parts[0].function.name, json.loads("".join(part.function.arguments or "" for part in parts))]],
    "after the tool": after.choices[0].message.content,
    "vectors": [row.embedding for row in vectors.data],
    "wrong key": name_of_error(lambda: stranger.chat.completions.create(**asked)),
    "unknown model": name_of_error(lambda: client.chat.completions.create(**{**asked, "model": UNKNOWN})),
    "too long": name_of_error(lambda: client.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": TOO_LONG}]})),
})
