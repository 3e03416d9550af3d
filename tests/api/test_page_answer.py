"""The page and its files as they are sent: compressed where that is safe, kept by browsers as long as they stay the same."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from modules.api.app import build_api
from modules.api.page_answer import PageAnswer, takes_gzip
from modules.core.settings import Settings
from modules.services.app import build_app
from modules.ui.app import ViewRendering
from modules.ui.mount import mount_page

HOME = "http://127.0.0.1:7860"
PLAIN = {"accept-encoding": "identity"}
FOLDERS = ("models_dir", "loras_dir", "presets_dir", "templates_dir", "characters_dir", "datasets_dir", "state_dir")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("page")
    app = build_app(Settings(**{name: folder / name for name in FOLDERS}, model="none"))  # type: ignore[arg-type]
    api = build_api(app, ViewRendering(), lambda api: mount_page(api, app))
    yield httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url=HOME)


def answering(**headers: str) -> httpx.AsyncClient:
    """A small application behind the same middleware."""
    api = FastAPI()

    @api.get("/")
    async def page() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for part in ("<base href='./'>", "a" * 3000, "end"):
                yield part.encode()

        return StreamingResponse(parts(), media_type="text/html", headers=headers)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=PageAnswer(api, finish=lambda html: html + b"!")), base_url=HOME)  # type: ignore[arg-type]


async def test_the_page_comes_compressed_to_who_can_read_it(server: httpx.AsyncClient) -> None:
    plain = await server.get("/", headers=PLAIN)
    assert "content-encoding" not in plain.headers and len(plain.content) == int(plain.headers["content-length"]) > 100_000
    async with server.stream("GET", "/", headers={"accept-encoding": "br, gzip;q=0.8"}) as answer:
        sent = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip" and len(sent) == int(answer.headers["content-length"]) < 40_000
    assert gzip.decompress(sent) == plain.content
    for kind in (plain, answer):
        assert kind.headers["vary"] == "Accept-Encoding" and kind.headers["cache-control"] == "no-cache" and kind.headers["content-security-policy"]


async def test_a_page_that_the_browser_has_is_not_sent_again(server: httpx.AsyncClient) -> None:
    tag = (await server.get("/")).headers["etag"]
    same = await server.get("/", headers={"if-none-match": f'"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await server.get("/", headers={"if-none-match": '"other"'})).status_code == 200
    head = await server.head("/", headers=PLAIN)
    assert head.headers["etag"] == tag


async def test_nothing_of_a_request_and_nothing_of_a_person_is_in_the_compressed_page(server: httpx.AsyncClient) -> None:
    plain = (await server.get("/")).content
    for asked, headers in (
        ("/?c=guessed-at&__theme=guessed-at&view=guessed-at", {}), ("/?deep_link=guessed-at", {}),
        ("/", {"cookie": "paddock_session=guessed-at; a=guessed-at", "referer": f"{HOME}/guessed-at", "user-agent": "guessed-at", "accept-language": "guessed-at"}),
    ):  # fmt: skip
        answer = await server.get(asked, headers=headers)
        assert b"guessed-at" not in answer.content
        assert answer.content == plain or "deep_link" in asked
    again = (await server.get("/")).content
    assert again == plain, "a value that is made anew for each request would be a secret in a compressed answer"


async def test_files_with_a_name_of_their_content_are_kept_and_others_asked_after(server: httpx.AsyncClient) -> None:
    page = (await server.get("/")).text
    named = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page)
    assert len(named) >= 2
    for path in named:
        assert (await server.get(path)).headers["cache-control"] == "public, max-age=31536000, immutable", path
    for path in ("theme.css", "theme.css?v=1", "static/js/iframeResizer.contentWindow.min.js"):
        answer = await server.get(path)
        assert answer.status_code == 200 and answer.headers["cache-control"] == "no-cache" and answer.headers["etag"], path
    tag = (await server.get("theme.css")).headers["etag"]
    assert (await server.get("theme.css", headers={"if-none-match": tag})).status_code == 304
    lost = await server.get("assets/lost-abcdefgh.js")
    assert lost.status_code == 404 and "immutable" not in lost.headers.get("cache-control", "")


def test_every_file_of_gradio_has_a_name_of_its_content() -> None:
    import gradio

    from modules.api.page_answer import KEPT

    names = [path.name for path in (Path(gradio.__file__).parent / "templates" / "frontend" / "assets").iterdir()]
    assert len(names) > 100 and [name for name in names if not KEPT.fullmatch(f"/assets/{name}")] == []


async def test_other_answers_are_left_as_they_are(server: httpx.AsyncClient) -> None:
    for path in ("ui/models", "v1/models", "health"):
        answer = await server.get(path)
        assert answer.status_code == 200 and not {"content-encoding", "etag", "cache-control"} & set(answer.headers), path
    assert "cache-control" not in (await server.get("favicon.ico")).headers


async def test_an_answer_in_parts_is_put_together_and_an_encoded_one_not_compressed_again() -> None:
    body = b"<base href='./'>" + b"a" * 3000 + b"end!"
    assert (await answering().get("/")).content == body
    assert (await answering(**{"cache-control": "max-age=5"}).get("/")).headers.get_list("cache-control") == ["no-cache"]
    encoded: dict[str, Any] = {"content-encoding": "own"}
    answer = await answering(**encoded).get("/")
    assert answer.headers["content-encoding"] == "own" and answer.content == body


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [("gzip", True), ("deflate, GZIP ; q=0.5", True), ("br", False), ("", False), ("gzip;q=0", False), ("gzip; q=0.00, br", False), ("xgzip", False)],
)
def test_what_a_browser_says_that_it_reads(accepted: str, takes: bool) -> None:
    assert takes_gzip(accepted) is takes
