"""Accounts over a real database: who there is, passwords, sessions, keys; one administrator always stays. The hash is a cheap one of the same kind."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from modules.core.errors import Busy, Conflict, Forbidden, InvalidRequest, NotFound
from modules.core.person import FIRST_PERSON, Person, own_folder
from modules.services.accounts import AccountService
from modules.services.passwords import WAITING_LIMIT, Passwords
from modules.services.storage import Storage

CHEAP = 4
PASSWORD = "heron and otter"


class House:
    def __init__(self, folder: Path) -> None:
        self.storage = Storage(folder)
        self.accounts = self.again()

    def again(self) -> AccountService:
        """The service as another process has it."""
        return AccountService(self.storage, Passwords(CHEAP))

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        def run(stores: Any) -> list[Any]:
            with stores.database.write() as connection:
                done = connection.execute(text(statement), values)
                return list(done) if done.returns_rows else []

        return await self.storage.run(run)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.accounts.close()
    await house.storage.close()


async def test_the_first_of_several_at_once_becomes_the_administrator(house: House) -> None:
    assert not await house.accounts.on()
    made = await asyncio.gather(*(house.accounts.create_first(f"User {n}", PASSWORD) for n in range(6)), return_exceptions=True)
    won = [user for user in made if not isinstance(user, BaseException)]
    assert [(user.id, user.role) for user in won] == [(FIRST_PERSON, "admin")]
    assert all(isinstance(lost, Conflict) for lost in made if lost not in won)
    assert await house.accounts.on() and await house.accounts.list() == tuple(won)
    assert await house.again().on()


@pytest.mark.parametrize(
    ("name", "password", "role", "error", "words"),
    [
        ("  ANN ", PASSWORD, "chat", Conflict, "“Ann” already"),
        ("\uff21nn", PASSWORD, "chat", Conflict, "“Ann” already"),
        ("", PASSWORD, "chat", InvalidRequest, "1 to 64 characters"),
        ("a\u200bb", PASSWORD, "chat", InvalidRequest, "invisible"),
        ("x" * 65, PASSWORD, "chat", InvalidRequest, "1 to 64 characters"),
        ("Ben", "1234567", "chat", InvalidRequest, "8 to 1000 characters; this one has 7"),
        ("Ben", "x" * 1001, "chat", InvalidRequest, "this one has 1001"),
        ("Ben", PASSWORD, "root", InvalidRequest, "chat, manage, admin"),
    ],
)
async def test_what_cannot_be_an_account_is_said(house: House, name: str, password: str, role: Any, error: type[Exception], words: str) -> None:
    await house.accounts.create_first("Ann", PASSWORD)
    with pytest.raises(error, match=words):
        await house.accounts.create(name, password, role)
    assert len(await house.accounts.list()) == 1


async def test_an_administrator_always_stays(house: House) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    for refused in (
        house.accounts.delete(ann.id), house.accounts.change(ann.id, role="manage"), house.accounts.change(ann.id, disabled=True),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match="only administrator"):
            await refused
    assert await house.accounts.list() == (ann,)
    ben = await house.accounts.create("Ben", PASSWORD, "admin")
    results = await asyncio.gather(house.accounts.delete(ann.id), house.accounts.delete(ben.id), return_exceptions=True)
    assert [type(result) for result in results].count(InvalidRequest) == 1 and len(await house.accounts.list()) == 1
    with pytest.raises(NotFound):
        await house.accounts.change("unknown", role="chat")


async def test_logging_in_and_out(house: House) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    identities = house.accounts.identities
    for name, password in (("Ann", PASSWORD + "x"), ("Ben", PASSWORD), ("", ""), ("Ann", PASSWORD.upper()), ("Ann", "\ud800")):
        assert await house.accounts.log_in(name, password) is None
    found = await house.accounts.log_in(" aNN", PASSWORD, "Firefox " * 100)
    assert found is not None and found[0] == ann
    token = found[1]
    person = await identities.of_session(token)
    assert person == Person(FIRST_PERSON, "admin", "Ann", session_id=person.session_id if person else "")
    (row,) = await identities.sessions(ann.id)
    assert len(row.agent) == 200 and row.id == person.session_id and token not in str(await house.sql("SELECT * FROM sessions"))
    assert await identities.of_session(token[:-1]) is None
    assert await house.again().identities.of_session(token) == person  # a restart ends none
    await identities.end_session(token)
    assert await identities.of_session(token) is None and await identities.sessions(ann.id) == ()


async def test_a_session_lasts_thirty_days_from_its_last_use(house: House) -> None:
    await house.accounts.create_first("Ann", PASSWORD)
    (_, token), (_, old) = [found for found in (await house.accounts.log_in("Ann", PASSWORD), await house.accounts.log_in("Ann", PASSWORD)) if found]
    later = time.time() + 29 * 24 * 3600
    await house.sql("UPDATE sessions SET seen_s = seen_s - 1000, expires_s = expires_s - 1000")
    assert await house.again().identities.of_session(token)
    lasting = {row[0] > later for row in await house.sql("SELECT expires_s FROM sessions")}
    assert lasting == {True}
    assert len(await house.sql("SELECT 1 FROM sessions WHERE seen_s > :now", now=time.time() - 100)) == 1
    await house.sql("UPDATE sessions SET expires_s = :past WHERE seen_s < :now", past=time.time() - 1, now=time.time() - 100)
    assert await house.again().identities.of_session(old) is None
    assert await house.accounts.log_in("Ann", PASSWORD)
    assert len(await house.sql("SELECT 1 FROM sessions")) == 2  # what has expired is gone


async def test_another_password_ends_the_other_sessions(house: House) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    tokens = [found[1] for found in [await house.accounts.log_in("Ann", PASSWORD) for _ in range(3)] if found]
    identities = house.accounts.identities
    here = await identities.of_session(tokens[0])
    assert here
    with pytest.raises(Forbidden, match="not your present password"):
        await house.accounts.change_password(ann.id, "wrong", "another one", but=here.session_id)
    with pytest.raises(InvalidRequest, match="8 to 1000"):
        await house.accounts.change_password(ann.id, PASSWORD, "short", but=here.session_id)
    assert len(await identities.sessions(ann.id)) == 3
    await house.accounts.change_password(ann.id, PASSWORD, "another one", but=here.session_id)
    assert [await identities.of_session(token) for token in tokens] == [here, None, None]
    assert await house.accounts.log_in("Ann", PASSWORD) is None and await house.accounts.log_in("Ann", "another one")
    await house.accounts.set_password(ann.id, PASSWORD)
    assert await identities.of_session(tokens[0]) is None


async def test_who_is_disabled_is_out_until_they_are_enabled(house: House) -> None:
    await house.accounts.create_first("Ann", PASSWORD)
    ben = await house.accounts.create("Ben", PASSWORD)
    identities = house.accounts.identities
    found, (key, _) = await house.accounts.log_in("Ben", PASSWORD), await identities.create_key(ben, "phone", ["chat"])
    assert found and await identities.of_session(found[1]) and await identities.of_key(key)
    await house.accounts.change(ben.id, disabled=True)
    assert await identities.of_session(found[1]) is None and await identities.of_key(key) is None and await house.accounts.log_in("Ben", PASSWORD) is None
    await house.accounts.change(ben.id, disabled=False, name="Benjamin", role="manage")
    assert await identities.of_session(found[1]) is None
    person = await identities.of_key(key)
    assert person and (person.name, person.role) == ("Benjamin", "manage")


async def test_a_key_does_what_its_scopes_and_its_persons_role_allow(house: House) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    ben = await house.accounts.create("Ben", PASSWORD, "manage")
    identities = house.accounts.identities
    for scopes, words in ((["admin"], "cannot have the scope “admin”"), ([], "needs a scope"), (["everything"], "offers: chat, models, jobs")):
        with pytest.raises(InvalidRequest, match=words):
            await identities.create_key(ben, "phone", scopes)  # type: ignore[arg-type]
    for name, days in (("", None), ("x" * 65, None), ("phone", 0.0), ("phone", 4000.0), ("phone", float("nan"))):
        with pytest.raises(InvalidRequest):
            await identities.create_key(ben, name, ["chat"], days)
    key, row = await identities.create_key(ben, " phone ", ["jobs", "chat"], 1)
    assert key.startswith(f"pdk_{row.id}_") and row.name == "phone" and row.scopes == ("chat", "jobs")
    assert key.rpartition("_")[2] not in str(await house.sql("SELECT * FROM api_keys"))
    person = await identities.of_key(key)
    assert person and person.id == ben.id
    assert [need for need in ("known", "page", "chat", "models", "jobs", "manage", "admin") if person.may(need)] == ["known", "chat", "jobs"]  # type: ignore[arg-type]
    await house.accounts.change(ben.id, role="chat")
    person = await identities.of_key(key)
    assert person and not person.may("jobs") and person.may("chat") and not person.manages
    whole, _ = await identities.create_key(ann, "all", ["admin"])
    person = await identities.of_key(whole)
    assert person and person.administers and person.may("page")
    for wrong in (key[:-1], key + "x", key.replace("pdk_", "pdx_"), f"pdk_{row.id}_", "pdk_", "", f"pdk_nothing_{key.rpartition('_')[2]}", whole.replace(whole.split("_")[1], row.id)):
        assert await identities.of_key(wrong) is None, wrong


async def test_keys_end(house: House) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    ben = await house.accounts.create("Ben", PASSWORD)
    identities = house.accounts.identities
    key, row = await identities.create_key(ann, "phone", ["chat"])
    assert row.used_s is None and await identities.of_key(key)
    (used,) = await identities.keys(ann.id)
    assert used.used_s and await house.again().identities.of_key(key) and (await identities.keys(ann.id)) == (used,)  # not with every use
    with pytest.raises(NotFound):
        await identities.revoke_key(ben.id, row.id)
    await identities.revoke_key(ann.id, row.id)
    assert await identities.of_key(key) is None and (await identities.keys(ann.id))[0].revoked_s
    await identities.revoke_key(ann.id, row.id)
    assert await identities.keys(ann.id) == ()
    brief, _ = await identities.create_key(ann, "brief", ["chat"], 1)
    await house.sql("UPDATE api_keys SET expires_s = :past", past=time.time() - 1)
    assert await identities.of_key(brief) is None


async def test_what_somebody_wrote_goes_with_them(house: House) -> None:
    await house.accounts.create_first("Ann", PASSWORD)
    ben = await house.accounts.create("Ben", PASSWORD)
    key, _ = await house.accounts.identities.create_key(ben, "phone", ["chat"])
    for owner in (FIRST_PERSON, ben.id):
        await house.storage.run(lambda stores, owner=owner: (stores.conversations.create(owner, {}), stores.notebooks.create(owner, "Mine", "heron")))
    assert house.storage.folder
    theirs = own_folder(house.storage.folder, ben.id)
    theirs.mkdir(parents=True)
    await house.accounts.delete(ben.id)
    assert not theirs.exists() and theirs.parent.exists()
    assert await house.accounts.identities.of_key(key) is None and await house.accounts.log_in("Ben", PASSWORD) is None
    assert await house.sql("SELECT 1 FROM api_keys") == []
    assert [row[0] for row in await house.sql("SELECT owner FROM conversations WHERE bin_id IS NULL")] == [FIRST_PERSON]
    assert [row[0] for row in await house.sql("SELECT owner FROM bin")] == [ben.id]
    assert [row[0] for row in await house.sql("SELECT owner FROM notebooks WHERE deleted_s IS NULL")] == [FIRST_PERSON]
    assert (await house.accounts.create("Ben", PASSWORD)).id != ben.id  # the name is free, what was theirs is not


async def test_a_database_that_cannot_be_written_locks_nobody_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await house.accounts.create_first("Ann", PASSWORD)
    found, (key, _) = await house.accounts.log_in("Ann", PASSWORD), await house.accounts.identities.create_key(ann, "phone", ["chat"])
    assert found
    await house.sql("UPDATE sessions SET seen_s = 0")
    await house.sql("CREATE TRIGGER full_1 BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'full'); END")
    await house.sql("CREATE TRIGGER full_2 BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'full'); END")
    assert await house.accounts.identities.of_session(found[1]) and await house.accounts.identities.of_key(key)


# ---- hashes --------------------------------------------------------------------------------------------------------


async def test_hashes_are_salted_and_say_how_they_were_made() -> None:
    passwords, costlier = Passwords(CHEAP), Passwords(CHEAP + 1)
    one, two = await passwords.hash(PASSWORD), await passwords.hash(PASSWORD)
    assert one != two and one.startswith("scrypt$4$")
    assert await costlier.fits(PASSWORD, one) and not await costlier.fits(PASSWORD + " ", one)
    assert not await passwords.fits(PASSWORD, None) and not await passwords.fits("", None)
    assert (await Passwords().hash(PASSWORD)).startswith("scrypt$15$")


async def test_a_flood_of_passwords_is_refused_and_the_loop_stays_free() -> None:
    passwords = Passwords(10)
    kept = await passwords.hash(PASSWORD)
    asked = [asyncio.ensure_future(passwords.fits(PASSWORD, kept)) for _ in range(WAITING_LIMIT + 5)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in done].count(Busy) == 5 and done.count(True) == WAITING_LIMIT
    await passwords.close()


def test_records_hold_no_secret() -> None:
    from modules.services.accounts import KeyRecord, SessionRecord, UserRecord

    names = {field.name for record in (KeyRecord, SessionRecord, UserRecord) for field in dataclasses.fields(record)}
    assert names.isdisjoint({"password", "digest", "secret", "token"})
