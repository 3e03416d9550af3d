"""The page's own fonts: no page of ours asks another machine for one."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from modules.core.errors import NotFound
from modules.core.files import checked_name

KIND = "font/woff2"
SUFFIX = ".woff2"
HEADERS = (("cache-control", "public, max-age=604800"),)


def fonts_router(folder: Path) -> APIRouter:
    """The route below /ui/fonts."""
    router = APIRouter(prefix="/ui/fonts")

    @router.get("/{name}", response_model=None)
    async def font(name: str) -> Response:
        """A font file."""
        path = folder / checked_name(name, "file")
        if path.suffix != SUFFIX or not path.is_file():
            raise NotFound(f"There is no font “{name}”.")
        return FileResponse(path, media_type=KIND, headers=dict(HEADERS))

    return router
