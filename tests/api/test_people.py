"""Several people on one server: nobody sees, guesses or changes what is another's, by any route; what belongs to all needs the key."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio
from fastapi import FastAPI, Response
from fastapi.routing import APIRoute

from modules.api.app import build_api
from modules.api.people import COOKIE, People, is_everybodys
from modules.core.person import PERSON
from modules.core.settings import Settings
from modules.services.app import build_app
from modules.ui.app import ViewRendering

KEY = "a-key-of-this-test"
MANAGER = {"authorization": f"Bearer {KEY}"}
FOREIGN = httpx.codes.NOT_FOUND
# Every body that a route of conversations, their messages or notebooks reads
BODIES: dict[str, dict[str, Any]] = {
    "": {"text": "stolen", "message_id": "{message}"},
    "PATCH /ui/conversations/{conversation_id}": {"title": "stolen", "pinned": True, "tags": ["stolen"]},
    "PATCH /ui/notebooks/{notebook_id}": {"name": "stolen"},
    "POST /ui/conversations/{conversation_id}/rate": {"message_id": "{message}", "rating": 1},
    "POST /ui/conversations/{conversation_id}/pin": {"message_id": "{message}", "pinned": True},
    "POST /ui/conversations/{conversation_id}/cast": {"character": "", "profile": ""},
    "POST /ui/conversations/{conversation_id}/begin": {"text": "stolen", "begin_with": "stolen"},
    "POST /ui/conversations/{conversation_id}/insert": {"role": "assistant", "text": "stolen"},
}
IN_BODY = ("take", "dismiss", "undo", "redo", "generate", "regenerate", "stop")  # these name a notebook there
OF_A_MESSAGE = ("regenerate", "replay", "pick", "continue", "edit", "select", "rate", "branch", "delete", "pin")  # these name a message there
TOUCHES: dict[str, dict[str, Any]] = {"edit": {"text": "stolen"}, "rate": {"rating": 1}, "pin": {"pinned": True}}
# What tells strangers nothing in another way than “there is none”
TOLD = {
    "GET /ui/conversations/{conversation_id}/there": (200, '{"there":false}'),
    "POST /ui/conversations/{conversation_id}/forget": (400, "Only a private conversation is forgotten"),
    "POST /ui/conversations/{conversation_id}/files": (400, "a server that several people share takes none"),
}


def routes_of(rows: Iterable[Any]) -> Iterator[APIRoute]:
    """All of them, also those below routers."""
    for row in rows:
        if isinstance(row, APIRoute):
            yield row
        else:
            below = getattr(row, "original_router", row)
            yield from routes_of(getattr(below, "routes", ()))


def named(route: APIRoute) -> list[str]:
    return [f"{method} {route.path}" for method in sorted(route.methods - {"HEAD", "OPTIONS"})]


class House:
    """One server with two people in it, and a third who has the key."""

    def __init__(self, folder: Path, key: str | None = KEY) -> None:
        places = {name: folder / name for name in ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")}
        self.state, self.models = places["state_dir"], places["models_dir"]
        self.app = build_app(Settings(**places, model="none", multi_user=True, api_key=key))  # type: ignore[arg-type]
        self.api: FastAPI = build_api(self.app, ViewRendering())
        self.routes = sorted({name for route in routes_of(self.api.routes) for name in named(route)})

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url="http://localhost", **options)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.app.start()
    yield house
    await house.app.close()


async def told(answer: Any, status: int = 200) -> Any:
    got = await answer
    assert got.status_code == status, got.text
    return got.json()


async def begun(client: httpx.AsyncClient) -> dict[str, str]:
    """A conversation, a message, an attachment, an entry of the bin and a notebook of somebody."""
    rows = [{"role": "user", "content": "My secret heron"}, {"role": "assistant", "content": "It is safe."}]
    conversation = (await told(client.post("/ui/conversations/import", json={"title": "Mine", "settings": {}, "messages": rows})))["id"]
    shown = await told(client.get(f"/ui/conversations/{conversation}"))
    attachment = (await told(client.post(f"/ui/conversations/{conversation}/pasted", json={"text": "heron " * 10})))["id"]
    other = (await told(client.post("/ui/conversations/import", json={"title": "Gone", "settings": {}, "messages": rows})))["id"]
    entry = (await told(client.delete(f"/ui/conversations/{other}")))["bin_id"]
    notebook = (await told(client.post("/ui/notebooks", json={"name": "Mine", "text": "heron"})))["id"]
    return {
        "conversation_id": conversation, "message_id": shown["messages"][0]["id"], "attachment_id": attachment, "bin_id": entry, "notebook_id": notebook,
        "number": "1", "place": "0",
    }  # fmt: skip


async def kept(client: httpx.AsyncClient, mine: dict[str, str]) -> list[Any]:
    """All that somebody has."""
    paths = (
        f"/ui/conversations/{mine['conversation_id']}", "/ui/conversations", f"/ui/conversations/{mine['conversation_id']}/files", "/ui/bin",
        f"/ui/notebook?id={mine['notebook_id']}", "/ui/notebooks",
    )  # fmt: skip
    return [await told(client.get(path)) for path in paths]


async def test_a_private_conversation_makes_no_notebook(house: House) -> None:
    async with house.client() as ann:
        private = (await told(ann.post("/ui/conversations", json={"private": True})))["id"]
        ordinary = (await told(ann.post("/ui/conversations", json={})))["id"]
        for form in ("dialogue", "prompt"):
            answer = await ann.post("/ui/notebooks", json={"conversation_id": private, "form": form})
            assert (answer.status_code, "a private conversation makes none" in answer.text) == (400, True), answer.text
        assert await told(ann.post("/ui/notebooks", json={"conversation_id": ordinary}))


async def test_nobody_reaches_what_is_anothers_by_any_route(house: House, starter_dir: Path) -> None:
    await house.app.models.load(shutil.copytree(starter_dir, house.models / "starter").name + "/starter-Q8_0.gguf")
    async with house.client() as ann, house.client() as ben:
        assert (await ann.get("/ui/person")).cookies[COOKIE] != (await ben.get("/ui/person")).cookies[COOKIE]
        mine = await begun(ann)
        before = await kept(ann, mine)
        walked = [row for row in house.routes if re.search(r"/ui/.*\{(conversation|message|attachment|bin|notebook)_id\}", row)]
        assert len(walked) > 35
        wrong: list[str] = []
        for row in walked:
            method, path = row.split(" ")
            body = {name: value.format(message=mine["message_id"]) if isinstance(value, str) else value for name, value in BODIES.get(row, BODIES[""]).items()}
            answer = await ben.request(method, path.format(**mine), json=None if method == "GET" else body, params={"before": mine["message_id"], "form": "markdown", "name": "a.txt"})
            status, words = TOLD.get(row, (FOREIGN, ""))
            if answer.status_code != status or words not in answer.text or "heron" in answer.text or "Mine" in answer.text:
                wrong.append(f"{row}: {answer.status_code} {answer.text[:200]}")
        assert not wrong, "\n".join(wrong)
        for name in IN_BODY:
            answer = await ben.post(f"/ui/notebook/{name}", json={"id": mine["notebook_id"], "text": "stolen", "rev": 0})
            assert answer.status_code == FOREIGN, f"{name}: {answer.status_code} {answer.text[:300]}"
        for method, path, body in (
            ("PUT", "/ui/notebook", {"id": mine["notebook_id"], "text": "stolen", "rev": 0}),
            ("PUT", "/ui/notebook/settings", {"id": mine["notebook_id"], "settings": {}}),
            ("PATCH", "/ui/notebook/settings", {"id": mine["notebook_id"], "settings": {"preset": "stolen"}}),
            ("POST", "/ui/notebooks", {"name": "stolen", "conversation_id": mine["conversation_id"]}),
            ("POST", "/ui/templates/look", {"conversation": mine["conversation_id"]}),
        ):
            answer = await ben.request(method, path, json=body)
            assert answer.status_code == FOREIGN, f"{path}: {answer.status_code} {answer.text[:300]}"
        his = (await begun(ben))["conversation_id"]
        for name in OF_A_MESSAGE:  # another's message in a conversation of one's own
            answer = await ben.post(f"/ui/conversations/{his}/{name}", json={"message_id": mine["message_id"], **TOUCHES.get(name, {})})
            assert answer.status_code == FOREIGN, f"{name}: {answer.status_code} {answer.text[:300]}"
        for path in (f"/ui/notebook?id={mine['notebook_id']}", f"/ui/notebook/events?id={mine['notebook_id']}"):
            assert (await ben.get(path)).status_code == FOREIGN
        assert {row["id"] for row in (await told(ben.get("/ui/conversations?search=heron")))["conversations"]} == {his}
        assert len((await told(ben.get("/ui/bin")))["deleted"]) == 1  # of his own
        assert await kept(ann, mine) == before


async def test_private_conversations_are_their_persons_too(house: House) -> None:
    async with house.client() as ann, house.client() as ben:
        private = (await told(ann.post("/ui/conversations", json={"private": True})))["id"]
        for method, path in (("GET", ""), ("POST", "/forget"), ("PATCH", ""), ("GET", "/tree")):
            answer = await ben.request(method, f"/ui/conversations/{private}{path}", json=None if method == "GET" else {"title": "stolen"})
            assert answer.status_code == FOREIGN, (method, path, answer.text)
        assert (await ann.get(f"/ui/conversations/{private}")).status_code == 200


async def test_a_cookie_that_was_made_up_is_nobodys(house: House) -> None:
    async with house.client() as ann:
        mine = await begun(ann)
        value = ann.cookies[COOKIE]
        sent = (await house.client().get("/ui/person")).headers["set-cookie"]
        assert "HttpOnly" in sent and "SameSite=Strict" in sent
    person, _, signature = value.partition(".")
    for made_up in (person, f"{person}.", f"{person}.{'0' * len(signature)}", f"local.{signature}", f"{person[:-1]}.{signature}", ""):
        async with house.client(headers={"cookie": f"{COOKIE}={made_up}"}) as other:
            assert (await other.get(f"/ui/conversations/{mine['conversation_id']}")).status_code == FOREIGN
    async with house.client(headers={"cookie": f"{COOKIE}={value}"}) as again:
        assert (await again.get(f"/ui/conversations/{mine['conversation_id']}")).status_code == 200


async def test_all_requests_of_a_program_are_one_persons_by_its_address(house: House) -> None:
    """It sends no cookie; were each somebody new, its turns, its share of the queue and its daily tokens would begin anew with each."""
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope[PERSON].id)
        await Response()(scope, receive, send)

    people = People(inner, settings=house.app.settings, secret="s", check=None)
    for address, path in (("10.0.0.1", "/v1/models"), ("10.0.0.1", "/api/tags"), ("10.0.0.2", "/v1/models"), ("10.0.0.1", "/"), ("10.0.0.1", "/")):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(people, client=(address, 1)), base_url="http://localhost") as program:
            assert (await program.get(path)).status_code == 200
    assert seen[0] == seen[1] and len(set(seen)) == 4 and not any("10.0.0" in person for person in seen)


async def test_nothing_of_it_is_written_to_the_disk(house: House) -> None:
    async with house.client() as ann:
        mine = await begun(ann)
        refused = await ann.post(f"/ui/conversations/{mine['conversation_id']}/files?name=a.txt", content=b"heron")
        assert refused.status_code == 400 and "Paste its text" in refused.text
        refused = await ann.post("/ui/conversations/import-file?name=a.json", content=b"heron")
        assert refused.status_code == 400 and "written to the disk" in refused.text
    assert [path for path in house.state.rglob("*") if path.is_file() and b"heron" in path.read_bytes()] == []


async def test_what_belongs_to_all_needs_the_key_by_every_route(house: House) -> None:
    closed = [row for row in house.routes if not row.startswith("GET ") and not is_everybodys(*row.split(" "))]
    names = {row.split("/")[2].split("{")[0] for row in closed if " /ui/" in row}
    assert {"library", "hub", "training", "datasets", "characters", "profiles", "templates", "remote", "adapters", "jobs", "chat-preferences", "restart"} <= names
    async with house.client() as ann:
        for row in (*closed, "POST /gradio_api/queue/join", "POST /gradio_api/upload", "POST /ui/something-new"):
            method, path = row.split(" ")
            answer = await ann.request(method, re.sub(r"\{.*?\}", "x", path), json={})
            if path.startswith(("/v1/", "/api/")):
                assert answer.status_code == 401, row
                continue
            assert answer.status_code == 403, row
            assert answer.json()["error"]["message"].startswith("Several people share this server") and "/login" in answer.text
        refused = (await told(ann.get("/ui/person")))["refused"]
        assert refused
        assert (await ann.patch("/ui/chat-preferences", json={"begin_as_last": False}, headers={"authorization": "Bearer wrong"})).status_code == 403
        assert (await ann.patch("/ui/chat-preferences", json={"begin_as_last": False}, headers=MANAGER)).status_code == 200
        for client in (ann, house.client()):  # they are everybody's
            choices = (await told(client.get("/ui/chat-preferences")))["choices"]
            assert [row["value"] for row in choices if row["name"] == "begin_as_last"] == [False]
        assert (await ann.post("/login", data={"key": KEY})).status_code == 303
        assert (await told(ann.get("/ui/person"))) == {"several": True, "accounts": False, "name": "", "role": "", "not_admin": "", "refused": "", "login": ""}
        assert (await ann.put("/ui/templates/files/mine", json={})).status_code not in (401, 403)
    async with house.client() as guesser:
        codes = [(await guesser.patch("/ui/chat-preferences", json={}, headers={"x-api-key": str(n)})).status_code for n in range(15)]
        assert codes[0] == 403 and codes[-1] == 429


async def test_a_link_from_elsewhere_does_not_make_somebody_new(house: House) -> None:
    async with house.client() as ann:
        asked = await ann.get("/", headers={"sec-fetch-site": "cross-site"})
        assert asked.status_code == 200 and 'http-equiv="refresh"' in asked.text and COOKIE not in ann.cookies


async def test_without_a_key_nobody_loads_or_unloads_and_everybody_stops_their_own(tmp_path: Path) -> None:
    async with House(tmp_path, None).client() as ann:
        for path, body in (("/v1/internal/model/unload", {}), ("/v1/internal/model/load", {"model_name": "x"}), ("/v1/internal/jobs/verify", {"name": "x"})):
            assert (await ann.post(path, json=body)).status_code == 403, path
        refused = await ann.post("/api/generate", json={"model": "x", "keep_alive": 0})
        assert (refused.status_code, "Several people share this server" in refused.json()["error"]) == (403, True)
        assert await told(ann.post("/v1/internal/stop-generation")) == "OK"
        assert (await told(ann.get("/api/tags")))["models"] == []
