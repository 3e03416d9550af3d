"""Accounts on the page: the first one, a second person in a browser of their own, keys, limits, the audit log; what somebody may not do is held or not there; who waits is told."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.e2e.conftest import PHONE, open_profile
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, open_area
from tests.e2e.test_access import NAMELESS, serious
from tests.paddock_server import STARTER, PaddockServer, wait_for

PASSWORD, OTHER = "a heron at dusk", "an otter at dawn"


@pytest.fixture
def house(request: pytest.FixtureRequest, tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    running = PaddockServer(tmp_path, models_dir, loras_dir, *getattr(request, "param", ()))
    yield running
    running.close()


@pytest.fixture
def watch(house: PaddockServer) -> ConsoleWatch:
    return ConsoleWatch(f"localhost:{house.port}")


@pytest.fixture
def new_page(browser: Browser, house: PaddockServer, watch: ConsoleWatch) -> Iterator[Callable[..., Page]]:
    """A page in a browser of its own; all must have been quiet."""
    made: list[BrowserContext] = []

    def make(**options: object) -> Page:
        made.append(open_profile(browser, house, **options))
        watch.follow(made[-1])
        return made[-1].new_page()

    yield make
    complaints = watch.unexpected()  # before the streams of the pages are cut
    for context in made:
        context.close()
    assert not complaints, "\n".join(complaints)


def accounts(page: Page, area: str = "") -> Locator:
    """The dialog, with one of its areas."""
    if page.evaluate("async () => (await (await fetch('ui/person')).json()).accounts"):  # the page shows it when it knows it too
        page.locator(".who-name").click()
    else:
        page.get_by_label("More about chats").click()
        page.get_by_role("button", name=re.compile("^Accounts")).click()
    dialog = page.get_by_role("dialog")
    if area:
        dialog.get_by_role("tab", name=area).click()
    return dialog


def log_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def first_account(page: Page) -> None:
    dialog = accounts(page)
    expect(dialog).to_contain_text("open to everybody who reaches it")
    dialog.get_by_label("Name").fill("Ann")
    dialog.get_by_label("Password", exact=True).fill(PASSWORD)
    dialog.get_by_label("Password again").fill("something else")
    dialog.get_by_role("button", name="Create the first account").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not the same")
    expect(dialog.get_by_label("Name")).to_have_value("Ann")
    dialog.get_by_label("Password again").fill(PASSWORD)
    dialog.get_by_role("button", name="Create the first account").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_a_first_account_a_second_person_and_what_each_may_do(house: PaddockServer, new_page: Callable[..., Page], watch: ConsoleWatch) -> None:
    ann = ChatScreen(new_page(), house).open()
    ann.say("The heron is mine.")
    page = ann.page
    first_account(page)
    expect(ann.row("The heron is mine")).to_be_visible()

    dialog = accounts(page, "People")
    dialog.get_by_label("Name", exact=True).fill("Ben")
    dialog.get_by_role("button", name="Add", exact=True).click()
    drawn = dialog.get_by_label("Password of Ben").input_value()
    expect(dialog.get_by_role("list", name="People").get_by_role("listitem")).to_have_count(2)

    ben = ChatScreen(new_page(), house)
    ben.page.goto(house.url)
    log_in(ben.page, "ben", drawn)
    ben.ready()
    expect(ben.page.locator(".who")).to_contain_text("Ben")
    expect(ben.row("The heron is mine")).to_have_count(0)
    ben.say("The otter is mine.")
    mine = accounts(ben.page)
    expect(mine.get_by_role("tab")).to_have_count(0)  # people and the log are not his
    expect(mine.get_by_role("region", name="Usage")).to_contain_text(re.compile(r"\d+ tokens computed today"))
    ben.page.keyboard.press("Escape")
    open_area(ben.page, "Models")
    expect(ben.page.get_by_role("note")).to_contain_text("this needs “manage”")

    limit = dialog.get_by_label(re.compile("^Tokens a day of Ben"))
    limit.fill("1")
    limit.blur()
    expect(page.get_by_text("The daily limit of Ben is changed.")).to_be_visible()
    open_area(ben.page, "Chat")
    ben.box.fill("Once more")
    ben.box.press("Enter")
    expect(ben.reply).to_contain_text("Your limit of 1 tokens a day is reached")

    watch.allow("401")
    dialog.get_by_role("button", name="Disable Ben").click()
    expect(page.get_by_text("Ben is logged out and cannot log in.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()  # at once: the notice goes by itself
    expect(dialog.get_by_role("button", name="Disable Ben")).to_be_visible()
    ben.page.get_by_role("alert").get_by_role("link", name="Log in again").click()
    log_in(ben.page, "Ben", drawn)
    expect(ben.row("The otter is mine")).to_be_visible()

    dialog.get_by_role("tab", name="Audit log").click()
    table = dialog.get_by_role("region", name="Audit log")
    expect(table.get_by_role("row").filter(has_text="user.quota")).to_contain_text("Ben daily_tokens=1")
    dialog.get_by_role("searchbox").fill("login")
    expect(table.get_by_role("row").filter(has_text="user.quota")).to_have_count(0)
    expect(table.get_by_role("row").filter(has_text="login")).to_have_count(2)
    with page.expect_download() as file:
        dialog.get_by_role("link", name="Download").click()
    assert "user.create" in file.value.path().read_text(encoding="utf-8")


def make_first(page: Page, house: PaddockServer) -> None:
    made = page.request.post(f"{house.url}ui/users", data={"name": "Ann", "password": PASSWORD}, headers={"origin": house.url.rstrip("/")})
    assert made.ok


def test_a_key_is_shown_once_works_and_is_revoked(house: PaddockServer, new_page: Callable[..., Page]) -> None:
    page = new_page()
    make_first(page, house)
    ChatScreen(page, house).open()
    dialog = accounts(page)
    dialog.get_by_text("New key").click()
    dialog.get_by_label("What it is for").fill("script")
    dialog.get_by_role("button", name="Make the key").click()
    key = dialog.get_by_label("Key script", exact=True).input_value()

    def status() -> int:
        return httpx.get(f"{house.url}v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    assert status() == 200
    dialog.get_by_role("button", name="Revoke the key script").click()
    dialog.get_by_role("button", name="Revoke", exact=True).click()
    expect(dialog.get_by_role("button", name="Remove the key script")).to_be_visible()
    assert status() == 401
    page.keyboard.press("Escape")
    page.get_by_role("textbox", name="Message", exact=True).fill("half a thought")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    log_in(page, "Ann", PASSWORD)
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_have_value("")  # nothing is left to who logs in next

    page.request.post(f"{house.url}ui/users", data={"name": "Cara", "password": OTHER, "role": "manage"}, headers={"origin": house.url.rstrip("/")})
    page.get_by_role("button", name="Log out").click()
    log_in(page, "Cara", OTHER)
    page.get_by_label("More about chats").click()
    restart = page.get_by_role("button", name=re.compile("^Restart Paddock"))
    expect(restart).to_be_disabled()
    expect(restart).to_have_attribute("title", re.compile("this needs “admin”"))
    expect(page.get_by_role("button", name=re.compile("^Accounts"))).to_have_count(0)
    page.keyboard.press("Escape")
    open_area(page, "Models")
    expect(page.get_by_role("button", name=re.compile("^Unload")).first).to_be_enabled()
    expect(page.get_by_role("button", name="Add folder")).to_be_disabled()
    expect(page.get_by_role("note")).to_have_count(0)
    page.get_by_role("button", name=re.compile("^Unload")).first.click()
    audit = house.log_path.parent / "state" / "audit.jsonl"
    wait_for(lambda: re.search(r'"name": "Cara", "address": "[^"]+", "action": "model.unload"', audit.read_text(encoding="utf-8")), "it is noted who did it")


@pytest.mark.parametrize("house", [("--model", STARTER, "--option", "slots=1")], indirect=True)
def test_who_waits_is_told_how_many_are_before(house: PaddockServer, new_page: Callable[..., Page]) -> None:
    chat = ChatScreen(new_page(), house).open()
    long = {"prompt": "Once upon a time", "max_tokens": 900, "stream": True, "ban_eos": True}
    for _ in range(3):  # measured, so that a wait can be told
        house.ask("POST", "v1/completions", {**long, "max_tokens": 2, "stream": False})
    with house.slowed() as at_full_speed, contextlib.ExitStack() as stack:
        for waiting in (0, 1):
            stack.enter_context(house.http.stream("POST", "v1/completions", json=long))
            wait_for(lambda waiting=waiting: (house.counters()["running"], house.counters()["waiting"]) == (1, waiting), "it is taken")
        chat.send("And I?")
        expect(chat.reply).to_contain_text(re.compile(r"1 other is before you, about \d+ s"))
        stack.close()
        at_full_speed()
        assert chat.done()


def test_the_dialog_can_be_read_and_used_by_everybody(house: PaddockServer, new_page: Callable[..., Page]) -> None:
    page = new_page(viewport=PHONE)
    ChatScreen(page, house).open()
    page.get_by_role("button", name="Conversations", exact=True).click()
    accounts(page)
    found = serious(page, "first")
    make_first(page, house)
    page.request.post(f"{house.url}ui/users", data={"name": "Somebody with a long name indeed", "password": OTHER}, headers={"origin": house.url.rstrip("/")})
    ChatScreen(page, house).open()
    page.get_by_role("button", name="Conversations", exact=True).click()
    dialog = accounts(page)
    for area in ("Your account", "People", "Audit log"):
        dialog.get_by_role("tab", name=area).press("Enter")
        expect(dialog.get_by_role("listitem").or_(dialog.get_by_role("row")).first).to_be_visible()
        dialog.evaluate("dialog => dialog.querySelectorAll('details').forEach((part) => { part.open = true; })")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            expect(page.locator("body.dark")).to_have_count(int(scheme == "dark"))
            found += serious(page, f"{area}, {scheme}")
        found += page.evaluate(NAMELESS)
        assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth"), area
    assert found == []
    dialog.get_by_role("tab", name="Audit log").press("ArrowRight")
    expect(dialog.get_by_role("tab", name="Your account")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
