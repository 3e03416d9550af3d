"""Two browsers on one server: each sees its own; what belongs to all is held with its reason, refused by the server, and free once the key is typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import open_profile
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, open_area
from tests.paddock_server import PaddockServer

KEY = "a-key-of-this-test"
REASON = "Several people share this server"
# What the button “Save preset” asks of the server
SAVE_PRESET = """async () => {
  const { components, dependencies } = window.gradio_config, part = (id) => components.find((found) => found.id === id).props;
  const row = dependencies.find(({ targets }) => targets.some(([id]) => id && part(id).elem_id === 'preset-save'));
  const data = row.inputs.map((id, place) => (place ? part(id).value ?? null : 'stolen'));
  const answer = await fetch('gradio_api/run/predict', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ fn_index: row.id, data, session_hash: 'x' }) });
  return JSON.stringify(await answer.json());
}"""


@pytest.fixture
def shared(tmp_path: Path, models_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    running = PaddockServer(tmp_path, models_dir, loras_dir, "--multi-user", "--api-key", KEY)
    yield running
    running.close()


@pytest.fixture
def new_page(browser: Browser, shared: PaddockServer) -> Iterator[Callable[[], Page]]:
    """A page in a browser of its own; all must have been quiet."""
    made: list[BrowserContext] = []
    watch = ConsoleWatch(f"localhost:{shared.port}")
    watch.allow(r"404 \(Not Found\) \(http://[^/]+/ui/conversations/")  # who opens what is another's is told that there is none

    def make() -> Page:
        made.append(open_profile(browser, shared))
        watch.follow(made[-1])
        return made[-1].new_page()

    yield make
    complaints = watch.unexpected()  # before the streams of the pages are cut
    for context in made:
        context.close()
    assert not complaints, "\n".join(complaints)


def test_two_people_have_their_own_and_only_the_key_changes_what_belongs_to_all(shared: PaddockServer, new_page: Callable[[], Page]) -> None:
    ann, ben = ChatScreen(new_page(), shared), ChatScreen(new_page(), shared)
    for chat in (ann, ben):
        chat.page.goto(shared.url)
    ann.say("The heron is mine.")
    ann.done()
    expect(ann.row("The heron is mine")).to_be_visible()
    address = ann.page.url
    ann.page.reload()
    expect(ann.asked).to_contain_text("The heron is mine.")

    ben.page.reload()
    ben.ready()
    ben.say("The otter is mine.")
    expect(ben.row("The otter is mine")).to_be_visible()
    expect(ben.row("The heron is mine")).to_have_count(0)
    page = ben.page
    open_area(page, "Models")
    expect(page.get_by_role("note").get_by_text(REASON)).to_be_visible()
    unload = page.get_by_role("button", name=re.compile("^Unload")).first
    expect(unload).to_be_disabled()
    expect(unload).to_have_attribute("title", re.compile(REASON))
    open_area(page, "Chat")
    page.get_by_label("More about chats").click()
    expect(page.get_by_role("button", name=re.compile("^Restart Paddock"))).to_be_disabled()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_role("button", name="Save as preset").click()
    expect(page.get_by_role("button", name="Save preset")).to_be_disabled()
    # whoever takes the lock off the page meets the server's
    assert REASON in page.evaluate(SAVE_PRESET)
    assert not list(shared.log_path.parent.rglob("stolen*"))

    open_area(page, "Models")
    page.get_by_role("link", name="Type the key").click()
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Open").click()
    open_area(page, "Models")
    unload = page.get_by_role("button", name=re.compile("^Unload")).first
    expect(unload).to_be_enabled()
    unload.click()
    expect(page.get_by_role("button", name=re.compile("^Load")).first).to_be_enabled()
    page.goto(address)
    expect(page.locator(".toast.error")).to_be_visible()
    expect(page.get_by_text("The heron is mine.")).to_have_count(0)
