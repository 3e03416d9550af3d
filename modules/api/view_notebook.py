"""The page's routes for what is in a notebook: its text, writing on, what the model finds likely. Its neighbour: view_notebooks.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.api.sse import frame, stream
from modules.api.view_message_tree import OK, TEXT_LIMIT
from modules.api.view_messages import PING_S, ViewFunctions
from modules.core.model import AdapterChoices
from modules.services.app import App
from modules.services.conversation_settings import EntryEdits, Within
from modules.services.notebook import MOST_TRIES, Order

ID_LIMIT = 64


def notebook_key() -> str:
    """As followers know all notebooks of who asks."""
    return f"notebook/{owner()}"


class NotebookSettings(BaseModel):
    """How a notebook is written on."""

    preset: str = Field("", max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    adapters: AdapterChoices | None = None
    add_bos: bool = True  # whether a text begins with the token for that
    parse_special: bool = True  # whether what is written like a special token is one


class NotebookBody(BaseModel):
    """Which notebook; an empty id is the one opened last."""

    id: str = Field("", max_length=ID_LIMIT)
    settings: NotebookSettings = Field(default_factory=NotebookSettings)

    def chosen(self) -> dict[str, Any]:
        """The settings that were given."""
        return self.settings.model_dump(exclude_unset=True)


class EditsBody(NotebookBody):
    """Edits of how a notebook is written on: what is replaced, single entries, and what it all is where nothing was stored yet."""

    within: dict[Literal["params"], EntryEdits] | None = None
    at_first: NotebookSettings = Field(default_factory=NotebookSettings)


class TextBody(NotebookBody):
    """A text, the revision it was made from, and where to write on: instead of the part from `start` to `stop`, or at the end."""

    text: str = Field("", max_length=TEXT_LIMIT)
    rev: int | None = None
    start: int | None = Field(None, ge=0)
    stop: int | None = Field(None, ge=0)
    tries: int = Field(1, ge=1, le=MOST_TRIES)
    aside: bool = False  # beside the text, also one
    begun: str = Field("", max_length=TEXT_LIMIT)  # what stands there already

    def order(self) -> Order:
        """Where and how to write."""
        start = self.start
        return Order(self.chosen(), None if start is None else (start, start if self.stop is None else self.stop), self.tries, self.aside, self.begun)


class NextBody(NotebookBody):
    """A text to look ahead from."""

    text: str = Field(max_length=TEXT_LIMIT)
    count: int = Field(10, ge=1, le=20)


def notebook_router(app: App, functions: ViewFunctions) -> APIRouter:
    """The routes below /ui/notebook."""
    router = APIRouter(prefix="/ui/notebook")

    @router.get("")
    async def read(id: str = "") -> dict[str, Any]:
        """The text and what can be done with it."""
        return await app.notebook.read(owner(), id)

    @router.put("")
    async def save(body: TextBody) -> dict[str, Any]:
        """Save what was typed; the name follows its first words."""
        rev = await app.notebook.save(owner(), body.text, body.rev, body.id)
        return {"rev": rev, "name": (await app.notebook.read(owner(), body.id))["name"]}

    @router.put("/settings")
    async def set_up(body: NotebookBody) -> dict[str, Any]:
        """Remember all of how it is written on."""
        await app.notebook.shelf.change_settings(owner(), body.settings.model_dump(mode="json", exclude_unset=True), body.id)
        return {**OK}

    @router.patch("/settings")
    async def edit_settings(body: EditsBody) -> dict[str, Any]:
        """Remember what was edited; all of them, as others may have edited some too."""
        parts = [part.model_dump(mode="json", exclude_unset=True) for part in (body.settings, body.at_first)]
        within: Within = {name: entries for name, entries in (body.within or {}).items()}  # noqa: C416  # another type of keys
        return {"settings": await app.notebook.shelf.edit_settings(owner(), parts[0], within, parts[1], body.id)}

    @router.post("/take")
    async def take(body: TextBody) -> dict[str, Any]:
        """Replace the text by a chosen one."""
        return await app.notebook.take(owner(), body.text, body.rev, body.id)

    @router.post("/dismiss")
    async def dismiss(body: NotebookBody) -> dict[str, Any]:
        """Take none of the alternatives."""
        return await app.notebook.dismiss(owner(), body.id)

    @router.post("/undo")
    async def undo(body: NotebookBody | None = None) -> dict[str, Any]:
        """The text before the last generation or edit."""
        return await app.notebook.undo(owner(), body.id if body else "")

    @router.post("/redo")
    async def redo(body: NotebookBody | None = None) -> dict[str, Any]:
        """The text that undo took away."""
        return await app.notebook.redo(owner(), body.id if body else "")

    _add_looking(router, app, functions)
    _add_writing(router, app)
    return router


def _add_looking(router: APIRouter, app: App, functions: ViewFunctions) -> None:
    @router.post("/next")
    async def following(body: NextBody) -> dict[str, Any]:
        """The likeliest next tokens, before and after the samplers."""
        return await app.notebook.probabilities.next_tokens(body.text, body.count, body.chosen())

    @router.post("/likelihood")
    async def likelihood(body: NextBody) -> dict[str, Any]:
        """How likely each token of a text is."""
        return {"tokens": await app.notebook.probabilities.of_text(body.text, body.chosen())}

    @router.post("/preview")
    async def preview(body: TextBody) -> dict[str, Any]:
        """The text as Markdown: safe HTML blocks."""
        return {"blocks": await asyncio.to_thread(functions.blocks, body.text)}


def _add_writing(router: APIRouter, app: App) -> None:
    @router.post("/generate")
    async def generate(body: TextBody) -> dict[str, Any]:
        """Save, then write on."""
        return await app.notebook.generate(owner(), body.text, body.order(), body.id)

    @router.post("/regenerate")
    async def regenerate(body: NotebookBody) -> dict[str, Any]:
        """Take the last generation back and write another."""
        return await app.notebook.regenerate(owner(), body.chosen(), body.id)

    @router.post("/stop")
    async def stop(body: NotebookBody | None = None) -> dict[str, Any]:
        """Stop writing."""
        return await app.notebook.stop(owner(), body.id if body else "")

    @router.get("/events", response_model=None)
    async def events(id: str = "") -> Response:
        """Follow a notebook."""
        await app.notebook.shelf.open(owner(), id)  # an unknown id is an error, not a stream
        return stream(_notebook_events(app, id))

    @router.post("/left")
    async def left_notebook() -> dict[str, Any]:
        """A tab that showed a notebook being written on is gone."""
        if app.settings.stop_when_closed and await app.followers.left(notebook_key()):
            await app.notebook.stop_all(owner())
        return {**OK}


async def _notebook_events(app: App, notebook_id: str) -> AsyncIterator[bytes]:
    events = app.notebook.events(owner(), notebook_id)
    step: asyncio.Future[tuple[str, dict[str, Any]]] | None = None
    try:
        with app.followers.follow(notebook_key()):
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
