"""Accounts in front of all routes: every route has a row in the table of needs, and each role and each key gets what the table says, by every route."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from modules.api.access import AccountGate
from modules.api.app import build_api
from modules.api.auth import COOKIE, FAILURES_PER_MINUTE, KeyCheck
from modules.api.guard import DENIED_PATHS
from modules.api.lasting import Lasting
from modules.api.login import counted_address, own_path
from modules.api.needs import NEEDS, need_of, row_of
from modules.core.person import FIRST_PERSON, Person, Role, Scope, asked_by
from modules.core.settings import Settings
from modules.services.accounts import AccountService
from modules.services.app import build_app
from modules.services.conversation_settings import ConversationSettings
from modules.services.passwords import Passwords
from modules.ui.app import ViewRendering
from modules.ui.mount import mount_page
from tests.api.test_people import BODIES, OF_A_MESSAGE, TOUCHES, begun, kept, named, routes_of, told

KEY = "the-key-of-this-server"
PASSWORD = "heron and otter"
NAMES: tuple[tuple[str, Role], ...] = (("Ann", "admin"), ("Ben", "manage"), ("Cem", "chat"), ("Dee", "chat"))
# Routes of Gradio that nothing here uses: they stay closed but for administrators, or the guard denies them to all
UNUSED = re.compile(r"(GET|POST) /(login|logout)/?|GET /(docs|redoc|openapi\.json).*|(POST|PUT|PATCH|DELETE) /gradio_api/(?!run/predict|queue/join|upload|cancel|reset).*")
# Every handler of the page that changes nothing of others
READS = frozenset({
    "show_loader", "show_defaults", "show_best", "hide_advice", "show_last_good", "show_changes", "show", "shown", "pick", "collect", "collect_edit", "collect_shown", "switches", "apply_preset", "reset_one",
    "ask_delete", "looked_at", "picked", "asked", "told", "taken", "<lambda>",
})  # fmt: skip
# These tell strangers nothing, in another way than “there is none”
HARMLESS = ("/there", "/forget", "/context", "/summarise")


class House:
    """A server with accounts of every role, and its page."""

    def __init__(self, folder: Path, *, page: bool = False, **settings: Any) -> None:
        places = {name: folder / name for name in ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "characters_dir", "state_dir")}
        self.app = build_app(Settings(**{**places, "model": "none", "api_key": KEY, **settings}))
        self.app.accounts._passwords = Passwords(4)  # the same hash, at a lower cost
        self.api: FastAPI = build_api(self.app, ViewRendering(), (lambda api: mount_page(api, self.app)) if page else None)
        self.sessions: dict[str, str] = {}

    @property
    def accounts(self) -> AccountService:
        return self.app.accounts

    async def fill(self) -> None:
        await self.accounts.create_first("Ann", PASSWORD)
        for name, role in NAMES[1:]:
            await self.accounts.create(name, PASSWORD, role)
        for name, _ in NAMES:
            found = await self.accounts.log_in(name, PASSWORD)
            assert found
            self.sessions[name] = found[1]

    def client(self, name: str = "", *, key: str = "", address: str = "127.0.0.1") -> httpx.AsyncClient:
        """Somebody's browser, or a program with a key."""
        headers = {"authorization": f"Bearer {key}"} if key else {"cookie": f"{COOKIE}={self.sessions[name]}"} if name else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.api, client=(address, 1)), base_url="http://localhost", headers=headers)

    async def key(self, name: str, *scopes: Scope) -> str:
        user = await self.accounts.named(name)
        assert user
        return (await self.accounts.identities.create_key(user, "test", scopes))[0]

    def routes(self) -> list[str]:
        """All of them as “METHOD path”, those of the page's framework too."""
        found = {name for route in all_routes(self.api.routes) for name in named(route) if "{rest:path}" not in name}
        return sorted(name for name in found if not DENIED_PATHS.search(name.split(" ")[1]))


def all_routes(rows: Any) -> Iterator[Any]:
    yield from routes_of(rows)
    for row in rows:
        if hasattr(row, "app"):
            yield from routes_of(getattr(row.app, "routes", ()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    house = House(tmp_path_factory.mktemp("house"), page=True)
    await house.app.start()
    await house.fill()
    yield house
    await house.app.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def asked(row: str) -> tuple[str, str]:
    """A request to a route: what stands in braces is made up."""
    method, path = row.split(" ")
    return method, re.sub(r"\{.*?\}", "x", path)


# ---- the table -----------------------------------------------------------------------------------------------------


async def test_every_route_has_a_row_and_every_row_a_meaning(house: House) -> None:
    routes = house.routes()
    assert {"GET /", "POST /gradio_api/queue/join", "GET /gradio_api/file={path_or_url:path}", "GET /theme.css", "POST /v1/completions", "DELETE /ui/users/{user_id}"} <= set(routes)
    missing = [row for row in routes if row_of(*asked(row)) is None and not UNUSED.fullmatch(row)]
    assert not missing, f"without a row in modules/api/needs.py, so for administrators only: {missing}"
    for row in ("GET /ui/new-thing", "POST /v1/new-thing", "DELETE /new", "PUT /health/x", "TRACE /", "WEBSOCKET /gradio_api/x", "GET //", "POST /ui/accounts"):
        assert need_of(*row.split(" ")) == "admin", row
    assert len({row.paths.pattern + str(sorted(row.methods)) for row in NEEDS}) == len(NEEDS)


async def test_what_is_above_a_role_or_a_key_is_refused_by_every_route(house: House) -> None:
    people = {name: (house.client(name), Person(name, role)) for name, role in NAMES}
    for scope in ("chat", "models", "jobs"):
        people[scope] = (house.client(key=await house.key("Ann", scope)), Person("Ann", "admin", scopes=frozenset({scope})))
    people["lent"] = (house.client(key=await house.key("Ben", "jobs")), Person("Ben", "manage", scopes=frozenset({"jobs"})))
    wrong = []
    checked = 0
    for row in house.routes():
        method, path = asked(row)
        need = need_of(method, path)
        if need == "open":
            continue
        anonymous = await house.client().request(method, path, json={})
        if anonymous.status_code not in (303, 401):
            wrong.append(f"nobody {row}: {anonymous.status_code}")
        for name, (client, person) in people.items():
            if person.may(need):
                continue
            answer = await client.request(method, path, json={})
            checked += 1
            said = answer.json()["error"] if answer.status_code == 403 else {}  # Anthropic's errors have no code, Ollama's are a sentence
            if answer.status_code != 403 or (said["code"] != "forbidden" if "code" in said else "this needs" not in str(said) and "lacks the scope" not in str(said)):
                wrong.append(f"{name} {row}: {answer.status_code}")
    assert not wrong, "\n".join(wrong)
    assert checked > 500


async def test_what_is_within_a_role_or_a_key_is_let_through(house: House) -> None:
    keys: dict[Scope, str] = {scope: await house.key("Ann", scope) for scope in ("chat", "models", "jobs", "admin")}
    for scope, method, path in (
        ("chat", "POST", "/v1/completions"), ("chat", "POST", "/v1/internal/encode"), ("chat", "GET", "/v1/models"), ("models", "GET", "/v1/models"),
        ("models", "GET", "/metrics"), ("admin", "GET", "/ui/users"), ("admin", "POST", "/v1/completions"), ("admin", "GET", "/ui/conversations"), ("jobs", "GET", "/v1/openapi.json"),
    ):  # fmt: skip
        answer = await house.client(key=keys[scope]).request(method, path, json={})
        assert answer.status_code not in (401, 403), f"{scope} {path} {answer.text}"
    key = keys["chat"]
    for headers in ({"authorization": f"bearer {key}"}, {"authorization": key}, {"x-api-key": key}, {"authorization": "Basic eDp5", "x-api-key": key}):
        assert (await house.client().get("/v1/models", headers=headers)).status_code == 200
        refused = await house.client().get("/metrics", headers=headers)
        assert refused.status_code == 403 and refused.json()["error"]["message"].startswith("This key may not do that: it lacks the scope “models”.")
    refused = await house.client("Cem").post("/ui/library/delete", json={})
    assert "it has the role “chat”, and this needs “manage”" in refused.json()["error"]["message"]
    refused = await house.client("Ben").get("/ui/users")
    assert "this needs “admin”" in refused.json()["error"]["message"]
    for name, role in NAMES:
        person = await told(house.client(name).get("/ui/person"))
        assert (person["accounts"], person["name"], person["role"]) == (True, name, role)
        assert (bool(person["refused"]), bool(person["not_admin"])) == (role == "chat", role != "admin")
        assert (await house.client(name).patch("/ui/chat-preferences", json={"begin_as_last": role == "chat"})).status_code == 200
        choices = (await told(house.client(name).get("/ui/chat-preferences")))["choices"]
        assert [row["value"] for row in choices if row["name"] == "begin_as_last"] == [role == "chat"]  # each their own
    page = await house.client("Cem").get("/")
    assert page.status_code == 200 and "gradio" in page.text.lower() and page.headers.get_list("cache-control") == ["no-store"]
    assert "etag" not in page.headers
    assert (await house.client(key=KEY).get("/ui/users")).status_code == 200


async def test_a_model_that_is_not_loaded_is_loaded_only_by_who_may(house: House, starter_dir: Path) -> None:
    folder = house.app.settings.models_dir / "starter"
    folder.mkdir(exist_ok=True)
    (folder / "starter-Q8_0.gguf").symlink_to(starter_dir / "starter-Q8_0.gguf")
    asked = {"model": "starter/starter-Q8_0.gguf", "prompt": "Hi", "max_tokens": 1}
    for client in (house.client("Cem"), house.client(key=await house.key("Ann", "chat"))):
        refused = await client.post("/v1/completions", json=asked)
        assert refused.status_code == 403 and "is not loaded" in refused.text and house.app.models.loaded_names() == ()
    for key, status in (("chat", 403), ("models", 403), ("both", 200)):  # unloading as Ollama's clients do it
        scopes: tuple[Scope, ...] = ("chat", "models") if key == "both" else ("chat",) if key == "chat" else ("models",)
        unload = await house.client(key=await house.key("Ben", *scopes)).post("/api/generate", json={"model": asked["model"], "keep_alive": 0})
        assert unload.status_code == status, (key, unload.text)
    unknown = await house.client("Cem").post("/v1/completions", json={**asked, "model": "no such"})
    assert unknown.status_code == 404


# ---- whose is what -------------------------------------------------------------------------------------------------


async def test_nobody_reaches_what_is_anothers_by_any_route(house: House) -> None:
    ann, dee = house.client("Cem"), house.client("Dee")
    mine, his = await begun(ann), await begun(dee)
    before = await kept(ann, mine)
    walked = [row for row in house.routes() if re.search(r"/ui/.*\{(conversation|message|attachment|bin|notebook)_id\}", row)]
    assert len(walked) > 35
    wrong: list[str] = []
    for client in (dee, house.client("Ann")):  # an administrator neither
        for row in walked:
            method, path = row.split(" ")
            body = {name: value.format(message=mine["message_id"]) if isinstance(value, str) else value for name, value in BODIES.get(row, BODIES[""]).items()}
            answer = await client.request(method, path.format(**mine), json=None if method == "GET" else body, params={"before": mine["message_id"], "form": "markdown", "name": "a.txt"})
            if (answer.status_code != 404 and not row.endswith(HARMLESS)) or "heron" in answer.text or "Mine" in answer.text:
                wrong.append(f"{row}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    for name in OF_A_MESSAGE:  # another's message in a conversation of one's own
        answer = await dee.post(f"/ui/conversations/{his['conversation_id']}/{name}", json={"message_id": mine["message_id"], **TOUCHES.get(name, {})})
        assert answer.status_code == 404, f"{name}: {answer.status_code} {answer.text[:300]}"
    assert await kept(ann, mine) == before
    assert {row["id"] for row in (await told(house.client("Ann").get("/ui/conversations?search=heron")))["conversations"]} == set()


async def test_profiles_are_each_persons_own(house: House) -> None:
    told_of = {}
    for name in ("Ann", "Cem", "Dee"):
        client = house.client(name)
        kept_as = (await told(client.post("/ui/profiles", json={"values": {"name": "Me", "description": f"I am {name}."}})))["name"]
        assert kept_as == "Me" and [row["name"] for row in (await told(client.get("/ui/profiles")))["cards"]] == ["Me"]
        user = await house.accounts.named(name)
        assert user
        with asked_by(Person(user.id, user.role, session_id="x")):
            _, profile = await house.app.casting.cards(ConversationSettings(profile="Me"))
            told_of[name] = profile.description if profile else ""
    assert told_of == {name: f"I am {name}." for name in told_of}
    assert (await house.client("Cem").delete("/ui/profiles/Me")).status_code == 200 and (await house.client("Dee").get("/ui/profiles/Me")).status_code == 200
    assert (await house.client("Cem").post("/ui/characters", json={"values": {"name": "Everybody's"}})).status_code == 403


async def test_handlers_of_the_page_that_change_something_look_at_who_asks(house: House) -> None:
    """Gradio calls every handler by its number for who may call any: those that change what belongs to all look again."""
    (blocks,) = [row.app.blocks for row in house.api.routes if hasattr(getattr(row, "app", None), "blocks")]
    unchecked = []
    for handler in blocks.fns.values():
        if handler.fn is None:
            continue
        assert handler.api_visibility == "private", handler.name
        function = inspect.unwrap(handler.fn)
        if function.__name__ not in READS and not re.search(r"check_manages\(|self\._may\(", inspect.getsource(function)):
            unchecked.append(f"{function.__module__}.{function.__qualname__}")
    assert len(blocks.fns) > 30 and not unchecked, unchecked


# ---- the ways in ---------------------------------------------------------------------------------------------------


async def test_logging_in_by_the_form(house: House) -> None:
    browser = house.client()
    led = await browser.get("/?chat=abc%20d")
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/%3Fchat%3Dabc%2520d")
    form = (await browser.get(led.headers["location"])).text
    assert 'autocomplete="username"' in form and 'autocomplete="current-password"' in form and 'name="next" value="/?chat=abc%20d"' in form
    wrong = await browser.post("/login", data={"name": 'Cem"><b>', "password": "wrong", "next": "/?chat=1"}, headers={})
    assert wrong.status_code == 401 and "do not fit" in wrong.text and 'value="Cem&quot;&gt;&lt;b&gt;"' in wrong.text and 'value="/?chat=1"' in wrong.text and "wrong" not in wrong.text
    entered = await browser.post("/login", data={"name": "cem", "password": PASSWORD, "next": "/?chat=abc%20d"}, headers={"user-agent": "A browser"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/?chat=abc%20d")
    cookie = entered.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=")) and "Secure" not in cookie
    account = await told(browser.get("/ui/account"))
    assert account["name"] == "Cem" and account["scopes"] == ["chat"] and [row["agent"] for row in account["sessions"] if row["current"]] == ["A browser"]
    assert (await browser.get("/login?next=//evil.example")).headers["location"] == "/"
    left = await browser.post("/logout")
    assert (left.status_code, left.headers["location"], left.headers["clear-site-data"]) == (303, "/login", '"storage"')
    assert COOKIE not in browser.cookies and (await browser.get("/ui/account", headers={"cookie": cookie.split(";")[0]})).status_code == 401
    behind = await house.client().post("/login", data={"name": "Cem", "password": PASSWORD}, headers={"x-forwarded-proto": "https"})
    assert "Secure" in behind.headers["set-cookie"]
    https = httpx.AsyncClient(transport=httpx.ASGITransport(house.api, root_path="/llm"), base_url="https://localhost")
    entered = await https.post("/llm/login", data={"name": "Cem", "password": PASSWORD, "next": "/x"})
    assert entered.headers["location"] == "/llm/x" and "Secure" in entered.headers["set-cookie"] and "Path=/llm" in entered.headers["set-cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "", "evil", "/\t/evil.example", "/ /x", "/login", "/logout", "javascript:alert(1)", "/a\r\nb: c"])
async def test_after_the_log_in_only_ones_own_pages_are_gone_to(path: str) -> None:
    assert own_path(path) == "/"


async def test_guesses_are_held_up_and_the_right_password_from_elsewhere_is_not(house: House) -> None:
    async def status(name: str, password: str, address: str) -> int:
        answer = await house.client(address=address).post("/login", data={"name": name, "password": password})
        assert (answer.status_code == 429) == ("retry-after" in answer.headers)
        return answer.status_code

    for _ in range(FAILURES_PER_MINUTE + 2):
        assert await status("Ann", PASSWORD, "10.0.0.1") == 303  # successes count for nothing
    assert [await status("Ann", "wrong", "10.0.0.1") for _ in range(FAILURES_PER_MINUTE + 1)] == [401] * FAILURES_PER_MINUTE + [429]
    assert await status("Ann", PASSWORD, "10.0.0.1") == 429 and await status("Ben", PASSWORD, "10.0.0.1") == 429
    assert await status("Ann", PASSWORD, "10.0.0.2") == 303
    # one name from many addresses: each has one guess
    assert [await status("Ann", "wrong", "10.0.0.3"), await status(" ANN", PASSWORD, "10.0.0.3"), await status("Ben", PASSWORD, "10.0.0.3")] == [401, 429, 303]
    assert [await status("Ann", "wrong", "10.0.0.5"), await status("\uff21nn", PASSWORD, "10.0.0.5")] == [401, 429]  # the same name, spelled with a wide letter
    keys = [(await house.client(key=f"pdk_{n}_x", address="10.0.0.4").get("/v1/models")).status_code for n in range(FAILURES_PER_MINUTE + 2)]
    assert keys == [401] * FAILURES_PER_MINUTE + [429, 429]
    good = await house.key("Ben", "chat")
    assert (await house.client(key=good, address="10.0.0.4").get("/v1/models")).status_code == 200
    assert (await house.client(key=KEY, address="10.0.0.4").get("/v1/models")).status_code == 200


async def test_a_stream_ends_for_who_is_not_let_in_any_more(house: House) -> None:
    sent: list[bytes] = []

    async def send(event: Any) -> None:
        assert sent[-1:] != [b""], "nothing comes after the end"
        sent.append(event.get("body", b"start"))

    ben = await house.accounts.log_in("Ben", PASSWORD)
    assert ben
    scope = {"type": "http", "method": "GET", "path": "/ui/users", "headers": [(b"cookie", f"{COOKIE}={ben[1]}".encode())]}
    gate = AccountGate(house.api, accounts=house.accounts, check=KeyCheck(KEY), is_set=False, is_local=True)
    lasting = Lasting(send, lambda: gate._still({**scope, "path": "/ui/jobs"}), scope, 0)
    for piece in (b"1", b"2"):
        await lasting.send({"type": "http.response.body", "body": piece, "more_body": True})
    assert not await gate._still(scope)  # what needs more than he has
    await house.accounts.identities.end_session(ben[1])
    for piece in (b"3", b"4"):
        await lasting.send({"type": "http.response.body", "body": piece, "more_body": True})
    assert sent == [b"1", b"2", b""]


@pytest.mark.parametrize(
    ("address", "forwarded", "counted"),
    [
        ("10.0.0.1", "1.2.3.4", "10.0.0.1"),  # only a proxy on this machine is believed
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),  # and only its own word
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "", "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", "", "10.0.0.1"),
        ("testclient", "", "testclient"),
    ],
)
async def test_where_failures_are_counted(address: str, forwarded: str, counted: str) -> None:
    assert counted_address({"client": (address, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}) == counted


async def test_the_first_account_is_made_on_the_page_and_takes_over_what_was_there(tmp_path: Path) -> None:
    house = House(tmp_path, api_key=None)
    await house.app.start()
    browser = house.client()
    mine = await begun(browser)
    before = await kept(browser, mine)
    assert (await told(browser.get("/ui/users"))) == {"on": False, "possible": True, "roles": ["chat", "manage", "admin"], "users": []}
    assert (await told(browser.get("/ui/account"))) == {"on": False}
    assert (await browser.get("/login")).headers["location"] == "/"
    short = await browser.post("/ui/users", json={"name": "Ann", "password": "short"})
    assert short.status_code == 400 and (await browser.get("/ui/models")).status_code == 200
    made = await told(browser.post("/ui/users", json={"name": "Ann", "password": PASSWORD, "role": "chat"}))
    assert (made["id"], made["role"]) == (FIRST_PERSON, "admin")
    assert await kept(browser, mine) == before  # logged in at once
    assert (await house.client().get("/ui/models")).status_code == 401 and (await house.client().get("/")).status_code == 303
    assert (await house.client().post("/ui/users", json={"name": "Eve", "password": PASSWORD, "role": "admin"})).status_code == 401
    assert (await house.client().get("/health")).json() == {"status": "ok"}  # names of models are nothing for strangers
    assert (await browser.get("/health")).json().keys() == {"status", "loaded", "loading"}
    await house.app.close()


async def test_accounts_are_administered_by_their_routes(house: House) -> None:
    ann = house.client("Ann")
    eve = await told(ann.post("/ui/users", json={"name": "Eve", "password": PASSWORD, "role": "manage"}))
    taken = await ann.post("/ui/users", json={"name": "EVE", "password": PASSWORD})
    assert taken.status_code == 409 and "“Eve” already" in taken.text
    browser = house.client()
    await browser.post("/login", data={"name": "Eve", "password": PASSWORD})
    made = await told(browser.post("/ui/account/keys", json={"name": "phone", "scopes": ["chat", "jobs"], "days": 30}))
    program = house.client(key=made["key"])
    assert (await program.get("/v1/models")).status_code == 200 and (await browser.post("/ui/account/keys", json={"name": "x", "scopes": ["admin"]})).status_code == 400
    access = await told(ann.get(f"/ui/users/{eve['id']}/access"))
    assert [row["name"] for row in access["keys"]] == ["phone"] and len(access["sessions"]) == 1 and made["key"] not in str(access)
    second = house.client()
    await second.post("/login", data={"name": "Eve", "password": PASSWORD})
    account = await told(browser.get("/ui/account"))
    (other,) = [row["id"] for row in account["sessions"] if not row["current"]]
    assert (await house.client("Cem").delete(f"/ui/account/sessions/{other}")).json() == {"ended": 0}  # another's
    for none in ("%25", other[:3]):
        assert (await told(browser.delete(f"/ui/account/sessions/{none}"))) == {"ended": 0}
    assert (await told(browser.delete(f"/ui/account/sessions/{other}"))) == {"ended": 1} and (await second.get("/ui/models")).status_code == 401
    assert (await browser.post("/ui/account/password", json={"old": "wrong", "new": "another one"})).status_code == 403
    assert (await browser.post("/ui/account/password", json={"old": PASSWORD, "new": "another one"})).status_code == 200
    assert (await browser.get("/ui/account")).status_code == 200
    tries = [(await browser.post("/ui/account/password", json={"old": "wrong", "new": "another one"})).status_code for _ in range(FAILURES_PER_MINUTE)]
    assert tries == [403] * (FAILURES_PER_MINUTE - 1) + [429]
    assert (await told(ann.patch(f"/ui/users/{eve['id']}", json={"role": "chat"})))["role"] == "chat"
    assert (await browser.post("/ui/training/start", json={})).status_code == 403  # from the next request on
    assert (await ann.delete(f"/ui/users/{eve['id']}/keys/{made['id']}")).status_code == 200 and (await program.get("/v1/models")).status_code == 401
    assert (await ann.post(f"/ui/users/{eve['id']}/password", json={"new": PASSWORD})).status_code == 200 and (await browser.get("/ui/account")).status_code == 401
    assert (await ann.delete(f"/ui/users/{eve['id']}")).status_code == 200 and (await ann.get(f"/ui/users/{eve['id']}/access")).status_code == 404
    own = (await told(ann.get("/ui/account")))["id"]
    for refused in (await ann.delete(f"/ui/users/{own}"), await ann.patch(f"/ui/users/{own}", json={"role": "chat"})):
        assert refused.status_code == 400 and "only administrator" in refused.text
    server = await house.client(key=KEY).post("/ui/account/keys", json={"name": "x", "scopes": ["chat"]})
    assert server.status_code == 403 and "belongs to no account" in server.text
