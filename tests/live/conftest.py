"""The running server and what talks to it: one server with page and starter model for all tests that leave it as they found it.

Tests that break things start a server of their own over the same files.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from tests.paddock_server import PaddockServer
from tests.sparse_models import write_sparse_gguf

SLOW = "slow.gguf"
SLOW_CONTEXT = 8192
SLOW_SLOTS = 2


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, starter_gguf: Path) -> Path:
    """Copies of the starter model, and a model that takes ten seconds to read a long prompt."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(starter_dir, folder / "starter")
    write_sparse_gguf(folder / SLOW, starter_gguf, layers=6, width=512, context_length=SLOW_CONTEXT)
    return folder


@pytest.fixture(scope="session")
def loras_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """Page and API, the starter model with eight slots."""
    running = PaddockServer(
        tmp_path_factory.mktemp("server"), models_dir, loras_dir, "--model", "starter/starter-Q8_0.gguf", "--option", "slots=8"
    )
    yield running
    running.close()


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """A model that reads a long prompt for ten seconds and writes a long reply for as long."""
    flags = ("--no-ui", "--model", SLOW, "--option", f"slots={SLOW_SLOTS}")
    running = PaddockServer(tmp_path_factory.mktemp("slow"), models_dir, loras_dir, *flags, model=SLOW)
    yield running
    running.close()


def client_of(server: PaddockServer) -> openai.OpenAI:
    """The official client, which must not hide a failure by asking again."""
    return openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0, timeout=60)


def async_client_of(server: PaddockServer) -> openai.AsyncOpenAI:
    """The same for many at a time."""
    return openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def client(server: PaddockServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(server: PaddockServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_client_of(server) as client:
        yield client
