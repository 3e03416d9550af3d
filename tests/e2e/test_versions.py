"""Versions and branches: regenerate, edit, resend, branch, delete."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer

TALK = (("user", "What is a paddock?"), ("assistant", "A small field."), ("user", "For whom?"), ("assistant", "For horses."))


@pytest.fixture
def talk(chat: ChatScreen, starter: PaddockServer) -> ChatScreen:
    """An open conversation of two turns."""
    chat.open(starter.make_conversation(TALK, title="Talk"))
    expect(chat.messages).to_have_count(4)
    return chat


def test_regenerate_adds_a_version_and_the_arrows_switch(talk: ChatScreen) -> None:
    talk.press(talk.reply, "Regenerate: another version")
    expect(talk.reply.locator(".versions")).to_contain_text("2/2")
    second = talk.done()
    assert second
    talk.press(talk.reply, "Earlier version")
    expect(talk.reply.locator(".versions")).to_contain_text("1/2")
    expect(talk.reply.locator(".body")).to_have_text("For horses.")
    talk.press(talk.reply, "Later version")
    expect(talk.reply.locator(".versions")).to_contain_text("2/2")
    assert talk.words(talk.reply) == second
    expect(talk.messages).to_have_count(4)


def test_an_edited_message_is_sent_as_a_new_version(talk: ChatScreen, page: Page) -> None:
    talk.press(talk.asked.first, "Edit")
    box = page.get_by_role("textbox", name="Edit message")
    expect(box).to_have_value("What is a paddock?")
    box.fill("What is Paddock?")
    page.get_by_role("button", name="Save and send").click()
    expect(box).to_have_count(0)  # until the answer to "Save and send" is there, the old message stays beside the new one
    expect(talk.messages).to_have_count(2)
    expect(talk.asked.locator(".body")).to_have_text("What is Paddock?")
    assert talk.done()
    talk.press(talk.asked.first, "Earlier version")
    expect(talk.messages).to_have_count(4)
    expect(talk.reply.locator(".body")).to_have_text("For horses.")


def test_a_reply_can_be_edited_and_the_edit_given_up(talk: ChatScreen, page: Page) -> None:
    talk.press(talk.reply, "Edit")
    box = page.get_by_role("textbox", name="Edit message")
    box.fill("For sheep.")
    box.press("Escape")
    expect(talk.reply.locator(".body")).to_have_text("For horses.")
    talk.press(talk.reply, "Edit")
    box.fill("For **cows**.")
    box.press("Enter")
    expect(talk.reply.locator(".body")).to_have_text("For cows.")
    expect(talk.reply.locator(".body strong")).to_have_text("cows")
    expect(talk.reply.locator(".versions")).to_contain_text("2/2")


def test_a_branch_is_a_conversation_of_its_own(talk: ChatScreen) -> None:
    before = talk.id
    talk.press(talk.replies.first, "Branch: a new conversation up to here")
    expect(talk.messages).to_have_count(2)
    assert talk.id != before
    expect(talk.sidebar.locator("li.open")).to_contain_text("Talk")
    talk.say("hello")
    assert len(talk.server.conversation(before)["messages"]) == 4
    talk.page.go_back()
    expect(talk.reply.locator(".body")).to_have_text("For horses.")


def test_deleting_asks_first(talk: ChatScreen, page: Page) -> None:
    talk.press(talk.asked.last, "Delete this and what follows")
    expect(page.get_by_role("group", name="Delete this message and what follows?")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(talk.messages).to_have_count(4)
    talk.press(talk.asked.last, "Delete this and what follows")
    page.get_by_role("button", name="Delete", exact=True).filter(visible=True).first.click()
    expect(talk.messages).to_have_count(2)
    expect(talk.reply.locator(".body")).to_have_text("A small field.")
