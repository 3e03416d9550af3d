"""`litellm`, which speaks to Paddock as to any server with OpenAI's routes."""

from __future__ import annotations

import json

import litellm
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
where = {"api_base": server.openai_url, "api_key": server.key, "num_retries": 0, "max_retries": 0}
asked = {**where, "model": f"openai/{server.model}", "messages": list(MESSAGES), "temperature": 0, "max_tokens": MAX_TOKENS}
shape = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}

whole = litellm.completion(**asked)
chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
shaped = litellm.completion(**asked, response_format=shape)
called = litellm.completion(**asked, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
vectors = litellm.embedding(**where, model=f"openai/{server.model}", input=list(TEXTS), encoding_format="float")
tell({
    "models": litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="openai", api_base=server.openai_url, api_key=server.key),
    "text": whole.choices[0].message.content,
    "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "streamed_usage": next([chunk.usage.prompt_tokens, chunk.usage.completion_tokens] for chunk in reversed(chunks) if getattr(chunk, "usage", None)),
    "pieces": len(chunks),
    "stopped": litellm.completion(**asked, stop=[STOP]).choices[0].message.content,
    "shaped": json.loads(shaped.choices[0].message.content),
    "called": [[call.function.name, json.loads(call.function.arguments)] for call in called],
    "vectors": [row["embedding"] for row in vectors.data],
    "wrong key": name_of_error(lambda: litellm.completion(**{**asked, "api_key": WRONG_KEY})),
    "unknown model": name_of_error(lambda: litellm.completion(**{**asked, "model": f"openai/{UNKNOWN}"})),
    "too long": name_of_error(lambda: litellm.completion(**{**asked, "messages": [{"role": "user", "content": TOO_LONG}]})),
})
