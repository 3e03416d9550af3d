"""The page's routes for what was deleted: look, bring back, delete for good."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from modules.api.owner import owner
from modules.api.view_message_tree import OK
from modules.services.app import App


def conversation_bin_router(app: App) -> APIRouter:
    """The routes below /ui/bin."""
    router = APIRouter(prefix="/ui/bin")

    @router.get("")
    async def listing() -> dict[str, Any]:
        """What can be restored, the newest first."""
        return {"deleted": [asdict(row) for row in await app.conversation_bin.list(owner())]}

    @router.delete("")
    async def empty() -> dict[str, Any]:
        """Delete all of it for good."""
        return {"count": await app.conversation_bin.empty(owner())}

    @router.post("/{bin_id}/restore")
    async def restore(bin_id: str) -> dict[str, Any]:
        """Bring something back."""
        return {"conversation_id": await app.conversation_bin.restore(owner(), bin_id)}

    @router.delete("/{bin_id}")
    async def discard(bin_id: str) -> dict[str, Any]:
        """Delete something for good."""
        await app.conversation_bin.discard(owner(), bin_id)
        return {**OK}

    return router
