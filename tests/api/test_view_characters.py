"""The routes of characters behind the guard: files in and out, pictures, names that lead elsewhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from modules.api.errors import install_error_handlers
from modules.api.guard import IMAGES_LIMIT_BYTES, JSON_LIMIT_BYTES, Guard
from modules.api.view_characters import character_routers
from modules.prompts.character_card import CardText, json_file, new_card, png_file, read_card
from modules.prompts.png_text import plain_picture
from modules.services.characters import Casting, CharacterService

PICTURE = plain_picture(2, 2, (1, 2, 3), (4, 5, 6))
CARD = new_card(CardText(name="Ada Ö.", first_mes="Good day."))


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    api = FastAPI()
    install_error_handlers(api)
    app: Any = SimpleNamespace(casting=Casting(CharacterService(tmp_path / "characters"), CharacterService(tmp_path / "profiles", "profile")))
    for router in character_routers(app):
        api.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=Guard(api)), base_url="http://127.0.0.1:7860") as client:  # type: ignore[arg-type]
        yield client


async def test_a_card_goes_in_and_out_as_it_was(page: httpx.AsyncClient) -> None:
    name = (await page.post("/ui/characters/import", content=png_file(CARD, PICTURE))).json()["name"]
    assert name == "Ada Ö"
    row = (await page.get("/ui/characters")).json()["cards"][0]
    assert (row["title"], row["problem"], row["picture"] > 0) == ("Ada Ö.", "", True)
    picture = await page.get(f"/ui/characters/{quote(name)}/picture")
    assert (picture.content, picture.headers["content-type"], picture.headers["x-content-type-options"]) == (PICTURE, "image/png", "nosniff")
    out = await page.get(f"/ui/characters/{quote(name)}/file/png")
    assert out.headers["content-disposition"] == "attachment; filename*=UTF-8''Ada%20%C3%96.png"
    assert read_card(out.content)[0]["data"]["first_mes"] == "Good day."
    plain = (await page.get(f"/ui/characters/{quote(name)}/file/v2")).json()
    assert plain["data"] == {**CARD["data"], "group_only_greetings": []}  # which its V3 demands
    assert (await page.get(f"/ui/characters/{quote(name)}/file/exe")).status_code == 400
    assert (await page.get("/ui/profiles")).json()["cards"] == []


async def test_cards_are_edited_given_pictures_deleted_and_put_back(page: httpx.AsyncClient) -> None:
    await page.post("/ui/profiles", json={"values": {"name": "Bo"}})
    assert (await page.post("/ui/profiles", json={"name": "Bo", "values": {"description": "Cooks."}})).json() == {"name": "Bo"}
    read = (await page.get("/ui/profiles/Bo")).json()
    assert (read["values"]["name"], read["values"]["description"], read["lore"]) == ("Bo", "Cooks.", 0)
    assert (await page.get("/ui/profiles/Bo/picture")).status_code == 404
    assert (await page.put("/ui/profiles/Bo/picture", content=PICTURE)).status_code == 200
    assert (await page.get("/ui/profiles/Bo/picture")).content == PICTURE
    refused = await page.put("/ui/profiles/Bo/picture", content=b"<svg onload=alert(1)>")
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "This file is no PNG picture.")
    assert (await page.put("/ui/profiles/Bo/picture", content=b"")).status_code == 200
    assert (await page.get("/ui/profiles/Bo/picture")).status_code == 404
    mark = (await page.delete("/ui/profiles/Bo")).json()["mark"]
    assert (await page.get("/ui/profiles/Bo")).status_code == 404
    assert (await page.post("/ui/profiles/restore", json={"mark": mark})).json() == {"name": "Bo"}
    assert (await page.get("/ui/profiles/Bo")).status_code == 200


async def test_a_file_of_a_card_may_be_larger_than_other_bodies_and_not_endless(page: httpx.AsyncClient) -> None:
    large = json.dumps({"name": "Ada", "x": "y" * JSON_LIMIT_BYTES}).encode()
    answer = await page.post("/ui/characters/import", content=large)
    assert (answer.status_code, "the limit is 8 MiB" in answer.json()["error"]["message"]) == (400, True)
    endless = await page.post("/ui/characters/import", content=b"{}", headers={"content-length": str(IMAGES_LIMIT_BYTES + 1)})
    assert endless.status_code == 413


@pytest.mark.parametrize("name", ["..%2fsecret", "%2e%2e%2fsecret", "..%5csecret", "con", "x%00", ".hidden", "y" * 300])
async def test_no_name_reads_writes_or_deletes_outside(page: httpx.AsyncClient, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes(json_file(CARD, "v2"))
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/picture"), ("GET", "/file/v2")):
        assert (await page.request(method, f"/ui/characters/{name}{rest}")).status_code in (400, 404)
    assert (await page.put(f"/ui/characters/{name}/picture", content=PICTURE)).status_code in (400, 404)
    assert secret.is_file()
    assert not (tmp_path / "secret.png").exists()


async def test_half_characters_do_not_break_the_page(page: httpx.AsyncClient) -> None:
    await page.post("/ui/characters/import", content=b'{"name": "A\\ud800", "description": "\\udfff", "creator_notes": "\\ud800", "tags": ["\\ud800"]}')
    assert (await page.get("/ui/characters")).json()["cards"][0]["title"] == "A\ufffd"
    assert (await page.get("/ui/characters/A")).json()["values"]["description"] == "\ufffd"
