"""The page's routes for prompt templates: list, read, save, delete and restore, look at one being edited, choose one for a model."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.api.owner import owner
from modules.api.view_message_tree import OK
from modules.core.model import TemplateSource
from modules.services.app import App
from modules.services.template_doctor import EDITED
from modules.services.templates import PromptTemplate

TEXT_LIMIT = 1_000_000


class EditedBody(BaseModel):
    """A template as it stands in the editor; without a text it is the model's own."""

    text: str | None = Field(None, max_length=TEXT_LIMIT)
    stop: list[str] = Field(default_factory=list, max_length=16)

    def source(self) -> TemplateSource | None:
        """The template, without special tokens."""
        return None if self.text is None else TemplateSource(text=self.text, origin=EDITED, stop=tuple(self.stop))


class LookBody(EditedBody):
    """A template and the conversation to look at it with: a sample, or one of the person's own."""

    sample: str = Field("", max_length=100)
    conversation: str = Field("", max_length=64)


class SaveBody(BaseModel):
    """A prompt template to keep; `stamp` is that of the one it was read from, empty for a new one."""

    text: str = Field(max_length=TEXT_LIMIT)
    description: str = Field("", max_length=2000)
    stop: list[str] = Field(default_factory=list, max_length=16)
    stamp: str = Field("", max_length=100)


class ChoiceBody(BaseModel):
    """The prompt template of the loaded model; empty is its own chat template."""

    template: str = Field("", max_length=100)


class FileBody(BaseModel):
    """A file that a person hands in."""

    name: str = Field(max_length=255)
    text: str = Field(max_length=TEXT_LIMIT)


def templates_router(app: App) -> APIRouter:
    """The routes below /ui/templates."""
    router = APIRouter(prefix="/ui/templates")

    @router.get("")
    async def listing() -> dict[str, Any]:
        """All prompt templates, the loaded model with its choice, the sample conversations, and what was deleted."""
        fields = ("name", "description", "problem", "kind")
        return {
            "templates": [{name: getattr(row, name) for name in fields} for row in await app.templates.list()],
            "model": app.template_doctor.model(),
            "samples": list(app.template_doctor.samples()),
            "deleted": [entry.model_dump(exclude={"text"}) for entry in await app.templates.deleted()],
        }

    @router.get("/own")
    async def own() -> dict[str, Any]:
        """The chat template of the loaded model."""
        return await app.template_doctor.own()

    @router.post("/look")
    async def look(body: LookBody) -> dict[str, Any]:
        """How a template writes a conversation, and what the doctor finds."""
        return await app.template_doctor.look(owner(), body.source(), sample=body.sample, conversation=body.conversation)

    @router.post("/try")
    async def try_out(body: EditedBody) -> dict[str, Any]:
        """Twenty tokens under a template."""
        return await app.template_doctor.try_out(body.source())

    @router.get("/fitting")
    async def fitting() -> dict[str, Any]:
        """The prompt templates that fit the loaded model."""
        return {"templates": await app.template_doctor.fitting()}

    @router.put("/choice")
    async def choose(body: ChoiceBody) -> dict[str, Any]:
        """Choose a prompt template for the loaded model."""
        return {"model": await app.template_doctor.choose(body.template)}

    @router.post("/read")
    async def read_file(body: FileBody) -> dict[str, Any]:
        """What a file holds; nothing is saved."""
        source, description = app.templates.read_file(body.name, body.text)
        return {"name": body.name.rpartition(".")[0], "text": source.text, "description": description, "stop": list(source.stop)}

    _files(app, router)
    return router


def _files(app: App, router: APIRouter) -> None:
    @router.get("/files/{name}")
    async def read(name: str) -> dict[str, Any]:
        """One prompt template with its text."""
        return _told(await app.templates.find(name))

    @router.put("/files/{name}")
    async def save(name: str, body: SaveBody) -> dict[str, Any]:
        """Keep a template as an own one."""
        saved = await app.templates.save(name, body.text, description=body.description.strip(), stop=body.stop, stamp=body.stamp)
        return _told(saved)

    @router.delete("/files/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Put an own template into the bin."""
        return await app.template_doctor.delete(name)

    @router.get("/files/{name}/export")
    async def export(name: str) -> Response:
        """A template as a file."""
        template = await app.templates.find(name)
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(template.name)}.yaml"}
        return Response(app.templates.exported(template), media_type="application/yaml", headers=headers)

    @router.post("/bin/{entry_id}/restore")
    async def restore(entry_id: str) -> dict[str, Any]:
        """Bring a deleted template back."""
        return _told(await app.templates.restore(entry_id))

    @router.delete("/bin/{entry_id}")
    async def discard(entry_id: str) -> dict[str, Any]:
        """Delete for good."""
        await app.templates.discard(entry_id)
        return {**OK}


def _told(template: PromptTemplate) -> dict[str, Any]:
    source = template.source
    fields = {name: getattr(template, name) for name in ("name", "description", "kind", "stamp")}
    return {**fields, "text": source.text, "stop": list(source.stop)}
