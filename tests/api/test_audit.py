"""What is done through page and API stands in the audit log, whoever did it, and no secret ever does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from modules.api.app import build_api
from modules.api.audit_actions import ROWS, is_noted, named
from modules.core.settings import Settings
from modules.services.app import App, build_app
from modules.ui.app import ViewRendering
from tests.api.test_people import named as route_names
from tests.api.test_people import routes_of

SECRETS = ("canary-password-1", "canary-password-2", "canary-prompt", "canary-token", "canary-typed-as-a-name")
PASSWORD, OTHER, PROMPT, TOKEN, MISTYPED = SECRETS


class Door:
    """A server with its routes, reached without a socket."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        places: Any = {name: folder / name for name in ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")}
        self.app: App = build_app(Settings(**places, model="none", daily_tokens=50, offline=True, **settings))
        self.api = build_api(self.app, ViewRendering())

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.api, client=("10.1.2.3", 1)), base_url="http://localhost", headers={"origin": "http://localhost"})

    async def log(self) -> list[tuple[str, str, str, str]]:
        return [(one["action"], one["name"], one["object"], one["outcome"]) for one in reversed(await self.app.audit.read())]


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    door = Door(tmp_path)
    await door.app.start()
    yield door
    await door.app.close()


async def test_logins_keys_accounts_and_changes_are_noted_and_secrets_are_not(door: Door, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with door.client() as ann, door.client() as ben, door.client() as program:
        assert (await ann.post("/ui/users", json={"name": "Ann", "password": PASSWORD})).status_code == 200
        user = (await ann.post("/ui/users", json={"name": "Ben", "password": OTHER, "role": "chat"})).json()["id"]
        await ben.post("/login", data={"name": "Ben", "password": "canary-password-wrong"})
        await ben.post("/login", data={"name": MISTYPED, "password": OTHER})
        assert (await ben.post("/login", data={"name": "ben", "password": OTHER})).status_code == 303
        assert (await ben.put("/ui/hub/token", json={"token": TOKEN})).status_code == 403
        made = (await ann.post("/ui/account/keys", json={"name": "for a script", "scopes": ["chat"]})).json()
        auth = {"authorization": f"Bearer {made['key']}"}
        for _ in range(2):
            assert (await program.get("/v1/models", headers=auth)).status_code == 200
        await program.post("/v1/completions", headers=auth, json={"prompt": PROMPT})
        assert (await program.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 401
        await ann.post("/ui/conversations/import", json={"title": PROMPT, "settings": {}, "messages": [{"role": "user", "content": PROMPT}]})
        await ann.put("/ui/templates/files/mine", json={"text": f"{{# {PROMPT} #}}", "description": ""})
        await ann.put("/ui/hub/token", json={"token": TOKEN})
        await ann.put(f"/ui/users/{user}/quota", json={"daily_tokens": 7})
        await ann.delete(f"/ui/account/keys/{made['id']}")
        assert (await ben.get("/ui/audit")).status_code == 403
        log = await door.log()
        assert log == [
            ("user.create", "", "Ann", "done"),
            ("user.create", "Ann", "Ben role=chat", "done"),
            ("login", "", "Ben", "refused"),
            ("login", "", "(no account of the name typed)", "refused"),
            ("login", "", "ben", "done"),
            ("settings.hub-token", "Ben", "", "refused"),
            ("key.create", "Ann", "for a script scopes=chat", "done"),
            ("key.first-use-of-day", "Ann", made["id"], "done"),
            ("key.refused", "", "/v1/models", "refused"),
            ("template.save", "Ann", "mine", log[9][3]),
            ("settings.hub-token", "Ann", "", log[10][3]),
            ("user.quota", "Ann", f"{user} daily_tokens=7", "done"),
            ("key.revoke", "Ann", made["id"], "done"),
        ]
        shown = (await ann.get("/ui/audit", params={"text": "KEY."})).json()
        assert ([one["action"] for one in shown["entries"]], shown["more"]) == (["key.revoke", "key.refused", "key.first-use-of-day", "key.create"], False)
        assert {one["address"] for one in shown["entries"]} == {"10.1.2.3"}
        whole = await ann.get("/ui/audit/file")
        assert len(whole.text.splitlines()) == len(log)
    secrets = (*SECRETS, "canary-password-wrong", made["key"])
    written = "".join(path.read_text() for path in (tmp_path / "state_dir").glob("audit*.jsonl")) + caplog.text
    assert [secret for secret in secrets if secret in written] == []


async def test_where_clients_come_from_is_what_a_trusted_proxy_says_and_no_other(tmp_path: Path) -> None:
    door = Door(tmp_path, trusted_proxy=("10.1.0.0/16",), allowed_hosts=("llm.example",))
    await door.app.start()
    told = {"x-forwarded-for": "6.6.6.6, 198.51.100.7, 10.1.9.9", "x-forwarded-proto": "https"}
    try:
        async with door.client() as behind:
            await behind.post("/ui/users", json={"name": "Ann", "password": PASSWORD}, headers=told)
            for number in range(11):  # one address is held up, another one behind the same proxy is not
                held = await behind.post("/login", data={"name": f"n{number}", "password": OTHER}, headers=told)
            assert held.status_code == 429
            other = {**told, "x-forwarded-for": "198.51.100.8", "origin": "https://llm.example", "host": "llm.example"}
            entered = await behind.post("/login", data={"name": "Ann", "password": PASSWORD}, headers=other)
            assert (entered.status_code, "Secure" in entered.headers["set-cookie"]) == (303, True)
        transport = httpx.ASGITransport(door.api, client=("203.0.113.5", 1))  # what is not the proxy may say what it likes
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"origin": "http://localhost"}) as stranger:
            await stranger.post("/login", data={"name": "Ann", "password": OTHER}, headers=told)
        transport = httpx.ASGITransport(door.api, client=("::ffff:10.1.2.3", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"origin": "http://localhost"}) as by_both:
            await by_both.post("/login", data={"name": "Ann", "password": OTHER}, headers={"x-forwarded-for": "198.51.100.9"})
        entries = [(one["action"], one["address"]) for one in reversed(await door.app.audit.read())]
    finally:
        await door.app.close()
    assert entries == [("user.create", "198.51.100.7"), *[("login", "198.51.100.7")] * 11, ("login", "198.51.100.8"), ("login", "203.0.113.5"), ("login", "198.51.100.9")]


async def test_a_log_in_stands_in_the_log_with_its_name_however_it_was_written(door: Door) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with door.client() as ann, door.client() as ben:
        await ann.post("/ui/users", json={"name": "Ann", "password": PASSWORD})
        parts = await ben.post("/login", files={"name": (None, "Ann"), "password": (None, PASSWORD)})
        assert (parts.status_code, "not in several parts" in parts.text, "set-cookie" in parts.headers) == (415, True, False)
        for body in (f"padding={'a' * 70_000}&name=Ann&password={PASSWORD}", f"name=Zed&name=Ann&password={PASSWORD}"):
            ben.cookies.clear()
            assert (await ben.post("/login", content=body, headers=form)).status_code == 303
    assert (await door.log())[1:] == [("login", "", "", "failed"), ("login", "", "Ann", "done"), ("login", "", "Ann", "done")]


async def test_who_guesses_cannot_fill_the_log(door: Door) -> None:
    async with door.client() as ann, door.client() as guesser:
        await ann.post("/ui/users", json={"name": "Ann", "password": PASSWORD})
        deep = await ann.post("/ui/account/keys", content=b"[" * 19_000, headers={"content-type": "application/json"})
        assert deep.status_code == 400
        for _ in range(40):
            await guesser.post("/ui/restart")
    log = await door.log()
    assert [action for action, *_ in log] == ["user.create", "key.create", *["server.restart"] * 20, "refusals"]


async def test_own_usage_is_everybodys_to_see_and_all_of_it_an_administrators(door: Door) -> None:
    async with door.client() as ann, door.client() as ben:
        await ann.post("/ui/users", json={"name": "Ann", "password": PASSWORD})
        user = (await ann.post("/ui/users", json={"name": "Ben", "password": OTHER})).json()["id"]
        await ben.post("/login", data={"name": "ben", "password": OTHER})
        door.app.usage.note(user, "m", door_spent(30))
        own = (await ben.get("/ui/usage")).json()
        assert (own["used_tokens"], own["limit_tokens"], [(row["model"], row["counted_tokens"]) for row in own["rows"]]) == (30, 50, [("m", 30)])
        assert (await ben.get("/ui/usage?everybody=true")).status_code == 403
        everybody = (await ann.get("/ui/usage?everybody=true")).json()
        assert ([(row["name"], row["counted_tokens"]) for row in everybody["rows"]], everybody["used_tokens"]) == ([("Ben", 30)], 0)
        await ann.put(f"/ui/users/{user}/quota", json={"daily_tokens": 30})
        refused = await ben.post("/v1/internal/restart")
        assert refused.status_code == 403
        key = (await ben.post("/ui/account/keys", json={"name": "k", "scopes": ["chat"]})).json()["key"]
        async with door.client() as program:
            answer = await program.post("/v1/completions", json={"prompt": "a"}, headers={"authorization": f"Bearer {key}"})
            assert (answer.status_code, answer.json()["error"]["type"]) == (429, "insufficient_quota")
            assert int(answer.headers["retry-after"]) == answer.json()["error"]["details"]["retry_after_s"]
            await ann.put(f"/ui/users/{user}/quota", json={"daily_tokens": 0})
            assert (await program.post("/v1/completions", json={"prompt": "a"}, headers={"authorization": f"Bearer {key}"})).status_code == 503  # no model, which is asked for next


async def test_work_begun_by_programs_is_noted_with_what_it_is_about_and_its_end(door: Door) -> None:
    folder = door.app.settings.models_dir / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    async with door.client() as ann, door.client() as program:
        await ann.post("/ui/users", json={"name": "Ann", "password": PASSWORD})
        key = (await ann.post("/ui/account/keys", json={"name": "k", "scopes": ["jobs"]})).json()["key"]
        program.headers["authorization"] = f"Bearer {key}"
        await program.post("/v1/internal/jobs/download", json={"repo": "qwen/small", "choice": "x.gguf"})
        await program.post("/v1/internal/jobs/train", json={"name": "my-run", "base": "none", "dataset": {"file": PROMPT}})
        await program.post("/v1/internal/jobs/perplexity", json={"models": ["a", "b"]})
        await program.post("/v1/internal/model/load", json={"model_name": "small"})
        begun = await program.post("/v1/internal/jobs/verify", json={"name": "small"})
        job = begun.json()["jobs"][0] if begun.status_code == 200 else {}
        async with asyncio.timeout(30):
            while job and not [row for row in await door.log() if row[0] == "job.end"]:
                await asyncio.sleep(0.05)
    log = [row for row in await door.log() if row[1] == "Ann" and not row[0].startswith(("key.", "user."))]
    assert [row[:3] for row in log] == [
        ("download.start", "Ann", "qwen/small"),
        ("training.start", "Ann", "my-run"),
        ("evaluation.start", "Ann", "a,b"),
        ("model.load", "Ann", ""),  # refused before its body was read
        ("model.verify", "Ann", "small"),
        ("job.end", "Ann", f"{job['title']} {job['id']}"),
    ]


def door_spent(tokens: int) -> Any:
    from modules.services.usage import Spent

    return Spent(1, tokens)


def test_every_named_route_is_there_and_what_is_not_named_is_noted_under_its_path(door: Door) -> None:
    routes = {name for route in routes_of(door.api.routes) for name in route_names(route)}
    plain = [route.replace("{name:path}", "{name}") for route in routes]
    gone = [row.named.action for row in ROWS if not any(row.method == route.split(" ")[0] and row.path.fullmatch(route.split(" ")[1]) for route in plain)]
    assert gone == []
    assert named("POST", "/ui/something-new")[0].action == "POST /ui/something-new"
    assert is_noted("POST", "/ui/something-new")
    assert [route for route in plain if is_noted(*route.split(" ")) and "/v1/" in route and "/" in named(*route.split(" "))[0].action] == []  # clients' routes all have names
    assert not any(is_noted(*line) for line in (("GET", "/ui/users"), ("POST", "/ui/conversations/1/send"), ("POST", "/v1/chat/completions"), ("POST", "/ui/hub/search")))
