"""`langchain-openai`: ChatOpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from asked import (
    MAX_TOKENS,
    QUESTION,
    SCHEMA,
    STOP,
    SYSTEM,
    TEXTS,
    TOO_LONG,
    TOOL,
    UNKNOWN,
    WRONG_KEY,
    Server,
    name_of_error,
    tell,
)
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

server = Server()
where = {"base_url": server.openai_url, "api_key": server.key, "max_retries": 0}
settings = {**where, "model": server.model, "temperature": 0, "max_tokens": MAX_TOKENS, "stream_usage": True}
chat = ChatOpenAI(**settings)
asked = [("system", SYSTEM), ("human", QUESTION)]

whole = chat.invoke(asked)
chunks = list(chat.stream(asked))
summed = chunks[0]
for chunk in chunks[1:]:
    summed = summed + chunk
shaped = chat.with_structured_output({"title": "thing", **SCHEMA}, method="json_schema").invoke(asked)
caller = chat.bind_tools([TOOL], tool_choice="any")
called = caller.invoke(asked)
parts = list(caller.stream(asked))
together = parts[0]
for part in parts[1:]:
    together = together + part
after = chat.invoke([*asked, called, ToolMessage("It rains.", tool_call_id=called.tool_calls[0]["id"])])
# Ids of OpenAI's own tokens mean nothing to other models: its documentation turns the check of lengths off for them
embeddings = OpenAIEmbeddings(**where, model=server.model, check_embedding_ctx_length=False)
tell({
    "text": whole.content,
    "usage": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
    "streamed": summed.content,
    "streamed_usage": [summed.usage_metadata["input_tokens"], summed.usage_metadata["output_tokens"]],
    "pieces": len(chunks),
    "stopped": chat.invoke(asked, stop=[STOP]).content,
    "shaped": shaped,
    "called": [[call["name"], call["args"]] for call in called.tool_calls],
    "called streamed": [[call["name"], call["args"]] for call in together.tool_calls],
    "after the tool": after.content,
    "vectors": embeddings.embed_documents(list(TEXTS)),
    "wrong key": name_of_error(lambda: ChatOpenAI(**{**settings, "api_key": WRONG_KEY}).invoke(asked)),
    "unknown model": name_of_error(lambda: ChatOpenAI(**{**settings, "model": UNKNOWN}).invoke(asked)),
    "too long": name_of_error(lambda: chat.invoke(TOO_LONG)),
})
