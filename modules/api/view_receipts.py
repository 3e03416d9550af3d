"""The page's routes for how a reply came about: its whole receipt, and the text that the model saw, token by token."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.api.owner import owner
from modules.services.app import App
from modules.services.receipts import changed


def receipts_router(app: App) -> APIRouter:
    """The routes below /ui/messages/ID."""
    router = APIRouter(prefix="/ui/messages")

    @router.get("/{message_id}/receipt")
    async def receipt(message_id: str) -> dict[str, Any]:
        """All that is known about a reply."""
        message = await app.conversations.message(owner(), message_id)
        return {"receipt": message.receipt, "model": message.model, "created_s": message.created_s, "changed": changed(message.receipt)}

    @router.get("/{message_id}/seen")
    async def seen(message_id: str) -> dict[str, Any]:
        """What the model saw before it wrote a reply, or would see before it answers a message."""
        return await app.seen.of(owner(), message_id)

    return router
