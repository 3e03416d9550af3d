"""The page's own routes: JSON for actions, server-sent events for what is being written.

Message bodies leave as safe HTML blocks made by functions that server.py passes in (`ViewFunctions`), so this package needs nothing of the page's.
Here are the rows of all of them, and the few that belong to nothing else.
"""

from __future__ import annotations

import mimetypes
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from modules.api.people import people_router
from modules.api.restart import restart_router
from modules.api.view_accounts import account_routers
from modules.api.view_adapter_files import adapter_files_router
from modules.api.view_adapters import adapters_router
from modules.api.view_attachments import attachments_router
from modules.api.view_audit import audit_router
from modules.api.view_characters import character_routers
from modules.api.view_chat_preferences import chat_preferences_router
from modules.api.view_context import context_router
from modules.api.view_conversation_bin import conversation_bin_router
from modules.api.view_conversation_files import conversation_files_router
from modules.api.view_conversation_samples import conversation_samples_router
from modules.api.view_conversations import conversations_router
from modules.api.view_datasets import datasets_router
from modules.api.view_figures import figures_router
from modules.api.view_fonts import fonts_router
from modules.api.view_hub import hub_routers
from modules.api.view_library import library_routers
from modules.api.view_message_tree import TEXT_LIMIT, message_tree_router
from modules.api.view_messages import ViewFunctions
from modules.api.view_notebook import notebook_router
from modules.api.view_notebooks import notebooks_router
from modules.api.view_palette import palette_router
from modules.api.view_perplexity import perplexity_router
from modules.api.view_presets import presets_router
from modules.api.view_receipts import receipts_router
from modules.api.view_remote import remote_router
from modules.api.view_sending import leaving_router, sending_router
from modules.api.view_templates import templates_router
from modules.api.view_training import training_router
from modules.api.view_tree import tree_router
from modules.api.view_turns import turns_router
from modules.api.view_usage import quota_router, usage_router
from modules.core.errors import EngineCrashed, NoModelLoaded, NotFound
from modules.core.files import checked_name
from modules.services.app import App


class TextBody(BaseModel):
    """A text to count."""

    text: str = Field(max_length=TEXT_LIMIT)


def view_routers(app: App, functions: ViewFunctions) -> tuple[APIRouter, ...]:
    """All routes below /ui."""
    return (
        conversation_files_router(app),
        conversations_router(app, functions),
        chat_preferences_router(app),
        presets_router(app),
        conversation_bin_router(app),
        tree_router(app),
        sending_router(app),
        leaving_router(app),
        receipts_router(app),
        message_tree_router(app),
        attachments_router(app),
        context_router(app),
        turns_router(app),
        *character_routers(app),
        notebook_router(app, functions),
        notebooks_router(app),
        _small(app, functions),
        *hub_routers(app, functions),
        remote_router(app),
        *library_routers(app),
        adapters_router(app),
        adapter_files_router(app),
        datasets_router(app),
        conversation_samples_router(app),
        training_router(app),
        templates_router(app),
        perplexity_router(app),
        figures_router(app),
        usage_router(app, "/ui"),
        quota_router(app),
        audit_router(app),
        palette_router(app),
        fonts_router(functions.fonts),
        restart_router(app, "/ui"),
        people_router(app),
        *account_routers(app),
    )


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
            "loaded": [{**card.model_dump(), "template": app.models.template_of(card.name), "template_check": app.template_checks.of(card)} for card in status.loaded],
            "asleep": list(status.asleep),
            "sees": status.sees,
            "loading": {"name": loading.name, "stage": loading.stage, "done": loading.done} if loading else None,
            "error": status.error,
            "stop_when_closed": app.settings.stop_when_closed,
            "memory": {"total_bytes": status.memory_total_bytes, "available_bytes": status.memory_available_bytes},
        }

    @router.get("/assets/{version}/{name}", response_model=None)
    async def asset(version: str, name: str) -> Response:
        """A script or style of the page. One of another version is served as it is now: a page that was open while the server was renewed asks for it."""
        path = functions.assets / checked_name(name, "file")
        if not path.is_file():
            raise NotFound(f"There is no file “{name}”.")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        kept = "private, max-age=31536000, immutable" if version == functions.assets_version else "no-cache"
        return FileResponse(path, media_type=kind, headers={"cache-control": kept})

    return router
