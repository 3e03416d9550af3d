"""The page's routes for what a person chose for all conversations."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from modules.api.owner import owner
from modules.services.app import App
from modules.services.chat_preferences import ChatPreferences


def chat_preferences_router(app: App) -> APIRouter:
    """The routes of the choices."""
    router = APIRouter(prefix="/ui/chat-preferences")

    @router.get("")
    def read() -> dict[str, Any]:
        """All choices with their sentences, as the page shows them."""
        return _told(app.chat_preferences.read(owner()))

    @router.patch("")
    def change(values: dict[str, Any]) -> dict[str, Any]:
        """Change some of them."""
        return _told(app.chat_preferences.change(owner(), values))

    return router


def _told(chosen: ChatPreferences) -> dict[str, Any]:
    fields = ChatPreferences.model_fields
    return {"choices": [{"name": name, "title": field.title, "description": field.description, "value": getattr(chosen, name)} for name, field in fields.items()]}
