"""GET /v1/internal/requests: who runs and who waits, at which place and for about how long, and what the last ones took. Nothing of what was asked or answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from modules.api.errors import documented_errors
from modules.api.timings import timings
from modules.api.view_usage import account_names
from modules.core.person import asking
from modules.services.app import App
from modules.services.meters import Timeline
from modules.services.queues import Asked


def _ended(timeline: Timeline) -> dict[str, Any]:
    usage = timeline.usage
    return {
        "model": timeline.model,
        "ended": round(timeline.ended_s, 3),
        "outcome": timeline.outcome,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "first_token_ms": None if timeline.first_token_s is None else round(timeline.first_token_s * 1000, 3),
        "timings": timings([usage], [usage]),
    }


def _told(asked: Asked, expected_s: float | None, names: Mapping[str, str] | None) -> dict[str, Any]:
    generation = asked.generation
    return {
        "id": asked.answer_id,
        "model": asked.model,
        "status": "running" if asked.runs else "waiting",
        "place": asked.place,
        "expected_wait_s": None if expected_s is None else round(expected_s, 1),
        "age_s": round(time.time() - asked.asked_s, 1),
        "completion_tokens": generation.tokens if generation is not None else 0,
        **({"person": names.get(asked.person, asked.person)} if names is not None else {}),
    }


def requests_router(app: App) -> APIRouter:
    """The route over an `App`."""
    router = APIRouter(prefix="/v1/internal", responses=documented_errors())

    @router.get("/requests")
    async def read(model: str = "") -> dict[str, Any]:
        """The last requests that have ended, the newest first, gone when the server stops; and those that run or wait now: one's own, or all for who manages the server and where nobody is told apart."""
        who = asking()
        names = await account_names(app) if who is None or who.manages else None
        shown = [asked for asked in app.queues.rows() if model in ("", asked.model)]
        now = [_told(asked, app.queues.expected_s(asked.model, asked.place), names) for asked in shown]
        return {"now": now, "requests": [_ended(timeline) for timeline in app.meters.recent(model)]}

    return router
