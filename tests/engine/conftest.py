"""Fixtures for the engine: engines over the fake runner, and clients of children with it."""

from __future__ import annotations

import pytest

from modules.engine.client import EngineClient
from modules.engine.engine import Engine
from tests.engine.client_steps import COMMAND
from tests.fakes import ByteTokenizer, FakeRunner, Inbox


@pytest.fixture
async def start():
    clients = []

    async def begin(setup=None, **options) -> EngineClient:
        client = await EngineClient.start("fake.gguf", "", options, name="Tiny", command=COMMAND, **(setup or {}))
        clients.append(client)
        return client

    yield begin
    for client in clients:
        await client.close()
        assert not client.alive


@pytest.fixture
def bench():
    """Starts engines over fake runners and ends them."""
    engines = []

    def start(runner: FakeRunner | None = None, tokenizer: ByteTokenizer | None = None, **options) -> tuple[Engine, FakeRunner, Inbox]:
        inbox, runner = Inbox(), runner or FakeRunner()
        engines.append((Engine(runner, tokenizer or ByteTokenizer(), inbox, **options), runner))
        return engines[-1][0], runner, inbox

    yield start
    for engine, runner in engines:
        runner.gate = None
        for _ in range(5):
            runner.entered.release()
        assert engine.close()
        assert runner.closed
