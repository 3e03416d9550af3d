"""Gradio's real queue with our loop: events begin when they come and when one before them has ended, and nothing is looked for in between."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from modules.ui import event_queue
from modules.ui.event_queue import EventQueue

LATE_S = 25.0


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def client(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(event_queue, "LOOK_S", LATE_S)  # what is not told is found so late that it is seen below

    def answer(word: str) -> str:
        assert gate.wait(20)
        return word.upper()

    with gr.Blocks(analytics_enabled=False) as page:
        word = gr.Textbox()
        gr.Button().click(answer, word, word, concurrency_limit=1)
    page.queue()
    EventQueue.instead_of(page._queue)
    api = gr.mount_gradio_app(FastAPI(), page, path="/")
    with TestClient(api) as running:
        begun_s = time.monotonic()
        yield running
        page._queue.close()
        assert time.monotonic() - begun_s < LATE_S, "an event was found by looking for it, not by being told of it"


def joined(client: TestClient, word: str) -> None:
    told = client.post("/gradio_api/queue/join", json={"fn_index": 0, "data": [word], "session_hash": word})
    assert told.status_code == 200


def answered(client: TestClient, word: str) -> object:
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": word}) as stream:
        for line in stream.iter_lines():
            told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if told.get("msg") == "process_completed":
                return told["output"]["data"]
    return None


def test_an_event_begins_when_it_comes(client: TestClient, gate: threading.Event) -> None:
    gate.set()
    for word in ("trot", "canter"):
        joined(client, word)
        assert answered(client, word) == [word.upper()]


def test_one_that_has_no_place_begins_when_another_ends(client: TestClient, gate: threading.Event) -> None:
    for word in ("walk", "trot", "canter"):
        joined(client, word)
    gate.set()
    assert [answered(client, word) for word in ("walk", "trot", "canter")] == [["WALK"], ["TROT"], ["CANTER"]]
