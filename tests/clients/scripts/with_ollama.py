"""Ollama's own client, which finds Paddock where it expects Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ollama
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
    tell,
)

server = Server()
client = ollama.Client(host=server.url, headers={"authorization": f"Bearer {server.key}"})
stranger = ollama.Client(host=server.url, headers={"authorization": f"Bearer {WRONG_KEY}"})
options = {"temperature": 0, "num_predict": MAX_TOKENS}
asked = {"model": server.model, "messages": MESSAGES, "options": options}


def status_of_error(ask: Callable[[], Any]) -> str:
    """The status that a call is refused with."""
    try:
        return f"no error but {ask()!r}"
    except ollama.ResponseError as error:
        return f"ResponseError {error.status_code}: {error.error}"


whole = client.chat(**asked)
pieces = list(client.chat(**asked, stream=True))
plain = client.generate(model=server.model, prompt=MESSAGES[1]["content"], system=MESSAGES[0]["content"], options=options)
tell({
    "models": [model.model for model in client.list().models],
    "text": whole.message.content,
    "usage": [whole.prompt_eval_count, whole.eval_count],
    "streamed": "".join(piece.message.content or "" for piece in pieces),
    "streamed_usage": [pieces[-1].prompt_eval_count, pieces[-1].eval_count],
    "pieces": len(pieces),
    "generated": plain.response,
    "stopped": client.chat(**{**asked, "options": {**options, "stop": [STOP]}}).message.content,
    "shaped": json.loads(client.chat(**asked, format=SCHEMA).message.content),
    "vectors": client.embed(model=server.model, input=list(TEXTS)).embeddings,
    # Tools are only offered: Ollama has no way to insist on a call
    "offered tools": client.chat(**asked, tools=[TOOL]).message.content,
    "wrong key": status_of_error(lambda: stranger.chat(**asked)),
    "unknown model": status_of_error(lambda: client.chat(**{**asked, "model": UNKNOWN})),
    "too long": status_of_error(lambda: client.chat(**{**asked, "messages": [{"role": "user", "content": TOO_LONG}]})),
})
