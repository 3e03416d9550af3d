"""The audit log for administrators: /ui/audit page by page, newest first, and /ui/audit/file as a whole."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from modules.services.app import App
from modules.services.audit import PAGE_ENTRIES

TEXT_LIMIT = 200


def audit_router(app: App) -> APIRouter:
    """The routes over an `App`; who may use them is in needs.py."""
    router = APIRouter(prefix="/ui/audit")

    @router.get("")
    async def read(before: str = Query("", max_length=40), text: str = Query("", max_length=TEXT_LIMIT)) -> dict[str, Any]:
        """The newest entries before a time, of those with a text in any field; `more` says whether there may be older ones."""
        found = await app.audit.read(before=before, text=text)
        return {"entries": found, "more": len(found) == PAGE_ENTRIES}

    @router.get("/file", response_model=None)
    async def file() -> StreamingResponse:
        """All that is kept, the oldest first, one JSON object a line."""
        headers = {"content-disposition": 'attachment; filename="paddock-audit.jsonl"', "cache-control": "no-store"}
        return StreamingResponse(app.audit.whole(), media_type="application/x-ndjson", headers=headers)

    return router
