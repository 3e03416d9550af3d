"""The page as somebody comes back to it: the settings open as they were, the cursor where one types, the list as another tab left it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.screens import ChatScreen, open_area
from tests.paddock_server import LONG, PaddockServer


def test_settings_and_cursor_are_where_they_were(chat: ChatScreen, page: Page) -> None:
    chat.open()
    page.keyboard.press("ControlOrMeta+s")
    done = page.get_by_role("button", name="Done", exact=True)
    expect(done).to_be_visible()
    page.reload()
    expect(done).to_be_visible()
    done.click()
    page.reload()
    chat.ready()
    expect(done).to_be_hidden()
    open_area(page, "Notebook")
    expect(page.get_by_role("textbox", name="Notebook text")).to_be_focused()
    open_area(page, "Chat")
    expect(chat.box).to_be_focused()
    tab = page.get_by_role("tab", name="Notebook", exact=True)
    chat.box.press("Shift+Tab")  # what follows is the keyboard's
    tab.focus()
    tab.press("Enter")
    expect(page.locator(".notebook-bar .count")).not_to_be_empty()
    expect(tab).to_be_focused()  # nothing takes the cursor from who goes along the tabs with the keyboard


def test_the_list_follows_what_another_tab_does(chat: ChatScreen, page: Page, context: BrowserContext, starter: PaddockServer) -> None:
    mine = starter.make_conversation((("user", "The blue barn"), ("assistant", "Yes.")), title="Blue barn")
    chat.open(mine)
    expect(chat.row("Blue barn")).to_be_visible()
    other = ChatScreen(context.new_page(), starter).open(mine)
    other.press_row("Blue barn", "Rename")
    name = other.sidebar.get_by_role("textbox")
    name.fill("Red barn")
    name.press("Enter")
    expect(chat.row("Red barn")).to_be_visible(timeout=5000)  # the list alone asks every half minute


@pytest.mark.usefixtures("unhurried")
def test_a_reply_is_shown_when_it_is_done(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(settings=LONG, title="Shown when done"))
    page.get_by_role("button", name=re.compile("tokens|Context")).click()
    page.get_by_label("A reply is shown").select_option("when it is done")
    page.keyboard.press("Escape")
    chat.send("Tell me a long story.")
    expect(chat.reply.locator(".receipt.live")).to_contain_text(re.compile(r"\d+ token"))
    with starter.held():
        expect(chat.reply).to_have_attribute("data-status", "streaming")
        expect(chat.reply.locator(".body")).to_be_hidden()
    page.keyboard.press("Escape")
    assert chat.same(chat.done(), chat.stored_reply())
    expect(chat.reply.locator(".body")).to_be_visible()
