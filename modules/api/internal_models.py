"""Models over the API: what is known of one, load and unload, the loaders with their options. The services are those of the Models page.

Paths, names of fields and the answer “OK” are those of TextGen's public API, so that programs written for it go on working; further fields are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from modules.api.errors import documented_errors
from modules.core.errors import AppError, InvalidRequest
from modules.core.generation import EngineCard
from modules.core.model import AdapterChoice, ModelInfo
from modules.services.app import App
from modules.services.model_choices import checked_options

NAME_LIMIT = 1000
NONE = "None"  # what TextGen's clients read where no model is loaded
OK = "OK"
# Names that clients of TextGen give to options of ours
OPTION_NAMES = MappingProxyType({
    "ctx_size": "context_length", "n_ctx": "context_length", "max_seq_len": "context_length", "truncation_length": "context_length",
    "n_gpu_layers": "gpu_layers", "parallel": "slots", "cache_type": "kv_type", "n_batch": "batch_tokens", "batch_size": "batch_tokens",
    "ubatch_size": "ubatch_tokens", "model_draft": "draft_model", "draft_max": "draft_tokens",
})  # fmt: skip
SWITCHES: Mapping[str, tuple[str, Any]] = MappingProxyType({
    "no_mmap": ("mmap", "off"), "load_in_4bit": ("quantize", "4bit"), "load_in_8bit": ("quantize", "8bit"), "bf16": ("dtype", "bfloat16"), "flash_attn": ("flash_attention", "on"),
})  # fmt: skip
LOADER_NAMES = MappingProxyType({"llamacpp": "llama.cpp", "llama_cpp": "llama.cpp"})


class LoadBody(BaseModel):
    """A model, and how to load it."""

    model_name: str = Field(max_length=NAME_LIMIT)
    loader: str = Field("", max_length=40, description="llama.cpp or transformers; empty chooses as last time, or by the files.")
    args: dict[str, Any] | None = Field(None, max_length=200, description="Options of the loader (see /v1/internal/loaders); left out, as it was last loaded.")
    instruction_template: str | None = Field(None, max_length=100, description="Prompt template chosen for the model; empty takes its own again.")
    settings: dict[str, Any] | None = Field(None, max_length=200, description="TextGen's place for instruction_template; nothing else of it counts.")
    adapters: list[AdapterChoice] = Field(default_factory=list, max_length=16, description="LoRA adapters to put into use once it is loaded.")

    def template(self) -> str | None:
        """The prompt template asked for; None leaves the choice as it is."""
        wanted = self.instruction_template if self.instruction_template is not None else (self.settings or {}).get("instruction_template")
        return wanted if isinstance(wanted, str) else None


class UnloadBody(BaseModel):
    """A loaded model; empty is the one used last."""

    model_name: str = Field("", max_length=NAME_LIMIT)


def internal_models_router(app: App) -> APIRouter:
    """The routes below /v1/internal."""
    router = APIRouter(prefix="/v1/internal", responses=documented_errors())

    @router.get("/model/info")
    async def info(
        model: str = Query("", max_length=NAME_LIMIT, description="A model of the list; empty is the one that answers."),
        fit: bool = Query(False, description="Also tell whether it fits into memory; may read its header."),
    ) -> dict[str, Any]:
        """All that is known of a model, and what is loaded and loading: ask again while a load goes on to see how far it is."""
        return {**_standing(app), **await _of_model(app, model or next(iter(app.models.loaded_names()), ""), fit)}

    @router.get("/model/list")
    async def listing() -> dict[str, Any]:
        """Names of the models that can be loaded."""
        infos = (*await app.models.list(), *await app.models.remote())
        return {"model_names": [info.name for info in infos if not info.problem]}

    @router.post("/model/load")
    async def load(body: LoadBody) -> str:
        """Load a model; answers when it is ready. A load goes on when the client leaves."""
        await _load(app, body)
        return OK

    @router.post("/model/unload")
    async def unload(body: UnloadBody | None = None) -> str:
        """Give a model's memory back; its running replies end."""
        name = (body.model_name if body else "") or next(iter(app.models.loaded_names()), "")
        if name:
            await app.models.unload(name)
        return OK

    @router.get("/loaders")
    async def loaders(model: str = Query("", max_length=NAME_LIMIT, description="Only those that read this model, best first.")) -> dict[str, Any]:
        """The loaders, with a JSON schema of the options of each."""
        specs = app.models.loaders_for(await app.models.find(model)) if model else app.models.loaders()
        rows = [{"name": spec.name, "title": spec.title, "requires": list(spec.requires), "capabilities": sorted(spec.capabilities)} for spec in specs]
        return {"loaders": [{**row, "options": spec.options.model_json_schema()} for row, spec in zip(rows, specs, strict=True)]}

    return router


def _standing(app: App) -> dict[str, Any]:
    """What is loaded and what goes on."""
    status = app.models.status()
    return {
        "loaded": [card.name for card in status.loaded],
        "asleep": list(status.asleep),
        "loading": {"name": status.loading.name, "stage": status.loading.stage, "done": status.loading.done} if status.loading else None,
        "error": status.error,
        "memory": {"total_bytes": status.memory_total_bytes, "available_bytes": status.memory_available_bytes},
    }


async def _of_model(app: App, name: str, fit: bool) -> dict[str, Any]:
    """The facts that the Models page shows of one model."""
    if not name:
        return {"model_name": NONE, "lora_names": [], "loader": None, "model": None}
    info = await app.models.find(name)
    card = next((card for card in app.models.status().loaded if card.name == info.name), None)
    rows = [row for row in await app.library.shelf() if row.name == info.name] if info.format != "remote" else []
    return {
        "model_name": info.name,
        "lora_names": [choice.name for choice in card.adapters] if card else [],
        "loader": card.loader if card else None,
        "model": info.model_dump(exclude={"path"}),
        "engine": card.model_dump() if card else None,
        "options": _options(app, card, info),
        "template": app.generation.template_in_force(card) if card else app.models.template_of(info.name),
        "template_check": app.template_checks.of(card) if card else None,
        "pinned": info.name in app.models.pinned(),
        "sha256": await _sha256(app, info),
        "library": asdict(rows[0]) if rows else None,
        "fit": asdict(await app.fit.local(info.name)) if fit and info.format != "remote" else None,
    }


def _options(app: App, card: EngineCard | None, info: ModelInfo) -> dict[str, Any] | None:
    """Every option as it is in use, or as it would be with the next load; None where another server decides."""
    choice = app.models.loaded_as(info.name) or app.models.remembered(info.name)
    specs = app.models.loaders_for(info)
    wanted = card.loader if card else choice.loader
    spec = next((spec for spec in specs if spec.name == wanted), next(iter(specs), None))
    if spec is None:
        return None
    try:
        return checked_options(spec, choice.options).model_dump(mode="json")
    except InvalidRequest:  # remembered by an older version
        return spec.options().model_dump(mode="json")


async def _sha256(app: App, info: ModelInfo) -> str | None:
    """Hash of its weights, where it is known already."""
    if info.format == "remote":
        return None
    try:
        found = (await app.hashes.described(Path(info.path))).get("sha256")
    except AppError:  # removed just now
        return None
    return str(found) if found else None


async def _load(app: App, body: LoadBody) -> None:
    template = body.template()
    if template:
        await app.templates.find(template)
    name = (await app.models.find(body.model_name)).name
    last = app.models.remembered(name)
    loader, options = (body.loader or last.loader, last.options) if body.args is None else _asked(body.loader, body.args)
    if body.args is None and loader != last.loader:
        options = {}
    engine = await app.models.load(name, loader, options)
    if template is not None:
        await app.models.choose_template(engine.name, template)
    if body.adapters:
        await app.adapters.apply(engine.name, body.adapters)


def _asked(loader: str, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Loader and options by our names; one that no loader knows is refused when it is loaded."""
    named = str(args.get("loader") or loader)
    options: dict[str, Any] = {}
    for key, value in args.items():
        if key in SWITCHES:
            option, means = SWITCHES[key]
            options |= {option: means} if value else {}
        elif key != "loader":
            options[OPTION_NAMES.get(key, key)] = value
    lower = named.lower()
    return LOADER_NAMES.get(lower, lower), options
