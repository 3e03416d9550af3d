"""What was computed for people, by day and model: /ui/usage for the page, /v1/internal/usage for programs. One's own, or everybody's for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from modules.api.errors import documented_errors
from modules.core.errors import Forbidden
from modules.core.person import asking
from modules.services.app import App
from modules.services.usage import Spender, Spent

MOST_DAYS = 366


def _rows(found: Mapping[Spender, Spent], names: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """One for each day and model; with whose it is where `names` are given."""
    rows = []
    for who, spent in found.items():
        person = {"person": who.person, "name": names.get(who.person, "")} if names is not None else {}
        rows.append({**person, "day": who.day, "model": who.model, **asdict(spent), "compute_s": round(spent.compute_s, 3), "counted_tokens": spent.counted_tokens})
    return rows


class QuotaBody(BaseModel):
    """A daily limit: 0 is none, null what the settings say for all."""

    daily_tokens: int | None = None


def quota_router(app: App) -> APIRouter:
    """The route by which administrators limit an account."""
    router = APIRouter(prefix="/ui/users")

    @router.put("/{user_id}/quota")
    async def limit(user_id: str, body: QuotaBody) -> dict[str, Any]:
        """Another daily limit for an account; it counts from the next request on."""
        return asdict(await app.accounts.set_quota(user_id, body.daily_tokens))

    return router


async def account_names(app: App) -> dict[str, str]:
    """The names of all accounts by their ids; those that are deleted have none any more."""
    return {user.id: user.name for user in await app.accounts.list()} if await app.accounts.on() else {}


def usage_router(app: App, prefix: str) -> APIRouter:
    """The route over an `App`, below `/ui` or `/v1/internal`."""
    router = APIRouter(prefix=prefix, responses=documented_errors())

    @router.get("/usage")
    async def read(days: int = Query(30, ge=1, le=MOST_DAYS), everybody: bool = False) -> dict[str, Any]:
        """The own usage of so many days, and what a quota leaves of today; that of all people for who administers the server."""
        quota = await app.usage.quota()
        told = {"today": app.usage.today, "used_tokens": quota.used_tokens, "limit_tokens": quota.limit_tokens or None, "resets_in_s": quota.resets_in_s}
        if not everybody:
            return {**told, "rows": _rows(await app.usage.own(days), None)}
        who = asking()
        if who is not None and not who.administers:
            raise Forbidden("What others use is told to administrators only; leave “everybody” out for your own.")
        return {**told, "rows": _rows(await app.usage.everybody(days), await account_names(app))}

    return router
