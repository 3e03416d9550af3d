"""The page's routes for notebooks as things: list, make, name, delete and bring back, and the versions of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.api.view_message_tree import OK, TEXT_LIMIT
from modules.core.errors import InvalidRequest
from modules.services.app import App
from modules.services.notebook_exchange import as_text
from modules.services.notebook_shelf import name_of
from modules.services.storage import is_private

NAME_LIMIT = 1000  # the service says what is too long
AS_RENDERED: Mapping[str, Any] = MappingProxyType({"add_bos": False, "parse_special": True})  # the template has written all marks


class NewBody(BaseModel):
    """A new notebook: empty, with a text, or with the messages of a conversation up to one of them, as a dialogue or as its template writes them."""

    name: str = Field("", max_length=NAME_LIMIT)
    text: str = Field("", max_length=TEXT_LIMIT)
    conversation_id: str = Field("", max_length=64)
    message_id: str = Field("", max_length=64)
    form: Literal["dialogue", "prompt"] = "dialogue"


class NameBody(BaseModel):
    """Another name."""

    name: str = Field(max_length=NAME_LIMIT)


def notebooks_router(app: App) -> APIRouter:
    """The routes below /ui/notebooks."""
    router = APIRouter(prefix="/ui/notebooks")
    shelf = app.notebook.shelf

    @router.get("")
    async def listing(search: str = "", deleted: bool = False) -> dict[str, Any]:
        """Notebooks, the last opened first; found ones when searching; those in the bin."""
        fields = ("id", "characters", "updated_s", "deleted_s")
        rows = await shelf.list(owner(), search[:200], deleted=deleted)
        return {"notebooks": [{**{name: getattr(row, name) for name in fields}, "name": name_of(row.name, row.beginning)} for row in rows]}

    @router.post("")
    async def create(body: NewBody) -> dict[str, Any]:
        """A new notebook."""
        if body.conversation_id:
            return await _from_conversation(app, body)
        return {"id": await shelf.create(owner(), body.name, body.text)}

    @router.patch("/{notebook_id}")
    async def rename(notebook_id: str, body: NameBody) -> dict[str, Any]:
        """Another name; an empty one is that of the first words."""
        await shelf.rename(owner(), notebook_id, body.name)
        return {**OK}

    @router.delete("/{notebook_id}")
    async def delete(notebook_id: str) -> dict[str, Any]:
        """Into the bin; what is being written is stopped first."""
        await app.notebook.stop(owner(), notebook_id)
        await shelf.delete(owner(), notebook_id)
        return {**OK}

    @router.post("/{notebook_id}/restore")
    async def restore(notebook_id: str) -> dict[str, Any]:
        """Out of the bin."""
        await shelf.restore(owner(), notebook_id)
        return {**OK}

    @router.get("/{notebook_id}/versions")
    async def versions(notebook_id: str) -> dict[str, Any]:
        """The texts it had, newest first, each with what is new in it."""
        fields = ("number", "kind", "text", "begin", "characters", "created_s")
        return {"versions": [{name: getattr(row, name) for name in fields} for row in await shelf.versions(owner(), notebook_id)]}

    @router.get("/{notebook_id}/versions/{number}")
    async def version(notebook_id: str, number: int) -> dict[str, Any]:
        """One of them as a whole."""
        return {"text": (await shelf.version(owner(), number, notebook_id)).text}

    @router.post("/{notebook_id}/versions/{number}/restore")
    async def restore_version(notebook_id: str, number: int) -> dict[str, Any]:
        """Go back to one of them."""
        return await app.notebook.restore_version(owner(), number, notebook_id)

    return router


async def _from_conversation(app: App, body: NewBody) -> dict[str, Any]:
    conversation = await app.conversations.read(owner(), body.conversation_id)
    if is_private(conversation.id):
        raise InvalidRequest("A notebook is kept on the server, so a private conversation makes none. Copy the text if you want to keep it.", field="conversation_id")
    name = body.name or conversation.title
    if body.form == "dialogue":
        return {"id": await app.notebook.shelf.create(owner(), name, as_text(conversation.messages, body.message_id))}
    await app.conversations.message(owner(), body.message_id, body.conversation_id)
    found = await app.seen.written_out(owner(), body.message_id)
    return {"id": await app.notebook.shelf.create(owner(), name, found.text, AS_RENDERED), "dropped": found.dropped, "images": found.images}
