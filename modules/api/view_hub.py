"""The page's routes for models of the hub and for jobs: search, look, download, follow, stop.

What the hub sends leaves as plain values, and a model's card as safe HTML blocks.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.jobs import jobs_router, told
from modules.api.owner import OWNER
from modules.api.view_fit import fit_router
from modules.api.view_messages import ViewFunctions
from modules.services.app import App
from modules.services.hub import OpenedRepository, needed_bytes

CARD_LIMIT = 100_000  # characters of a card that are shown
FILES_SHOWN = 200


class TokenBody(BaseModel):
    """A token of the hub; empty forgets it."""

    token: str = Field("", max_length=1000)


class SearchBody(BaseModel):
    """What to search for; empty and 0 leave a thing open."""

    query: str = Field("", max_length=200)
    author: str = Field("", max_length=96)
    task: str = Field("", max_length=60)
    library: str = Field("", max_length=40)
    licence: str = Field("", max_length=60)
    least_parameters: int = Field(0, ge=0, le=10**14)
    most_parameters: int = Field(0, ge=0, le=10**14)
    runs_here: bool = False  # only what the free memory could hold
    sort: Literal["downloads", "likes", "trending", "updated", "created"] = "downloads"


class OpenBody(BaseModel):
    """A name or link of the hub."""

    text: str = Field(max_length=1000)


class DownloadBody(BaseModel):
    """What to fetch: all files of one choice."""

    repo: str = Field(max_length=200)
    revision: str = Field("main", max_length=100)
    files: list[str] = Field(min_length=1, max_length=2000)
    kind: str = Field("gguf", max_length=20)
    name: str = Field("", max_length=100)


def hub_routers(app: App, functions: ViewFunctions) -> tuple[APIRouter, ...]:
    """The routes below /ui/hub, /ui/fit and /ui/jobs."""
    return _hub(app, functions), fit_router(app), jobs_router(app, "/ui")


def _hub(app: App, functions: ViewFunctions) -> APIRouter:
    router = APIRouter(prefix="/ui/hub")

    @router.get("")
    async def state() -> dict[str, Any]:
        """How the hub is asked."""
        now = app.hub.state()
        return {"endpoint": now.endpoint, "offline": now.offline, "has_token": now.has_token, "memory_bytes": now.memory_available_bytes, "first": now.first.model_dump(mode="json")}

    @router.put("/token")
    async def token(body: TokenBody) -> dict[str, Any]:
        """Keep a token, or forget it; it is never shown again."""
        return {"account": await app.hub.set_token(body.token), "has_token": app.hub.state().has_token}

    @router.post("/search")
    async def search(body: SearchBody) -> dict[str, Any]:
        """Models whose name contains the query and that are as asked for."""
        rows = await app.hub.search(body.query, body.model_dump(exclude={"query", "sort"}), body.sort)
        fields = ("repo", "downloads", "likes", "updated", "task", "licence", "gated", "parameters", "formats")
        return {"rows": [{name: getattr(row, name) for name in fields} for row in rows]}

    @router.post("/open")
    async def open_(body: OpenBody) -> dict[str, Any]:
        """What a repository offers."""
        return _opened(await app.hub.open(body.text), functions)

    @router.post("/download")
    async def download(body: DownloadBody) -> dict[str, Any]:
        """Begin to fetch."""
        return told(await app.hub.download(OWNER, body.model_dump()))

    return router


def _opened(opened: OpenedRepository, functions: ViewFunctions) -> dict[str, Any]:
    repository = opened.repository
    fields = ("repo", "commit", "revision", "gated", "private", "licence", "task", "updated", "downloads", "likes", "parameters")
    choices = [
        {
            "label": choice.label,
            "kind": choice.kind,
            "quantization": choice.quantization,
            "addon": choice.is_addon,
            "bytes": choice.total_bytes,
            "needed_bytes": needed_bytes(choice),
            "files": [file.path for file in choice.files],
            "notes": list(choice.notes),
            "problem": choice.problem,
            "installed": choice.label in opened.installed,
        }
        for choice in opened.choices.choices
    ]
    return {
        **{name: getattr(repository, name) for name in fields},
        "choices": choices,
        "picked": opened.picked,
        "refused": [{"path": row.path, "reason": row.reason} for row in opened.choices.refused[:FILES_SHOWN]],
        "card": list(functions.blocks(opened.card[:CARD_LIMIT])),
    }
