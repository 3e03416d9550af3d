"""The page's routes for turns: who speaks, a turn by hand, the beginning of a reply, the person's own turn written by the model, taking one back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.content import ImageAddresses, image_of
from modules.api.owner import owner
from modules.api.streamed import Streamed
from modules.api.view_message_tree import OK, TEXT_LIMIT
from modules.core.messages import FILE_LIMIT
from modules.services.app import App
from modules.services.turns import Attached


class CastBody(BaseModel):
    """Who speaks; empty: nobody in particular."""

    character: str = Field("", max_length=100)
    profile: str = Field("", max_length=100)


class TurnBody(BaseModel):
    """A turn; `begin_with` are the words that the reply to it is to begin with."""

    text: str = Field("", max_length=TEXT_LIMIT)
    role: str = Field("user", max_length=20)
    begin_with: str = Field("", max_length=TEXT_LIMIT)
    images: ImageAddresses = Field(default_factory=list)
    files: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=FILE_LIMIT)  # ids of documents that wait

    def attached(self) -> Attached:
        """What goes with it."""
        return Attached([image_of(address) for address in self.images], self.files)


def turns_router(app: App) -> APIRouter:
    """Routes below /ui/conversations/ID."""
    router = APIRouter(prefix="/ui/conversations/{conversation_id}")

    @router.post("/cast")
    async def cast(conversation_id: str, body: CastBody) -> dict[str, Any]:
        """Choose character and profile."""
        await app.turns.cast(owner(), conversation_id, body.character, body.profile)
        return {**OK}

    @router.post("/insert")
    async def insert(conversation_id: str, body: TurnBody) -> dict[str, Any]:
        """Add a turn without an answer."""
        return {"message_id": await app.turns.insert(owner(), conversation_id, body.role, body.text, body.attached())}

    @router.post("/begin")
    async def begin(conversation_id: str, body: TurnBody) -> dict[str, Any]:
        """Send, and have the reply begin with given words."""
        return {"reply_id": await app.turns.begin(owner(), conversation_id, body.text, body.begin_with, body.attached())}

    @router.post("/take-back")
    async def take_back(conversation_id: str) -> dict[str, Any]:
        """Put the person's last turn into the bin; what was in it."""
        taken = await app.turns.take_back(owner(), conversation_id)
        return {"text": taken.text, "bin_id": taken.bin_id, "images": [image.address for image in taken.images], "files": [asdict(file) for file in taken.files]}

    @router.post("/impersonate", response_model=None)
    async def impersonate(conversation_id: str, body: TurnBody) -> Streamed:
        """The person's next turn, as text that grows; a client that goes away stops it."""
        pieces = app.turns.impersonate(owner(), conversation_id, body.text)
        first = await anext(pieces, "")  # what is refused is refused before the answer begins
        return Streamed(_text(first, pieces), media_type="text/plain; charset=utf-8")

    return router


async def _text(first: str, pieces: AsyncGenerator[str]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(pieces):
        yield first.encode()
        async for piece in pieces:
            yield piece.encode()
