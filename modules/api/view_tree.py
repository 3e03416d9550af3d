"""The page's route for the map of a conversation: every message with its first words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from modules.api.owner import owner
from modules.core.messages import split_thinking
from modules.services.app import App

WORDS_CUT = 90


def tree_router(app: App) -> APIRouter:
    """The route below /ui/conversations/ID."""
    router = APIRouter(prefix="/ui/conversations")

    @router.get("/{conversation_id}/tree")
    async def tree(conversation_id: str) -> dict[str, Any]:
        """All messages, oldest first, and the ids of those shown, first message first."""
        found = await app.conversations.outline(owner(), conversation_id)
        rows = [asdict(row) | {"words": _words(row.beginning)} for row in found.rows]
        for row in rows:
            del row["beginning"]
        return {"messages": rows, "shown": list(found.shown)}

    return router


def _words(beginning: str) -> str:
    """The first words of an answer; of its thinking where nothing else is in sight."""
    thought = split_thinking(beginning)
    words = " ".join((thought.answer or thought.thinking).split())
    return words if len(words) <= WORDS_CUT else words[:WORDS_CUT].rpartition(" ")[0] + "…"
