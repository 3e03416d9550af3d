"""What the tests of conversations do again and again, on a store of their own."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.core.messages import Image
from modules.services.conversations import ConversationService
from modules.services.storage import Storage

ANN, BOB = "ann", "bob"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ConversationService]:
    storage = Storage(tmp_path / "state")
    yield ConversationService(storage)
    await storage.close()


async def talk(service: ConversationService, *texts: str) -> tuple[str, list[str]]:
    """A conversation of alternating user and assistant messages; its id and theirs."""
    conversation_id = await service.create(ANN)
    ids: list[str] = []
    for place, text in enumerate(texts):
        role = "assistant" if place % 2 else "user"
        ids.append((await service.append(ANN, conversation_id, ids[-1] if ids else None, role, text)).id)
    return conversation_id, ids


async def shown(service: ConversationService, conversation_id: str) -> list[str]:
    return [message.content for message in (await service.read(ANN, conversation_id)).messages]


def image(file: bytes) -> Image:
    return Image(kind="png", data=base64.b64encode(file).decode())
