"""Lists that are drawn anew by themselves: neither a press nor the focus is lost by it. And what is drawn late."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.e2e.test_get_models import GetModels, pony
from tests.hub.hub_server import HubServer
from tests.paddock_server import PaddockServer, wait_for

__all__ = ["pony"]  # a fixture


@pytest.mark.parametrize(("button", "end"), [("Pause", "Paused"), ("Cancel", "Cancelled")])
def test_a_press_that_lasts_over_several_polls_counts(models: ModelsScreen, page: Page, pony: HubServer, button: str, end: str) -> None:
    get = GetModels(models.open().page)
    pony.fault("slow", r"lfs|Q8_0", count=-1, value=150_000)
    get.find("meadow/pony-GGUF:Q8_0")
    get.results.get_by_role("button", name="Download pony-Q8_0").click()
    facts = get.job.locator(".job-facts")
    expect(facts).to_contain_text(re.compile(r"[1-9]\d* %"))
    get.job.get_by_role("button", name=button).hover()
    page.mouse.down()
    for _ in range(3):  # each tells of more bytes
        with page.expect_response(lambda answer: answer.url.endswith("/ui/jobs")):
            pass
    page.mouse.up()
    expect(facts).to_contain_text(end)


def test_the_focus_stays_on_the_same_control_of_a_conversation(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "about meadows"),), title="Kept in focus")
    chat.open()
    expect(chat.box).to_be_focused()  # a conversation that was opened takes the focus to its composer
    title = chat.row("Kept in focus").locator(".title")
    tool = chat.row("Kept in focus").get_by_label("Rename", exact=True)
    for control, presses, other in ((title, 0, "First other"), (tool, 2, "Second other")):
        title.focus()
        for _ in range(presses):
            page.keyboard.press("Tab")
        expect(control).to_be_focused()
        starter.make_conversation((("user", "news"),), title=other)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(chat.row(other)).to_be_visible()
        expect(control).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Name of the conversation")).to_have_value("Kept in focus")


def test_areas_are_followed_however_late_their_tabs_are_drawn(page: Page, starter: PaddockServer) -> None:
    gradio = find_spec("gradio")  # where it lies; to import it takes seconds
    assert gradio is not None and gradio.origin
    scripts = Path(gradio.origin).parent / "templates" / "frontend" / "assets"
    (tabs,) = [path.name for path in scripts.glob("*.js") if "tab-container" in path.read_text(encoding="utf-8")]
    late: list[Route] = []
    page.route(f"**/assets/{tabs}", lambda route: late.append(route))  # the driver marks what it is given, so no bound method
    page.goto(starter.url, wait_until="commit")
    body = page.locator("body")
    expect(body).to_have_attribute("data-area", "chat")
    expect(page.locator("#areas")).to_have_count(0)
    for route in late:
        route.continue_()
    page.get_by_role("tab", name="Models").click()
    expect(body).to_have_attribute("data-area", "models")
    late.clear()
    page.reload(wait_until="commit")
    wait_for(lambda: (page.title(), late)[1], "the tabs are on their way")
    for route in late:
        route.continue_()
    expect(body).to_have_attribute("data-area", "models")
