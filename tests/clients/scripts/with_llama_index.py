"""`llama-index`: OpenAILike and OpenAILikeEmbedding."""

import json
from typing import Literal

from asked import (
    MAX_TOKENS,
    MESSAGES,
    SCHEMA,
    STOP,
    TEXTS,
    TOO_LONG,
    UNKNOWN,
    WRONG_KEY,
    Server,
    name_of_error,
    tell,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

server = Server()
where = {"api_base": server.openai_url, "api_key": server.key, "max_retries": 0}
settings = {**where, "model": server.model, "is_chat_model": True, "is_function_calling_model": True, "context_window": 1024, "temperature": 0, "max_tokens": MAX_TOKENS}
chat = OpenAILike(**settings)
asked = [ChatMessage(role=message["role"], content=message["content"]) for message in MESSAGES]
shape = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}


def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"In {city} it rains."


whole = chat.chat(asked)
pieces = list(chat.stream_chat(asked))
plain = OpenAILike(**{**settings, "is_chat_model": False, "max_tokens": 8}).complete("Once upon a time")
called = chat.chat_with_tools([FunctionTool.from_defaults(fn=weather)], user_msg=asked[1], chat_history=asked[:1], tool_required=True)
embedding = OpenAILikeEmbedding(**where, model_name=server.model)
tell({
    "text": whole.message.content,
    "usage": [whole.raw.usage.prompt_tokens, whole.raw.usage.completion_tokens],
    "streamed": "".join(piece.delta or "" for piece in pieces),
    "pieces": len(pieces),
    "stopped": chat.chat(asked, stop=[STOP]).message.content,
    "continued": plain.text,
    "shaped": json.loads(chat.chat(asked, response_format=shape).message.content),
    "called": [[call.tool_name, call.tool_kwargs] for call in chat.get_tool_calls_from_response(called)],
    "vectors": embedding.get_text_embedding_batch(list(TEXTS)),
    "wrong key": name_of_error(lambda: OpenAILike(**{**settings, "api_key": WRONG_KEY}).chat(asked)),
    "unknown model": name_of_error(lambda: OpenAILike(**{**settings, "model": UNKNOWN}).chat(asked)),
    "too long": name_of_error(lambda: chat.chat([ChatMessage(role="user", content=TOO_LONG)])),
})
