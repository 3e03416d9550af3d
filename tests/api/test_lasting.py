"""What a stream ends with for somebody who is not let in any more; that it ends is seen in test_accounts.py."""

from __future__ import annotations

import re

import pytest

from modules.api.guard import Event
from modules.api.lasting import Lasting


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/v1/chat/completions", "text/event-stream", r'data: {"error":{"message":"Whoever .+","type":.+,"code":"invalid_api_key"}}\n\n'),
        ("/v1/messages", "text/event-stream; charset=utf-8", r'event: error\ndata: {"type":"error","error":{"type":"authentication_error","message":"Whoever .+"}}\n\n'),
        ("/api/chat", "application/x-ndjson", r'{"error":"Whoever .+"}\n'),
        ("/ui/jobs", "text/event-stream", ""),
        ("/v1/files", "application/octet-stream", ""),
    ],
)
async def test_a_client_of_the_api_is_told_why_nothing_more_comes(path: str, kind: str, words: str) -> None:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    async def still() -> bool:
        return False

    lasting = Lasting(send, still, {"type": "http", "path": path, "headers": []}, 0)
    await lasting.send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind.encode())]})
    await lasting.send({"type": "http.response.body", "body": b"text", "more_body": True})
    assert len(sent) == 2
    assert re.fullmatch(words, sent[1]["body"].decode())
    assert not sent[1]["more_body"]
