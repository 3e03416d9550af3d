"""Replies at the ends of things: a server that is killed or stops, a model that is still loading or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from modules.core.settings import PROJECT_ROOT
from modules.services.app import App
from modules.services.conversations import ConversationService
from modules.services.storage import Storage
from modules.store.messages import INTERRUPTED
from tests.services.conftest import FOLDERS, ONE, WRITING, engine_pids, until
from tests.services.reply_steps import ANN, ENDLESS, ended, growing, talk

pytestmark = pytest.mark.processes
WRITER = """
import asyncio, json, sys, time
from pathlib import Path
from modules.core.settings import Settings
from modules.services.app import build_app

async def main():
    app = build_app(Settings(**json.loads(sys.argv[1])))
    await app.start()
    await app.models.get()
    settings = {"preset": "", "params": {"temperature": 0, "ban_eos": True, "max_tokens": 300}}
    places = [await app.conversations.create("ann", settings)]
    for _ in range(3):
        await app.conversations.append("ann", places[-1], None, "user", "begin")
        places.append(await app.conversations.create("ann", settings))
    while True:
        for place in places:
            if app.replies.running(place) is None:
                await app.replies.send("ann", place, "Go on.")
        running = [app.replies.running(place) for place in places]
        print(json.dumps([time.monotonic(), {reply.id: len(reply.text) for reply in running if reply}]), flush=True)
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
async def test_kill_9_of_the_server_loses_at_most_the_last_second(tmp_path: Path, model_files: Path) -> None:
    folders = {name: str(tmp_path / name) for name in FOLDERS}
    values = json.dumps({"models_dir": str(model_files), "model": ONE, "options": WRITING, **folders})
    writer = subprocess.Popen([sys.executable, "-c", WRITER, values], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen: list[tuple[float, dict[str, int]]] = []
    while not seen or seen[-1][0] - seen[0][0] < 2.5:
        line = writer.stdout.readline()
        assert line, "the writer ended by itself"
        seen.append(tuple(json.loads(line)))
    engines = psutil.Process(writer.pid).children()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    seen += [tuple(json.loads(line)) for line in writer.stdout if line.endswith("\n")]
    writer.stdout.close()
    assert psutil.wait_procs(engines, timeout=10)[1] == [], "an engine outlived its server"
    storage = Storage(tmp_path / "state_dir")
    service = ConversationService(storage)
    kept = {message.id: message for line in await service.list(ANN) for message in (await service.read(ANN, line.id)).messages}
    await storage.close()
    saved_s = seen[-1][0] - 1.5  # a second, and what the saving itself takes on a busy machine
    expected: dict[str, int] = {}
    for at_s, lengths in seen:
        expected |= lengths if at_s <= saved_s else {}
    assert sum(expected.values()) > 100
    assert {name: size for name, size in expected.items() if len(kept[name].content) < size} == {}
    interrupted = [message for message in kept.values() if message.status != "complete"]
    assert interrupted
    assert {(message.status, message.error) for message in interrupted} == {("stopped", INTERRUPTED)}


async def test_a_server_that_stops_keeps_the_text(start_app: Callable[..., App], tmp_path: Path) -> None:
    app = start_app(model=ONE, options=WRITING)
    await app.start()
    conversation_id = await talk(app, ENDLESS)
    await app.replies.send(ANN, conversation_id, "Tell me a story.")
    reply = await growing(app, conversation_id)
    await app.close()
    storage = Storage(tmp_path / "state_dir")
    last = (await ConversationService(storage).read(ANN, conversation_id)).messages[-1]
    await storage.close()
    assert (last.status, last.error, last.content) == ("stopped", "", reply.text)
    assert len(last.content) >= 20


async def test_stop_while_the_model_is_still_loading(start_app: Callable[..., App]) -> None:
    app = start_app(model=ONE, options=WRITING)
    await app.start()
    conversation_id = await talk(app)
    await app.replies.send(ANN, conversation_id, "Hi")
    await until(lambda: bool(list(engine_pids())) and app.models.status().loading is not None)
    await app.replies.stop(conversation_id)
    last = await ended(app, conversation_id)
    assert (last.status, last.content, last.error) == ("stopped", "", "")
    await app.models.get()
    await app.replies.send(ANN, conversation_id, "And now?")
    assert (await ended(app, conversation_id)).status == "complete"


async def test_without_a_model_the_reply_says_what_to_do(start_app: Callable[..., App]) -> None:
    app = start_app()
    conversation_id = await talk(app)
    await app.replies.send(ANN, conversation_id, "Hi")
    last = await ended(app, conversation_id)
    assert (last.status, last.content) == ("failed", "")
    assert "Open the Models page and load one" in last.error
