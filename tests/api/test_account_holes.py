"""What accounts must not let through by the way: requests from before there were any, and texts of others in what all may look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from modules.api.access import AccountGate
from modules.api.auth import COOKIE, FAILURES_PER_MINUTE, KeyCheck, headers_of
from modules.api.errors import install_error_handlers
from modules.api.login import LogIns
from modules.api.view_accounts import account_routers
from modules.core.job import JobSnapshot
from modules.core.person import FIRST_PERSON
from modules.services.accounts import AccountService
from modules.services.storage import Storage
from modules.services.training_records import RunRecord
from tests.api.test_accounts import KEY, NAMES, PASSWORD, House
from tests.api.test_people import told


async def test_texts_of_the_data_of_a_run_are_told_to_who_manages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be somebody's conversations: prompts of sample texts, and what a proof quotes."""
    house = House(tmp_path)
    await house.app.start()
    await house.fill()
    quoted = {"prompt": "a heron", "expected": "a heron"}
    proof = {"verdict": "green", "answers": [quoted], "worst": [quoted]}
    record = RunRecord(JobSnapshot("x", "train", "", {}, "done", 0.0), samples=(quoted,), proof=proof, rows=3)

    async def run(*_: Any) -> RunRecord:
        return record

    monkeypatch.setattr(house.app.training, "run", run)
    for name, _ in NAMES:
        found = await told(house.client(name).get("/ui/training/runs/x"))
        assert (found["rows"], found["proof"]["verdict"]) == (3, "green")
        assert ("heron" in str(found)) == (name in ("Ann", "Ben")), name
    await house.app.close()


async def test_who_asked_before_the_first_account_gets_nothing_after_it(tmp_path: Path) -> None:
    """Requests whose bodies end, or whose turn comes, when there is an account; and streams that nobody had to log in for."""
    house = House(tmp_path, api_key=None)
    await house.app.start()

    async def slowly(body: bytes) -> AsyncIterator[bytes]:
        await house.accounts.on()
        yield body[:5]
        if not await house.accounts.on():
            await house.accounts.create_first("Ann", PASSWORD)
        yield body[5:]

    async def left() -> Any:
        return {"type": "http.disconnect"}

    try:
        house.accounts._looked_s = -1000.0
        gate = AccountGate(house.api, accounts=house.accounts, check=KeyCheck(KEY), is_set=False, is_local=True)
        with anyio.CancelScope() as at_once:  # as the framework asks whether a client is still there
            at_once.cancel()
            assert (await gate._begun_without(left)())["type"] == "http.disconnect"
        assert not at_once.cancelled_caught
        json_type = {"content-type": "application/json"}
        late = await house.client().post("/ui/users", content=slowly(b'{"name": "Eve", "password": "heron and eel", "role": "admin"}'), headers=json_type)
        assert late.status_code >= 400 and [user.name for user in await house.accounts.list()] == ["Ann"]
        inside = FastAPI()  # the routes alone: as if the table had been looked at before
        install_error_handlers(inside)
        for router in account_routers(house.app):
            inside.include_router(router)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(inside), base_url="http://localhost") as eve:
            for method, path, body in (
                ("POST", "", {"name": "Eve", "password": "heron and eel", "role": "admin"}), ("POST", f"/{FIRST_PERSON}/password", {"new": "heron and eel"}),
                ("PATCH", f"/{FIRST_PERSON}", {"name": "Eve"}), ("DELETE", f"/{FIRST_PERSON}", None), ("GET", f"/{FIRST_PERSON}/access", None),
            ):  # fmt: skip
                assert (await eve.request(method, f"/ui/users{path}", json=body)).status_code == 403, path
        assert [user.name for user in await house.accounts.list()] == ["Ann"] and await house.accounts.log_in("Ann", PASSWORD)
        assert not await gate._still_without()
    finally:
        await house.app.close()


async def test_counting_failures_forgets_the_oldest() -> None:
    log_ins = LogIns()
    for n in range(10_100):
        log_ins.failed(f"10.{n}", "Ann")
    assert len(log_ins._addresses._counts) == 10_000 and log_ins.held("10.10099", "Ann") and not log_ins.held("10.0", "Ann")


async def test_an_open_stream_is_looked_at_in_the_database_and_not_in_what_is_remembered(tmp_path: Path) -> None:
    """What another process ended is remembered as good for some seconds, which would come on top of those between two looks."""
    house = House(tmp_path)
    await house.app.start()
    await house.fill()
    gate = AccountGate(house.api, accounts=house.accounts, check=KeyCheck(KEY), is_set=False, is_local=True)
    elsewhere = Storage(house.app.settings.state_dir)
    beside = AccountService(elsewhere)
    key, ben = await house.key("Ben", "chat"), await beside.named("Ben")
    assert ben
    cookie = {"type": "http", "method": "GET", "path": "/ui/jobs", "headers": [(b"cookie", f"{COOKIE}={house.sessions['Ben']}".encode())]}
    bearer = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"authorization", f"Bearer {key}".encode())]}
    for scope in (cookie, bearer):
        assert await gate._person(scope, headers_of(scope)) and await gate._still(scope)
    await beside.change(ben.id, disabled=True)
    for scope in (cookie, bearer):
        assert not await gate._still(scope)
    await beside.close()
    await elsewhere.close()
    await house.app.close()


async def test_guesses_that_are_sent_all_at_once_are_no_more(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.app.start()
    await house.fill()

    async def status(name: str, password: str, address: str) -> int:
        return (await house.client(address=address).post("/login", data={"name": name, "password": password})).status_code

    found = await asyncio.gather(*(status("Gil", f"wrong {number}", "10.0.1.1") for number in range(4 * FAILURES_PER_MINUTE)))
    assert (found.count(401), found.count(429)) == (FAILURES_PER_MINUTE, 3 * FAILURES_PER_MINUTE)
    good = await asyncio.gather(*(status("Ann", PASSWORD, "10.0.1.2") for _ in range(2 * FAILURES_PER_MINUTE)))  # a whole class that logs in
    assert good == [303] * (2 * FAILURES_PER_MINUTE)
    await house.accounts.create("Fay", PASSWORD, "chat")
    entered = await house.client(address="10.0.1.3").post("/login", data={"name": "Fay", "password": PASSWORD})
    fay = {"cookie": entered.headers["set-cookie"].split(";")[0]}

    async def changed(old: str) -> int:
        return (await house.client().post("/ui/account/password", json={"old": old, "new": "another one"}, headers=fay)).status_code

    found = await asyncio.gather(*(changed(f"wrong {number}") for number in range(2 * FAILURES_PER_MINUTE)))
    assert (found.count(403), found.count(429)) == (FAILURES_PER_MINUTE, FAILURES_PER_MINUTE)
    await house.app.close()


async def test_who_has_no_key_is_told_no_names_of_models(tmp_path: Path) -> None:
    names = {"status", "loaded", "loading"}
    for settings, of_strangers in (({}, {"status"}), ({"api_key": None}, names), ({"multi_user": True}, {"status"}), ({"multi_user": True, "api_key": None}, names)):
        house = House(tmp_path / str(len(settings)) / str(settings.get("multi_user")), **settings)
        await house.app.start()
        try:
            told_strangers, told_others = [await told(client.get("/health")) for client in (house.client(), house.client(key=KEY))]
        finally:
            await house.app.close()
        assert (told_strangers.keys(), told_others.keys()) == (of_strangers, names), settings


async def test_private_conversations_go_with_their_account(tmp_path: Path) -> None:
    """They would lie in memory until the server stops: only their own page forgets them."""
    house = House(tmp_path)
    await house.app.start()
    await house.fill()
    try:
        ids = {user.name: user.id for user in await house.accounts.list()}
        opened = {name: (await told(house.client(name).post("/ui/conversations", json={"private": True})))["id"] for name in ("Cem", "Dee")}
        assert (await house.client("Ann").delete(f"/ui/users/{ids['Cem']}")).status_code == 200
        assert await house.app.conversation_bin.private_of(ids["Cem"]) == ()
        assert await house.app.conversation_bin.private_of(ids["Dee"]) == (opened["Dee"],)
    finally:
        await house.app.close()
