"""The page's routes for what fits: choices of the hub, models of the folder, what was predicted and what was real, measuring this machine."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.services.app import App
from modules.services.machine_speed import LOADERS


class FitBody(BaseModel):
    """What to judge: all files of one choice, and how large they are together if that is known."""

    repo: str = Field(max_length=200)
    revision: str = Field("main", max_length=100)
    files: list[str] = Field(min_length=1, max_length=2000)
    kind: str = Field("gguf", max_length=20)
    bytes: int = Field(0, ge=0, le=1 << 50)
    projector_bytes: int = Field(0, ge=0, le=1 << 50)


class ChoiceBody(BaseModel):
    """One choice of a repository."""

    label: str = Field(max_length=300)
    files: list[str] = Field(min_length=1, max_length=2000)
    kind: str = Field(max_length=20)
    quantization: str = Field("", max_length=40)
    bytes: int = Field(0, ge=0, le=1 << 50)


class ChoicesBody(BaseModel):
    """All choices of a repository."""

    repo: str = Field(max_length=200)
    revision: str = Field("main", max_length=100)
    choices: list[ChoiceBody] = Field(max_length=200)
    projector_bytes: int = Field(0, ge=0, le=1 << 50)


def fit_router(app: App) -> APIRouter:
    """The routes below /ui/fit."""
    router = APIRouter(prefix="/ui/fit")

    @router.post("/hub")
    async def remote(body: FitBody) -> dict[str, Any]:
        """Whether a choice fits into memory, by its headers."""
        sizes = {"size_bytes": body.bytes, "projector_bytes": body.projector_bytes}
        return asdict(await app.fit.remote(body.repo, body.revision, body.files, body.kind, **sizes))

    @router.post("/recommend")
    async def recommend(body: ChoicesBody) -> dict[str, Any]:
        """The choice that suits this machine best."""
        choices = [choice.model_dump() for choice in body.choices]
        found = await app.fit.recommend(body.repo, body.revision, choices, body.projector_bytes)
        return {"label": found[0] if found else "", "reason": found[1] if found else ""}

    @router.get("/local")
    async def local(name: str) -> dict[str, Any]:
        """Whether a model of the folder fits."""
        return asdict(await app.fit.local(name))

    @router.get("")
    async def records() -> dict[str, Any]:
        """What was predicted and what models really took, and whether this machine has been measured."""
        rows = await asyncio.to_thread(app.fit.records.rows)
        speed = app.fit.speed
        machine = {
            name: {"known": speed.known(name) is not None, "measuring": speed.measuring(name), "problem": speed.problem(name)} for name in LOADERS
        }
        return {"records": [asdict(row) for row in rows], "machine": machine}

    @router.post("/measure")
    async def measure() -> dict[str, Any]:
        """Measure this machine anew, in the background."""
        for name in LOADERS:
            app.fit.speed.want(name, again=True)
        return await records()

    @router.delete("/measure")
    async def stop() -> dict[str, Any]:
        """Stop measuring."""
        await app.fit.speed.cancel()
        return await records()

    return router
