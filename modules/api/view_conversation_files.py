"""The page's routes for conversations as files: in, of whatever program, and out in several forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

from modules.api.owner import owner
from modules.core.errors import InvalidRequest
from modules.services.app import App


def conversation_files_router(app: App) -> APIRouter:
    """The routes below /ui/conversations that read and write files."""
    router = APIRouter(prefix="/ui/conversations")

    @router.post("/import")
    async def import_(body: dict[str, Any]) -> dict[str, Any]:
        """A conversation from an exported file, as JSON."""
        return {"id": await app.conversations.import_(owner(), body)}

    @router.post("/import-file")
    async def import_file(request: Request, name: str = "") -> dict[str, Any]:
        """All conversations of a file, which is the whole body; what became of it."""
        return asdict(await app.conversation_imports.take(owner(), name, _pieces(request)))

    @router.get("/{conversation_id}/export")
    async def export(conversation_id: str, form: str = "json") -> Response:
        """A conversation as a file."""
        file = await app.conversation_exports.write(owner(), conversation_id, form)
        return StreamingResponse(file.pieces, media_type=file.kind, headers={"content-disposition": f'attachment; filename="{file.name}"'})

    return router


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives; a client that leaves is no defect."""
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect as error:
        raise InvalidRequest("The upload broke off; nothing of it was kept. Choose the file again.") from error
