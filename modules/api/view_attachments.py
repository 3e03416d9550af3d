"""The page's routes for documents that go with the next message, and for what was read from those of all messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from modules.api.owner import owner
from modules.api.view_message_tree import OK, TEXT_LIMIT
from modules.core.errors import InvalidRequest
from modules.services.app import App

NAME_LIMIT = 1_000


class PastedBody(BaseModel):
    """A long text that was pasted."""

    text: str = Field(min_length=1, max_length=TEXT_LIMIT)


def attachments_router(app: App) -> APIRouter:
    """The routes below /ui that are about attached documents."""
    router = APIRouter(prefix="/ui")

    @router.get("/conversations/{conversation_id}/files")
    async def waiting(conversation_id: str) -> dict[str, Any]:
        """Those that go with the next message."""
        return {"files": [asdict(file) for file in await app.attachments.waiting(owner(), conversation_id)]}

    @router.post("/conversations/{conversation_id}/files")
    async def add(conversation_id: str, request: Request, name: str) -> dict[str, Any]:
        """A file as the whole body."""
        return asdict(await app.attachments.add(owner(), conversation_id, name[:NAME_LIMIT], _pieces(request)))

    @router.post("/conversations/{conversation_id}/pasted")
    async def paste(conversation_id: str, body: PastedBody) -> dict[str, Any]:
        """A long text instead of a file."""
        return asdict(await app.attachments.add_text(owner(), conversation_id, body.text))

    @router.delete("/conversations/{conversation_id}/files/{attachment_id}")
    async def remove(conversation_id: str, attachment_id: str) -> dict[str, Any]:
        """Take one back before it is sent."""
        await app.attachments.remove(owner(), conversation_id, attachment_id)
        return {**OK}

    @router.get("/files/{attachment_id}")
    async def text(attachment_id: str) -> dict[str, Any]:
        """What was read from one."""
        file, found = await app.attachments.text(owner(), attachment_id)
        return {**asdict(file), "text": found}

    return router


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives; a client that leaves is no defect."""
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise InvalidRequest("The file did not arrive whole; nothing of it was kept. Attach it again.") from error
