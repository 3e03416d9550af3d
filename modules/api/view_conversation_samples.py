"""The page's routes for data sets made of one's own conversations: what there is, what it would be, writing it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.services.app import App

WORD_LIMIT = 40
COUNT_LIMIT = 20
NAMES_LIMIT = 100
Words = list[Annotated[str, Field(max_length=WORD_LIMIT)]]


class SamplesBody(BaseModel):
    """Which replies, and which kinds of personal data get marks; names are found besides those that a person said."""

    choose: Words = Field(max_length=COUNT_LIMIT)
    redact: Words = Field(default_factory=list, max_length=COUNT_LIMIT)
    names: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=NAMES_LIMIT)


class NamedSamplesBody(SamplesBody):
    """The same, and the name of the file."""

    name: str = Field(max_length=300)


def conversation_samples_router(app: App) -> APIRouter:
    """The routes below /ui/datasets/conversations."""
    router = APIRouter(prefix="/ui/datasets/conversations")

    @router.get("")
    async def choices() -> dict[str, Any]:
        """What there is to learn from."""
        return {"choices": [asdict(choice) for choice in await app.conversation_samples.choices(owner())]}

    @router.post("/preview")
    async def preview(body: SamplesBody) -> dict[str, Any]:
        """What would be written."""
        return asdict(await app.conversation_samples.preview(owner(), body.choose, body.redact, body.names))

    @router.post("")
    async def write(body: NamedSamplesBody) -> dict[str, Any]:
        """Write the data set."""
        return {"name": await app.conversation_samples.write(owner(), body.name, body.choose, body.redact, body.names)}

    return router
