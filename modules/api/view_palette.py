"""What the palette offers besides conversations and models, which the page knows anyway."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.services.app import App


def palette_router(app: App) -> APIRouter:
    """The route of the palette."""
    router = APIRouter(prefix="/ui/palette")

    @router.get("")
    def offers() -> dict[str, Any]:
        """Names of the presets that can be chosen."""
        return {"presets": [row.name for row in app.presets.list() if not row.problem]}

    return router
