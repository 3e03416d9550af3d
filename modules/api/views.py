"""The page's own routes: JSON for actions, server-sent events for what is being written.

Message bodies leave as safe HTML blocks made by functions that server.py passes in (`ViewFunctions`), so this package needs nothing of the page's.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from modules.api.content import ImageAddresses, image_of
from modules.api.owner import OWNER
from modules.api.sse import frame, stream
from modules.api.view_adapters import adapters_router
from modules.api.view_hub import hub_routers
from modules.api.view_library import library_routers
from modules.api.view_messages import PING_S, ConversationView, ViewFunctions
from modules.api.view_remote import remote_router
from modules.core.errors import EngineCrashed, NoModelLoaded, NotFound
from modules.core.files import checked_name
from modules.core.model import AdapterChoices
from modules.services.app import App

NOTEBOOK = f"notebook/{OWNER}"  # as followers know it
TEXT_LIMIT = 2_000_000


class TitleBody(BaseModel):
    """Changes to a conversation; what is absent stays."""

    title: str | None = Field(None, min_length=1, max_length=200)
    pinned: bool | None = None
    settings: dict[str, Any] | None = None


class SendBody(BaseModel):
    """A message to send."""

    text: str = Field(max_length=TEXT_LIMIT)
    settings: dict[str, Any] | None = None
    images: ImageAddresses = Field(default_factory=list)


class MessageBody(BaseModel):
    """An action on a message."""

    message_id: str = Field(max_length=64)
    text: str = Field("", max_length=TEXT_LIMIT)
    resend: bool = False


class TextBody(BaseModel):
    """A text to count or to look ahead from."""

    text: str = Field(max_length=TEXT_LIMIT)
    count: int = Field(10, ge=1, le=20)
    adapters: AdapterChoices | None = None  # None: those in use on the model


class NotebookSettings(BaseModel):
    """How the notebook is written on."""

    preset: str = Field("", max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    adapters: AdapterChoices | None = None


class NotebookBody(BaseModel):
    """The notebook's text and how to go on from it."""

    text: str = Field("", max_length=TEXT_LIMIT)
    rev: int | None = None
    settings: NotebookSettings = Field(default_factory=NotebookSettings)


OK: Mapping[str, bool] = MappingProxyType({"ok": True})


def view_routers(app: App, functions: ViewFunctions) -> tuple[APIRouter, ...]:
    """All routes below /ui."""
    return (
        _conversations(app, functions),
        _conversation_files(app, functions),
        _messages(app),
        _message_tree(app),
        _leaving(app),
        _notebook(app),
        _small(app, functions),
        *hub_routers(app, functions),
        remote_router(app),
        *library_routers(app),
        adapters_router(app),
    )


def _conversations(app: App, functions: ViewFunctions) -> APIRouter:
    router = APIRouter(prefix="/ui/conversations")

    @router.get("")
    async def listing(search: str = "") -> dict[str, Any]:
        """Conversations, newest first; found ones when searching."""
        running = app.replies.running_ids()
        rows = await app.conversations.list(OWNER, search[:200])
        fields = ("id", "title", "updated_s", "pinned", "messages")
        return {"conversations": [{**{name: getattr(row, name) for name in fields}, "running": row.id in running} for row in rows]}

    @router.post("")
    async def create() -> dict[str, Any]:
        """A new conversation."""
        return {"id": await app.conversations.create(OWNER)}

    @router.get("/{conversation_id}")
    async def read(conversation_id: str) -> dict[str, Any]:
        """One conversation with its messages as blocks."""
        return await ConversationView(app, functions, OWNER, conversation_id).snapshot()

    @router.patch("/{conversation_id}")
    async def change(conversation_id: str, body: TitleBody) -> dict[str, Any]:
        """Rename, pin or set up."""
        if body.title is not None:
            await app.conversations.rename(OWNER, conversation_id, body.title)
        if body.pinned is not None:
            await app.conversations.pin(OWNER, conversation_id, body.pinned)
        if body.settings is not None:
            await app.conversations.update_settings(OWNER, conversation_id, body.settings)
        return {**OK}

    @router.delete("/{conversation_id}")
    async def delete(conversation_id: str) -> dict[str, Any]:
        """Delete; a reply being written is stopped first."""
        await app.conversations.read(OWNER, conversation_id)
        await app.replies.stop(conversation_id)
        await app.conversations.delete(OWNER, conversation_id)
        return {**OK}

    return router


def _conversation_files(app: App, functions: ViewFunctions) -> APIRouter:
    router = APIRouter(prefix="/ui/conversations")

    @router.post("/import")
    async def import_(body: dict[str, Any]) -> dict[str, Any]:
        """A conversation from an exported file."""
        return {"id": await app.conversations.import_(OWNER, body)}

    @router.get("/{conversation_id}/export")
    async def export(conversation_id: str) -> JSONResponse:
        """The whole tree as a file."""
        content = await app.conversations.export(OWNER, conversation_id)
        headers = {"content-disposition": f'attachment; filename="conversation-{conversation_id[:40]}.json"'}
        return JSONResponse(content, headers=headers)

    @router.get("/{conversation_id}/events", response_model=None)
    async def events(conversation_id: str) -> Response:
        """Follow a conversation."""
        view = ConversationView(app, functions, OWNER, conversation_id)
        await app.conversations.read(OWNER, conversation_id)  # an unknown id is an error, not a stream
        return stream(view.events())

    return router


def _messages(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui")

    @router.get("/messages/{message_id}/text")
    async def text(message_id: str) -> dict[str, Any]:
        """The text of a message as written."""
        return {"text": await app.conversations.message_text(OWNER, message_id)}

    @router.get("/messages/{message_id}/images/{place}", response_model=None)
    async def image(message_id: str, place: int) -> Response:
        """An image of a message; it never changes."""
        kind, file = await app.conversations.image(OWNER, message_id, place)
        return Response(file, media_type=f"image/{kind}", headers={"cache-control": "private, max-age=31536000, immutable"})

    @router.post("/conversations/{conversation_id}/send")
    async def send(conversation_id: str, body: SendBody) -> dict[str, Any]:
        """Send a message and start the reply."""
        if body.settings is not None:
            await app.conversations.update_settings(OWNER, conversation_id, body.settings)
        user_id, reply_id = await app.replies.send(OWNER, conversation_id, body.text, [image_of(address) for address in body.images])
        return {"user_id": user_id, "reply_id": reply_id}

    @router.post("/conversations/{conversation_id}/regenerate")
    async def regenerate(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Another version of a reply."""
        return {"reply_id": await app.replies.regenerate(OWNER, conversation_id, body.message_id)}

    @router.post("/conversations/{conversation_id}/continue")
    async def extend(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Let a reply grow."""
        return {"reply_id": await app.replies.extend(OWNER, conversation_id, body.message_id)}

    return router


def _message_tree(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui")

    @router.post("/conversations/{conversation_id}/edit")
    async def edit(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """A new version of a message, and with `resend` an answer to it."""
        if body.resend:
            message_id, reply_id = await app.replies.resend(OWNER, conversation_id, body.message_id, body.text)
            return {"message_id": message_id, "reply_id": reply_id}
        await app.conversations.message(OWNER, body.message_id, conversation_id)
        message = await app.conversations.add_version(OWNER, body.message_id, body.text)
        return {"message_id": message.id, "reply_id": None}

    @router.post("/conversations/{conversation_id}/select")
    async def select(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Show another version."""
        await app.conversations.message(OWNER, body.message_id, conversation_id)
        await app.conversations.select_version(OWNER, body.message_id)
        return {**OK}

    @router.post("/conversations/{conversation_id}/branch")
    async def branch(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Copy the history up to a message."""
        await app.conversations.message(OWNER, body.message_id, conversation_id)
        return {"id": await app.conversations.branch(OWNER, body.message_id)}

    @router.post("/conversations/{conversation_id}/delete")
    async def delete(conversation_id: str, body: MessageBody) -> dict[str, Any]:
        """Delete a message and what follows it."""
        await app.conversations.message(OWNER, body.message_id, conversation_id)
        await app.replies.stop_below(OWNER, conversation_id, body.message_id)
        await app.conversations.delete_message(OWNER, body.message_id)
        return {**OK}

    @router.post("/conversations/{conversation_id}/stop")
    async def stop(conversation_id: str) -> dict[str, Any]:
        """Stop the reply being written."""
        await app.conversations.read(OWNER, conversation_id)
        await app.replies.stop(conversation_id)
        return {**OK}

    return router


def _leaving(app: App) -> APIRouter:
    """What a tab says when it is closed or loaded anew: nobody needs the text any more, unless somebody else looks or the page comes back."""
    router = APIRouter(prefix="/ui")
    asked = app.settings.stop_when_closed

    @router.post("/conversations/{conversation_id}/left")
    async def left_conversation(conversation_id: str) -> dict[str, Any]:
        """A tab that showed a reply being written is gone."""
        await app.conversations.read(OWNER, conversation_id)
        if asked and await app.followers.left(conversation_id):
            await app.replies.stop(conversation_id)
        return {**OK}

    @router.post("/notebook/left")
    async def left_notebook() -> dict[str, Any]:
        """A tab that showed the notebook being written on is gone."""
        if asked and await app.followers.left(NOTEBOOK):
            await app.notebook.stop(OWNER)
        return {**OK}

    return router


def _notebook(app: App) -> APIRouter:
    router = APIRouter(prefix="/ui/notebook")

    @router.get("")
    async def read() -> dict[str, Any]:
        """The text and what can be done with it."""
        return await app.notebook.read(OWNER)

    @router.put("")
    async def save(body: NotebookBody) -> dict[str, Any]:
        """Save what was typed."""
        return {"rev": await app.notebook.save(OWNER, body.text, body.rev)}

    @router.post("/generate")
    async def generate(body: NotebookBody) -> dict[str, Any]:
        """Save, then write on at the end."""
        return await app.notebook.generate(OWNER, body.text, body.settings.model_dump(exclude_unset=True))

    @router.post("/regenerate")
    async def regenerate(body: NotebookBody) -> dict[str, Any]:
        """Take the last generation back and write another."""
        return await app.notebook.regenerate(OWNER, body.settings.model_dump(exclude_unset=True))

    @router.post("/stop")
    async def stop() -> dict[str, Any]:
        """Stop writing."""
        return await app.notebook.stop(OWNER)

    @router.post("/undo")
    async def undo() -> dict[str, Any]:
        """The text before the last generation or edit."""
        return await app.notebook.undo(OWNER)

    @router.post("/redo")
    async def redo() -> dict[str, Any]:
        """The text that undo took away."""
        return await app.notebook.redo(OWNER)

    @router.get("/events", response_model=None)
    async def events() -> Response:
        """Follow the notebook."""
        return stream(_notebook_events(app))

    @router.post("/next")
    async def following(body: TextBody) -> dict[str, Any]:
        """The likeliest next tokens."""
        return {"tokens": await app.notebook.next_tokens(body.text, body.count, body.adapters)}

    return router


async def _notebook_events(app: App) -> AsyncIterator[bytes]:
    events = app.notebook.events(OWNER)
    step: asyncio.Future[tuple[str, dict[str, Any]]] | None = None
    try:
        with app.followers.follow(NOTEBOOK):
            while True:
                step = step or asyncio.ensure_future(anext(events))
                await asyncio.wait({step}, timeout=PING_S)
                if not step.done():
                    yield frame({}, "ping")
                    continue
                try:
                    name, data = step.result()
                except StopAsyncIteration:
                    return
                step = None
                yield frame(data, name)
    finally:
        if step is not None:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await events.aclose()


def _small(app: App, functions: ViewFunctions) -> APIRouter:
    router = APIRouter(prefix="/ui")

    @router.post("/tokens")
    async def tokens(body: TextBody) -> dict[str, Any]:
        """How many tokens a text has for the loaded model."""
        names = app.models.loaded_names()
        loaded = app.models.loaded()
        if loaded is None or loaded.card.host:  # nothing that was not sent yet is told to another server
            return {"count": None, "limit": None}
        try:
            engine = await app.models.get(names[0])
            return {"count": len(await engine.tokenize(body.text)), "limit": engine.card.context_length}
        except (EngineCrashed, NoModelLoaded):  # it ended just now; the page shows that elsewhere
            return {"count": None, "limit": None}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """What there is and what is loaded."""
        status = app.models.status()
        loaded, pinned = {card.name for card in status.loaded}, app.models.pinned()
        infos = (*await app.models.list(), *await app.models.remote())
        loading = status.loading
        adapter_fields = ("name", "format", "size_bytes", "base_model", "rank", "problem")
        return {
            "models": [{**info.model_dump(exclude={"path"}), "loaded": info.name in loaded, "pinned": info.name in pinned} for info in infos],
            "adapters": [{name: getattr(row, name) for name in adapter_fields} for row in await app.models.adapters()],
            "loaded": [card.model_dump() for card in status.loaded],
            "asleep": list(status.asleep),
            "loading": {"name": loading.name, "stage": loading.stage, "done": loading.done} if loading else None,
            "error": status.error,
            "memory": {"total_bytes": status.memory_total_bytes, "available_bytes": status.memory_available_bytes},
        }

    @router.get("/assets/{name}", response_model=None)
    async def asset(name: str) -> Response:
        """A script or style of the page."""
        path = functions.assets / checked_name(name, "file")
        if not path.is_file():
            raise NotFound(f"There is no file “{name}”.")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})

    return router
