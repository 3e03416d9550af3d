"""The page's route for the figures of a loaded model: what its engine counts, and its last requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.core.generation import figures
from modules.services.app import App
from modules.services.meters import Timeline
from modules.services.receipts import cost

SHOWN_REQUESTS = 8


def _told(timeline: Timeline) -> dict[str, Any]:
    return {"ended_s": timeline.ended_s, "outcome": timeline.outcome, "cost": cost(timeline.usage)}


def figures_router(app: App) -> APIRouter:
    """The route /ui/figures."""
    router = APIRouter(prefix="/ui")

    @router.get("/figures")
    async def read(model: str) -> dict[str, Any]:
        """What a loaded model is doing and has done since it was loaded."""
        counters = await app.generation.counters(model)
        rows = [{"name": figure.name, "meaning": figure.meaning, "value": getattr(counters, figure.name)} for figure in figures()]
        return {"figures": rows, "requests": [_told(timeline) for timeline in app.meters.recent(model)[:SHOWN_REQUESTS]]}

    return router
