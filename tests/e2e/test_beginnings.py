"""The menu beside New chat: how chats begin, their titles, how messages look."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer


def test_a_new_chat_begins_as_the_last_one_or_with_the_defaults(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    rhymes = starter.make_conversation((("user", "about rhymes"),), title="Rhymes", settings={"system_prompt": "Always rhyme."})
    chat.open(rhymes)
    menu, choice = page.get_by_label("More about chats"), page.get_by_role("checkbox", name="New chats begin as the last one")
    menu.click()
    expect(choice).not_to_be_checked()
    choice.check()
    expect(page.locator(".chat-menu .saved").first).to_have_text("Saved")
    try:
        page.keyboard.press("Escape")
        expect(choice).to_be_hidden()
        page.get_by_role("button", name="New chat").click()
        expect(chat.messages).to_have_count(0)
        assert starter.conversation(chat.id)["settings"]["system_prompt"] == "Always rhyme."
        page.reload()
        menu.click()
        expect(choice).to_be_checked()
    finally:
        choice.uncheck()
        expect(page.locator(".chat-menu .saved").first).to_have_text("Saved")
    page.locator("#chat").click(position={"x": 300, "y": 200})
    expect(choice).to_be_hidden()
    before = page.url
    page.get_by_role("button", name="New chat").click()
    expect(page).not_to_have_url(before)
    assert starter.conversation(chat.id)["settings"]["system_prompt"] == ""


def test_a_title_is_made_of_question_and_reply(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open()
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("More about chats").click()
    choice = page.get_by_role("checkbox", name="Titles from the first exchange")
    choice.check()
    expect(page.locator(".chat-menu .saved").nth(1)).to_have_text("Saved")
    try:
        page.keyboard.press("Escape")
        chat.say("Hi")
        expect(page).to_have_title(re.compile("^Hi · .+ · Paddock$"))
        expect(chat.row("Hi · ")).to_be_visible()
    finally:
        starter.ask("PATCH", "ui/chat-preferences", {"title_from_exchange": False})


def test_the_messages_have_four_looks(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Good day.")), title="Looks"))

    def left(message: Locator) -> float:
        box = message.locator(".body").bounding_box()
        assert box is not None
        return box["x"]

    assert left(chat.asked) > left(chat.reply) + 100, "a bubble on the right"
    menu = page.get_by_label("More about chats")
    for look, is_right, has_ground in (("Document", False, False), ("Compact", False, False), ("Messenger", True, True)):
        menu.click()
        page.get_by_role("radio", name=look).check()
        page.keyboard.press("Escape")
        assert (left(chat.asked) > left(chat.reply) + 100) == is_right, look
        ground = chat.reply.locator(".body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert (ground != "rgba(0, 0, 0, 0)") == has_ground, look
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("look-messenger"))
    menu.click()
    expect(page.get_by_role("radio", name="Messenger")).to_be_checked()
