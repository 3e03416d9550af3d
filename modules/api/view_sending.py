"""The page's routes for what is said: send, regenerate, continue, texts and images of messages, and a tab that goes away meanwhile."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.api.content import ImageAddresses, image_of
from modules.api.owner import owner
from modules.api.view_message_tree import OK, TEXT_LIMIT, MessageBody
from modules.core.errors import NotFound
from modules.core.messages import FILE_LIMIT
from modules.services.app import App
from modules.services.replies import VERSIONS_LIMIT

LEFT = "It stopped when the last page that showed it was closed; the text so far was kept. Continue it, or start Paddock with --no-stop-when-closed."


class SendBody(BaseModel):
    """A message to send."""

    text: str = Field(max_length=TEXT_LIMIT)
    settings: dict[str, Any] | None = None
    images: ImageAddresses = Field(default_factory=list)
    files: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=FILE_LIMIT)  # ids of documents that wait
    versions: int = Field(1, ge=1, le=VERSIONS_LIMIT)  # replies written at the same time, to choose from


class VersionsBody(BaseModel):
    """Other versions of a message."""

    message_id: str = Field(max_length=64)
    versions: int = Field(1, ge=1, le=VERSIONS_LIMIT)


def sending_router(app: App) -> APIRouter:
    """The routes that read messages and ask for replies."""
    router = APIRouter(prefix="/ui")

    @router.get("/messages/{message_id}/text")
    async def text(message_id: str) -> dict[str, Any]:
        """The text of a message as written."""
        return {"text": await app.conversations.message_text(owner(), message_id)}

    @router.get("/messages/{message_id}/images/{place}", response_model=None)
    async def image(message_id: str, place: int) -> Response:
        """An image of a message; it never changes."""
        kind, file = await app.conversations.image(owner(), message_id, place)
        return Response(file, media_type=f"image/{kind}", headers={"cache-control": "private, max-age=31536000, immutable"})

    @router.post("/conversations/{conversation_id}/send")
    async def send(conversation_id: str, body: SendBody) -> dict[str, Any]:
        """Send a message and start the reply."""
        if body.settings is not None:
            await app.conversations.update_settings(owner(), conversation_id, body.settings)
        images = [image_of(address) for address in body.images]
        user_id, reply_id = await app.replies.send(owner(), conversation_id, body.text, images, files=body.files, versions=body.versions)
        return {"user_id": user_id, "reply_id": reply_id}

    @router.post("/conversations/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: VersionsBody) -> dict[str, Any]:
        """Another version of a reply, or several to choose from."""
        return {"reply_id": await app.replies.regenerate(owner(), conversation_id, body.message_id, versions=body.versions)}

    @router.post("/conversations/{conversation_id}/replay")
    async def replay(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """A reply written again from its receipt."""
        return {"reply_id": await app.replies.replay(owner(), conversation_id, body.message_id)}

    @router.post("/conversations/{conversation_id}/pick")
    async def pick(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Go on with one of the versions written together."""
        await app.replies.pick(owner(), conversation_id, body.message_id)
        return {**OK}

    @router.post("/conversations/{conversation_id}/continue")
    async def extend(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Let a reply grow."""
        return {"reply_id": await app.replies.extend(owner(), conversation_id, body.message_id)}

    return router


def leaving_router(app: App) -> APIRouter:
    """What a tab says when it goes away while a reply is being written, and asks when it comes back."""
    router = APIRouter(prefix="/ui")

    @router.get("/conversations/{conversation_id}/there")
    async def there(conversation_id: str) -> dict[str, Any]:
        """Whether a conversation that was open before still exists."""
        try:
            await app.conversations.paths.head(owner(), conversation_id)
        except NotFound:
            return {"there": False}
        return {"there": True}

    @router.post("/conversations/{conversation_id}/left")
    async def left_conversation(conversation_id: str) -> dict[str, Any]:
        """A tab that showed a reply being written is gone."""
        await app.conversations.paths.head(owner(), conversation_id)
        if app.settings.stop_when_closed and await app.followers.left(conversation_id):
            await app.replies.stop(conversation_id, LEFT)
        return {**OK}

    return router
