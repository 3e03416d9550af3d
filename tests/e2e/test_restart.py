"""Restart Paddock from the page: asked for in the palette, told what it interrupts, and back in the same conversation."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import STARTER, PaddockServer, wait_for


def test_the_server_starts_again_and_the_page_is_where_it_was(chat: ChatScreen, page: Page, starter: PaddockServer, watch: ConsoleWatch) -> None:
    watch.allow(r"net::ERR_|status of 50\d")  # what other parts of the page ask while nobody answers
    chat.open(starter.make_conversation((("user", "What was here before?"), ("assistant", "This was.")), title="Stays"))
    run = starter.ask("GET", "ui/restart")["run"]
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Jump to").fill("restart")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Restart Paddock?")
    expect(dialog).to_contain_text("No reply is being written")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    assert starter.ask("GET", "ui/restart")["run"] == run

    page.get_by_label("More about chats").click()
    page.get_by_role("button", name=re.compile("^Restart Paddock")).click()
    expect(dialog.get_by_role("button", name="Restart", exact=True)).to_be_focused()
    address = page.url
    with page.expect_navigation():
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").get_by_text("Restarting…")).to_be_visible()
    expect(chat.asked).to_contain_text("What was here before?")
    assert page.url == address
    assert starter.ask("GET", "ui/restart")["run"] != run
    wait_for(lambda: starter.loaded() == STARTER, "the model is loaded again")
