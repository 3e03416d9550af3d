"""Two people with accounts in two browsers: each sees their own, wherever they log in; who only chats is told why the rest is held; and the way out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import open_profile
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, open_area
from tests.paddock_server import PaddockServer, wait_for

PASSWORD = "heron and otter"


async def make_accounts(state: Path) -> None:
    # here: each worker reads this file, and these take it a second
    from modules.services.accounts import AccountService
    from modules.services.passwords import Passwords
    from modules.services.storage import Storage

    storage = Storage(state)
    accounts = AccountService(storage, Passwords(4))
    await accounts.create_first("Ann", PASSWORD)
    await accounts.create("Ben", PASSWORD)
    await accounts.close()
    await storage.close()


@pytest.fixture
def house(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    running = PaddockServer(tmp_path, models_dir, loras_dir)
    with ThreadPoolExecutor(1) as aside:  # beside the loop that drives the browser
        aside.submit(asyncio.run, make_accounts(tmp_path / "state")).result()
    wait_for(lambda: running.http.get("v1/models").status_code == 401, "the server has seen the accounts")
    yield running
    running.close()


@pytest.fixture
def new_page(browser: Browser, house: PaddockServer) -> Iterator[Callable[..., Page]]:
    """A page in a browser of its own; all must have been quiet but for what is refused on purpose."""
    made: list[BrowserContext] = []
    watch = ConsoleWatch(f"localhost:{house.port}")

    def make(**options: object) -> Page:
        made.append(open_profile(browser, house, **options))
        watch.follow(made[-1])
        return made[-1].new_page()

    yield make
    complaints = [row for row in watch.unexpected() if "401" not in row]
    for context in made:
        context.close()
    assert not complaints, "\n".join(complaints)


def log_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_each_has_their_own_and_finds_it_in_any_browser(house: PaddockServer, new_page: Callable[..., Page]) -> None:
    ann, ben = ChatScreen(new_page(), house), ChatScreen(new_page(color_scheme="dark"), house)
    ann.page.goto(house.url)
    expect(ann.page).to_have_url(re.compile("/login$"))
    assert Axe().run(ann.page).response["violations"] == []
    log_in(ann.page, "Ann", "wrong")
    expect(ann.page.get_by_role("alert")).to_contain_text("do not fit")
    expect(ann.page.get_by_label("Name")).to_have_value("Ann")
    expect(ann.page.get_by_label("Password")).to_be_focused()
    assert Axe().run(ann.page).response["violations"] == []
    log_in(ann.page, "Ann")
    ann.say("The heron is mine.")
    ann.done()
    expect(ann.row("The heron is mine")).to_be_visible()
    address = ann.page.url

    page = ben.page
    page.goto(address)  # another's, by its address: after the log-in it is not there
    assert Axe().run(page).response["violations"] == []
    log_in(page, "ben")
    page.goto(house.url)
    ben.say("The otter is mine.")
    ben.done()
    expect(ben.row("The otter is mine")).to_be_visible()
    expect(ben.row("The heron is mine")).to_have_count(0)
    open_area(page, "Models")
    expect(page.get_by_role("note").get_by_text("it has the role “chat”, and this needs “manage”")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Unload")).first).to_be_disabled()
    open_area(ann.page, "Models")
    expect(ann.page.get_by_role("button", name=re.compile("^Unload")).first).to_be_enabled()
    open_area(page, "Chat")

    phone = new_page()
    phone.goto(address)
    log_in(phone, "Ann")
    expect(phone).to_have_url(address)  # where it was wanted to
    expect(phone.get_by_text("The heron is mine.").first).to_be_visible()

    unload = ann.page.get_by_role("button", name=re.compile("^Unload")).first
    unload.click()  # who manages does so through the page's queue
    expect(ann.page.get_by_role("button", name=re.compile("^Load")).first).to_be_enabled()

    page.evaluate("fetch('logout', { method: 'POST', redirect: 'manual' })")
    ben.box.fill("What I was writing")
    ben.send_button.click()
    page.get_by_role("alert").filter(has_text="You are no longer logged in").get_by_role("link", name="Log in again").click()
    log_in(page, "Ben")
    expect(ben.row("The otter is mine")).to_be_visible()
    page.evaluate("document.body.append(Object.assign(document.createElement('form'), { method: 'post', action: 'logout' })); document.body.lastChild.submit()")
    expect(page).to_have_url(re.compile("/login$"))
    page.go_back()
    expect(page.get_by_label("Password")).to_be_visible()
