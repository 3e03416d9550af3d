"""The page's routes for conversations as wholes: list, make, follow, rename, pin, set up, delete."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.api.sse import stream
from modules.api.view_message_tree import OK
from modules.api.view_messages import ConversationView, MessageRendering, ViewFunctions
from modules.core.errors import InvalidRequest
from modules.services.app import App
from modules.services.conversation_settings import EntryEdits
from modules.services.storage import is_private

if TYPE_CHECKING:
    from modules.services.conversations import ConversationSummary

LIMIT = 1000  # rows of one answer
PIECE_LIMIT = 200  # messages of one answer


class NewBody(BaseModel):
    """How a conversation begins: `begin` as the person chose, otherwise with the defaults; `private`: in memory alone, until its page is closed."""

    begin: bool = False
    private: bool = False


class TitleBody(BaseModel):
    """Changes to a conversation; what is absent stays."""

    title: str | None = Field(None, min_length=1, max_length=200)
    pinned: bool | None = None
    tags: list[str] | None = Field(None, max_length=100)
    settings: dict[str, Any] | None = None
    within: dict[Literal["params", "template_variables"], EntryEdits] | None = None  # entries of settings


def conversations_router(app: App, functions: ViewFunctions) -> APIRouter:
    """The routes below /ui/conversations."""
    router = APIRouter(prefix="/ui/conversations")
    rendering = MessageRendering(functions)

    _add_lists(app, router)

    @router.post("")
    async def create(body: NewBody | None = None) -> dict[str, Any]:
        """A new conversation."""
        if body is None or not (body.begin or body.private):
            return {"id": await app.conversations.create(owner())}
        return {"id": await app.beginnings.begin(owner(), private=body.private)}

    @router.get("/{conversation_id}")
    async def read(conversation_id: str) -> dict[str, Any]:
        """One conversation with its messages as blocks."""
        return await ConversationView(app, rendering, owner(), conversation_id).snapshot()

    @router.get("/{conversation_id}/messages")
    async def messages(conversation_id: str, before: str, limit: Annotated[int, Query(ge=1, le=PIECE_LIMIT)] = 40) -> dict[str, Any]:
        """The messages that lead to one of them."""
        return {"messages": await ConversationView(app, rendering, owner(), conversation_id).before(before[:64], limit)}

    @router.patch("/{conversation_id}")
    async def change(conversation_id: str, body: TitleBody) -> dict[str, Any]:
        """Rename, pin, tag or set up."""
        await _change(app, conversation_id, body)
        return {**OK}

    @router.delete("/{conversation_id}")
    async def delete(conversation_id: str) -> dict[str, Any]:
        """Put into the bin, or forget what is private; a reply being written is stopped first."""
        return {"bin_id": await _delete(app, conversation_id)}

    @router.post("/{conversation_id}/forget")
    async def forget(conversation_id: str) -> dict[str, Any]:
        """The page that showed a private conversation is closed: nothing of it stays."""
        if not is_private(conversation_id):
            raise InvalidRequest("Only a private conversation is forgotten; this one can be deleted.")
        await _delete(app, conversation_id)
        return {**OK}

    @router.get("/{conversation_id}/events", response_model=None)
    async def events(conversation_id: str) -> Response:
        """Follow a conversation."""
        view = ConversationView(app, rendering, owner(), conversation_id)
        await app.conversations.paths.head(owner(), conversation_id)  # an unknown id is an error, not a stream
        return stream(view.events())

    return router


def _add_lists(app: App, router: APIRouter) -> None:
    @router.get("")
    async def listing(
        search: str = "", tag: str = "", character: str = "", before: str = "", limit: Annotated[int, Query(ge=1, le=LIMIT)] = 60
    ) -> dict[str, Any]:
        """Conversations, newest first; found ones when searching. `before` is the key of the last one that is known; `more` if others follow."""
        running = app.replies.running_ids()
        rows = await app.conversations.list(owner(), search[:200], tag=tag[:100], character=character[:200], before=before[:60], limit=limit + 1)
        shown = [_row(row) | {"running": row.id in running} for row in rows[:limit]]
        answer = {"conversations": shown, "more": len(rows) > limit}
        if before:
            return answer
        return answer | {"tags": await app.conversations.tags(owner()), "characters": await app.conversations.characters(owner())}

    @router.get("/{conversation_id}/line")
    async def line(conversation_id: str) -> dict[str, Any]:
        """One line of the list, of a conversation that is further down in it than the page has read."""
        row = await app.conversations.summary(owner(), conversation_id)
        return _row(row) | {"running": row.id in app.replies.running_ids()}


async def _delete(app: App, conversation_id: str) -> str:
    """The id in the bin; empty for what is gone for good."""
    await app.conversations.paths.head(owner(), conversation_id)
    await app.replies.stop(conversation_id)
    bin_id = await app.conversations.delete(owner(), conversation_id)
    if not is_private(conversation_id):
        return bin_id
    await app.conversation_bin.discard(owner(), bin_id)
    return ""


async def _change(app: App, conversation_id: str, body: TitleBody) -> None:
    if body.title is not None:
        await app.conversations.rename(owner(), conversation_id, body.title)
    if body.pinned is not None:
        await app.conversations.pin(owner(), conversation_id, body.pinned)
    if body.tags is not None:
        await app.conversations.tag(owner(), conversation_id, body.tags)
    if body.settings is not None or body.within is not None:
        await app.conversations.update_settings(owner(), conversation_id, body.settings or {}, within=body.within)


def _row(row: ConversationSummary) -> dict[str, Any]:
    """One line of the list; `snippet` is null where a search found the title only."""
    fields = ("id", "title", "updated_s", "pinned", "messages", "tags", "key")
    return {name: getattr(row, name) for name in fields} | {"snippet": asdict(row.snippet) if row.snippet else None}
