"""The page's routes for what a person does with a message: edit, show another version, rate, branch, delete, stop."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.services.app import App

TEXT_LIMIT = 2_000_000
OK: Mapping[str, bool] = MappingProxyType({"ok": True})


class MessageBody(BaseModel):
    """An action on a message."""

    message_id: str = Field(max_length=64)
    text: str = Field("", max_length=TEXT_LIMIT)
    resend: bool = False


class RatingBody(BaseModel):
    """What a person thinks of a reply: good (1), bad (-1), nothing (0)."""

    message_id: str = Field(max_length=64)
    rating: Literal[-1, 0, 1]


def message_tree_router(app: App) -> APIRouter:
    """The routes below /ui/conversations/ID that change versions, branches and ratings."""
    router = APIRouter(prefix="/ui")

    @router.post("/conversations/{conversation_id}/edit")
    async def edit(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """A new version of a message, and with `resend` an answer to it."""
        if body.resend:
            message_id, reply_id = await app.replies.resend(owner(), conversation_id, body.message_id, body.text)
            return {"message_id": message_id, "reply_id": reply_id}
        await app.conversations.message(owner(), body.message_id, conversation_id)
        message = await app.conversations.add_version(owner(), body.message_id, body.text)
        return {"message_id": message.id, "reply_id": None}

    @router.post("/conversations/{conversation_id}/select")
    async def select(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Show another version."""
        await app.conversations.message(owner(), body.message_id, conversation_id)
        await app.conversations.select_version(owner(), body.message_id)
        return {**OK}

    @router.post("/conversations/{conversation_id}/rate")
    async def rate(conversation_id: str, body: RatingBody) -> dict[str, Any]:
        """Find a reply good or bad, or take that back."""
        await app.conversations.message(owner(), body.message_id, conversation_id)
        await app.conversations.rate(owner(), body.message_id, body.rating)
        return {**OK}

    @router.post("/conversations/{conversation_id}/branch")
    async def branch(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Copy the history up to a message."""
        await app.conversations.message(owner(), body.message_id, conversation_id)
        return {"id": await app.conversations.branch(owner(), body.message_id)}

    @router.post("/conversations/{conversation_id}/delete")
    async def delete(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Put a message and what follows it into the bin."""
        await app.conversations.message(owner(), body.message_id, conversation_id)
        await app.replies.stop_below(owner(), conversation_id, body.message_id)
        return {"bin_id": await app.conversations.delete_message(owner(), body.message_id)}

    @router.post("/conversations/{conversation_id}/stop")
    async def stop(conversation_id: str) -> dict[str, Any]:
        """Stop the reply being written."""
        await app.conversations.paths.head(owner(), conversation_id)
        await app.replies.stop(conversation_id)
        return {**OK}

    return router
