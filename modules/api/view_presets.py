"""The page's route for the preset that belongs to the loaded model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.services.app import App


def presets_router(app: App) -> APIRouter:
    """The routes below /ui/presets."""
    router = APIRouter(prefix="/ui/presets")

    @router.get("/of-model")
    def of_model() -> dict[str, Any]:
        """The preset last chosen with the loaded model, null where none was."""
        mine = app.preset_choices.of_model()
        return {"model": mine.model, "preset": mine.preset} if mine else {"model": "", "preset": None}

    return router
