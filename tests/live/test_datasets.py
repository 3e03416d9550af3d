"""Data sets through the running server: a file longer than any other body, looked at, previewed, deleted; an upload that is cut off leaves nothing."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx

from modules.api.guard import JSON_LIMIT_BYTES
from tests.paddock_server import PaddockServer, wait_for

ROW = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day " * 60}]}


def names(server: PaddockServer) -> list[str]:
    return [row["name"] for row in server.ask("GET", "ui/datasets")["datasets"]]


def upload(server: PaddockServer, name: str, content: bytes) -> httpx.Response:
    return server.http.post("ui/datasets/upload", params={"name": name}, content=content)


def test_a_long_file_is_uploaded_looked_at_previewed_and_deleted(server: PaddockServer) -> None:
    line = json.dumps(ROW).encode() + b"\n"
    content = line * (JSON_LIMIT_BYTES // len(line) + 100)
    assert len(content) > JSON_LIMIT_BYTES
    assert upload(server, "talk.jsonl", content).json() == {"name": "talk.jsonl"}
    assert (server.datasets_dir / "talk.jsonl").read_bytes() == content
    assert upload(server, "talk.jsonl", content).status_code == 409
    assert server.http.post("ui/datasets/preview", content=content).status_code == 413  # no other route takes so much
    look: dict[str, Any] = server.ask("GET", "ui/datasets/look?name=talk.jsonl")
    assert (look["format"], look["problem"]) == ("messages", "")
    preview = server.ask("POST", "ui/datasets/preview", {"name": "talk.jsonl", "format": "messages", "columns": look["columns"]})
    assert preview["samples"][0]["where"] == "talk.jsonl, line 1"
    assert preview["count"] == content.count(b"\n") or not preview["is_whole"]
    assert server.ask("POST", "ui/datasets/delete", {"name": "talk.jsonl"}) == {"ok": True}
    assert "talk.jsonl" not in names(server)


def test_a_file_of_which_only_half_came_is_none(server: PaddockServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = f"POST /ui/datasets/upload?name=half.jsonl HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 4000000\r\n\r\n"
        client.sendall(head.encode() + b"x" * 3_000_000)
        wait_for(lambda: list(server.datasets_dir.glob(".*.part")), "the upload has begun")
    wait_for(lambda: not list(server.datasets_dir.glob(".*.part")), "nothing of it is left")
    assert "half.jsonl" not in names(server)
    assert "Defect" not in server.log
