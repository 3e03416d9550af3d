"""What is kept and shown about a text that was written: what it cost, what was asked, and what wrote it.

A receipt is a dictionary as JSON holds it. Its parts `params`, `made_by` and `earlier` are long; the page gets them when somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.core.errors import AppError
from modules.core.generation import Delta, GenerationRequest, Started, Usage
from modules.core.params import GenerationParams
from modules.services.model_hashes import ModelHashes
from modules.services.models import ModelService
from modules.services.storage import Storage, Stores

log = logging.getLogger(__name__)

LONG_PARTS = ("params", "made_by", "earlier", "template_variables", "prompt_hash", "replay_texts")


def cost(usage: Usage) -> dict[str, Any]:
    """Tokens and times, as receipts hold them."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "reused_tokens": usage.reused_tokens,
        "completion_tokens": usage.completion_tokens,
        "tokens_per_s": round(usage.tokens_per_s, 1),
        "queue_s": round(usage.queue_s, 3),
        "prefill_s": round(usage.prefill_s, 3),
        "longest_gap_s": round(usage.longest_gap_s, 3),
    }
    if usage.drafted_tokens:
        told |= {"drafted_tokens": usage.drafted_tokens, "accepted_tokens": usage.accepted_tokens}
    if usage.preemptions:
        told["preemptions"] = usage.preemptions
    return told


def asked(request: GenerationRequest) -> dict[str, Any]:
    """All sampling values of a request, those that are off included."""
    return {"params": request.params.model_dump(mode="json")}


def at_start(started: Started, left_out: int = 0) -> dict[str, Any]:
    """What is known when the prompt was made and a slot was found; `left_out` messages were left out before."""
    told: dict[str, Any] = {
        "prompt_tokens": started.prompt_tokens,
        "reused_tokens": started.reused_tokens,
        "dropped_messages": left_out + started.dropped_messages,
        "seed": started.seed,
    }
    if started.prompt_hash:
        told["prompt_hash"] = started.prompt_hash
    if started.template_hash:
        told["template"] = {"origin": started.template_origin, "hash": started.template_hash}
    return told


def at_end(delta: Delta) -> dict[str, Any]:
    """What the last delta says."""
    told: dict[str, Any] = {"finish_reason": delta.finish_reason}
    if delta.stop_string:
        told["stop_string"] = delta.stop_string
    return told | (cost(delta.usage) if delta.usage is not None else {})


def short(receipt: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A receipt without its long parts: what goes to the page with every message."""
    if not receipt:
        return None
    told = {name: value for name, value in receipt.items() if name not in LONG_PARTS}
    return {**told, "continued": len(receipt["earlier"])} if receipt.get("earlier") else told


def changed(receipt: Mapping[str, Any] | None) -> list[str]:
    """Names of the sampling values of a receipt that are not neutral."""
    neutral = GenerationParams().model_dump(mode="json")
    return [name for name, value in (receipt or {}).get("params", {}).items() if value != neutral.get(name)]


class ReceiptService:
    """Finds out what wrote a reply, and completes receipts when the hash of a model's file is known."""

    def __init__(self, models: ModelService, hashes: ModelHashes, storage: Storage) -> None:
        self._models = models
        self._hashes = hashes
        self._storage = storage
        self._completing: set[asyncio.Task[None]] = set()

    async def made_by(self, model: str) -> dict[str, Any]:
        """The program, its version and options, and the file of a loaded model; empty for one that is gone."""
        engine = self._models.loaded(model)
        if engine is None:
            return {}
        card = engine.card
        if card.host:
            return {"host": card.host}
        told: dict[str, Any] = {
            "loader": card.loader,
            "engine": card.engine,
            "options": dict(self._models.remembered(model).options),
            "context_length": card.context_length,
        }
        with contextlib.suppress(AppError):
            told["file"] = await self._hashes.described(Path((await self._models.find(model)).path))
        return told

    def complete(self, owner: str, message_id: str, model: str, receipt: Mapping[str, Any]) -> None:
        """See to it that a stored receipt says the hash of the model's file, once that is known."""
        file = receipt.get("made_by", {}).get("file")
        if file is None or "sha256" in file:
            return
        task = asyncio.create_task(self._complete(owner, message_id, model, file))
        self._completing.add(task)
        task.add_done_callback(self._completing.discard)

    async def _complete(self, owner: str, message_id: str, model: str, file: Mapping[str, Any]) -> None:
        try:
            found = await self._hashes.of(Path((await self._models.find(model)).path))
            if found and all(found[name] == file[name] for name in ("name", "size_bytes", "modified_ns")):
                await self._storage.of(message_id).run(lambda stores: _put_hash(stores, owner, message_id, found))
        except AppError as error:
            log.info("The receipt of a reply stays without the hash of its model's file: %s", error.message)

    async def close(self) -> None:
        """Stop hashing; receipts that wait for it stay without."""
        await self._hashes.close()
        tasks = tuple(self._completing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _put_hash(stores: Stores, owner: str, message_id: str, file: Mapping[str, Any]) -> None:
    message = stores.messages.message(owner, message_id)
    receipt = dict(message.receipt or {})
    if message.status == "streaming" or not receipt.get("made_by"):
        return  # it is being continued: the receipt that comes then is completed in its turn
    stores.messages.save(owner, message_id, {"receipt": {**receipt, "made_by": {**receipt["made_by"], "file": dict(file)}}})
