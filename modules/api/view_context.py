"""The page's routes for what goes into the prompt: how much of the context it takes, and which messages stay in it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.content import ImageAddresses, image_of
from modules.api.owner import owner
from modules.api.view_message_tree import OK, TEXT_LIMIT
from modules.services.app import App


class UnsentBody(BaseModel):
    """What is being typed, the images that wait with it, and whether what would be left out is to be listed or only counted."""

    text: str = Field("", max_length=TEXT_LIMIT)
    images: ImageAddresses = Field(default_factory=list)
    listed: bool = True


class PinBody(BaseModel):
    """A message, and whether it stays when older ones are left out."""

    message_id: str = Field(max_length=64)
    pinned: bool


def context_router(app: App) -> APIRouter:
    """The routes below /ui/conversations/ID that are about the context."""
    router = APIRouter(prefix="/ui/conversations")

    @router.post("/{conversation_id}/context")
    async def context(conversation_id: str, body: UnsentBody) -> dict[str, Any]:
        """What sending this would take; `use` is null where nobody can count."""
        images = [image_of(address) for address in body.images]
        use = await app.context.look(owner(), conversation_id, body.text, images, listed=body.listed)
        return {"use": None if use is None else {**asdict(use), "history": use.history}}

    @router.post("/{conversation_id}/summarise")
    async def summarise(conversation_id: str, body: UnsentBody) -> dict[str, Any]:
        """Have the model summarise what would be left out; it is a setting of the conversation then."""
        return {"summary": await app.summaries.summarise(owner(), conversation_id, body.text, [image_of(address) for address in body.images])}

    @router.post("/{conversation_id}/pin")
    async def pin(conversation_id: str, body: PinBody) -> dict[str, Any]:
        """Keep a message in the prompt when older ones are left out, or no longer."""
        await app.conversations.message(owner(), body.message_id, conversation_id)
        await app.conversations.pin_message(owner(), body.message_id, body.pinned)
        return {**OK}

    return router
