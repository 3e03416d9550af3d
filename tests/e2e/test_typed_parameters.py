"""What was just typed or pasted into the parameters stays: where the page goes, another model is loaded, or another conversation is opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import NotebookScreen
from tests.e2e.test_settings_drawer import Drawer, paste
from tests.paddock_server import PaddockServer, wait_for


@pytest.fixture
def drawer(context: BrowserContext, starter: PaddockServer) -> Iterator[Drawer]:
    yield Drawer(context.new_page(), starter)


def found(page: Page, name: str) -> Locator:
    """The text box of a parameter, looked for by its name, with the cursor in it."""
    page.get_by_label("Find a parameter").fill(name.replace("_", " "))
    box = page.locator(f"#drawer .field-{name} :is(textarea, input)")
    box.click()
    return box


def test_parameters_that_were_pasted_are_stored_when_the_page_goes(drawer: Drawer, starter: PaddockServer, watch: ConsoleWatch) -> None:
    watch.allow("400")
    for name, text in (("banned_tokens", "none at all"), ("stop", "END\\n\nUser:")):  # the first one is refused, alone
        paste(found(drawer.page, name), text)
    drawer.page.reload()
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"].get("params") == {"stop": ["END\n", "User:"]}, "what can be read is stored though the page went")


def test_a_parameter_of_a_notebook_that_was_pasted_is_stored_when_the_page_goes(notebook: NotebookScreen, starter: PaddockServer) -> None:
    page = notebook.open().page
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Preset", exact=True)).to_have_value("Balanced")
    paste(found(page, "stop"), "END")
    page.reload()
    wait_for(lambda: starter.ask("GET", "ui/notebook")["settings"].get("params") == {"max_tokens": 256, "stop": ["END"]}, "it is stored though the page went")


def test_parameters_that_were_just_pasted_stay_where_another_model_is_loaded(drawer: Drawer, starter: PaddockServer) -> None:
    """Also what cannot be read, which is neither stored nor written over."""
    page = drawer.page
    stored = lambda: starter.conversation(drawer.chat.id)["settings"].get("params")  # noqa: E731
    starter.ask("PATCH", f"ui/conversations/{drawer.chat.id}", {"settings": {"params": {"seed": 7}}})
    expect(drawer.changes).to_contain_text("Seed 7")
    page.evaluate("() => { const later = setTimeout; window.setTimeout = (act, ms, ...rest) => later(act, ms === 400 ? 20_000 : ms, ...rest); }")  # typing does not pause
    boxes = [page.locator(f"#drawer .field-{name} textarea") for name in ("choices", "stop")]
    for name in ("choices", "stop"):
        paste(found(page, name), "END")
    try:
        starter.ask("POST", "v1/internal/model/unload", {})
        wait_for(lambda: stored() == {"seed": 7, "choices": ["END"], "stop": ["END"]}, "they are stored")
        expect(drawer.element.get_by_text("Saved", exact=True)).to_be_visible()
        for box in boxes:
            expect(box).to_have_value("END")
        banned = found(page, "banned_tokens")
        paste(banned, "none at all")
    finally:
        starter.load()
    expect(page.locator("#settings-problem")).to_contain_text("Banned tokens")
    expect(banned).to_have_value("none at all")
    banned.fill("5")
    banned.press("Tab")
    wait_for(lambda: stored() == {"seed": 7, "choices": ["END"], "stop": ["END"], "banned_tokens": [5]}, "it is stored, and nothing else is another")
    starter.ask("PATCH", f"ui/conversations/{drawer.chat.id}", {"within": {"params": {"put": {"seed": 9}}}})
    expect(drawer.changes).to_contain_text("Seed 9")  # nothing waits any more: what another window edits is shown


def test_what_was_typed_last_is_stored_where_another_conversation_is_opened(context: BrowserContext, starter: PaddockServer) -> None:
    other = starter.make_conversation((("user", "Hi"),), title="The other one")
    drawer = Drawer(context.new_page(), starter)
    first = drawer.chat.id
    expect(drawer.chat.row("The other one")).to_be_visible()
    paste(found(drawer.page, "stop"), "END")
    drawer.page.evaluate("id => history.pushState({}, '', `?c=${id}`) || window.dispatchEvent(new PopStateEvent('popstate'))", other)  # as a key does: nothing loses the cursor
    expect(drawer.element.locator(".field-stop textarea")).to_have_value("")
    wait_for(lambda: starter.conversation(first)["settings"].get("params") == {"stop": ["END"]}, "it is stored")
    assert not starter.conversation(other)["settings"].get("params")
