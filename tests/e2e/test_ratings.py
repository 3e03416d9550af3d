"""Thumbs below replies, and what they make of conversations: data to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.e2e.conftest import PHONE
from tests.e2e.screens import ChatScreen

GOOD, BAD = "Good reply", "Bad reply"


def thumb(message: Locator, name: str) -> Locator:
    return message.get_by_role("button", name=name, exact=True)


def pressed(message: Locator) -> list[str]:
    """Which thumbs are down, once both have been drawn."""
    expect(thumb(message, BAD)).to_be_attached()
    return [name for name in (GOOD, BAD) if thumb(message, name).get_attribute("aria-pressed") == "true"]


def expect_pressed(message: Locator, name: str) -> None:
    for each in (GOOD, BAD):
        expect(thumb(message, each)).to_have_attribute("aria-pressed", str(each == name).lower())


@pytest.fixture
def talk(chat: ChatScreen) -> Iterator[ChatScreen]:
    """An open conversation with two replies of the starter model."""
    chat.open(chat.server.make_conversation(title="Rated"))
    chat.say("Hello")
    chat.say("What is Paddock?")
    yield chat
    chat.server.ask("DELETE", f"ui/conversations/{chat.id}")


def test_a_rated_reply_stays_rated(talk: ChatScreen) -> None:
    first, last = talk.replies.first, talk.replies.last
    assert (pressed(first), pressed(last)) == ([], [])
    talk.press(first, GOOD)
    expect_pressed(first, GOOD)
    talk.page.reload()
    talk.ready()
    expect_pressed(first, GOOD)
    assert pressed(last) == []
    expect(talk.asked.first.get_by_role("button", name=GOOD)).to_have_count(0)
    talk.page.mouse.move(0, 0)
    talk.box.focus()
    expect(thumb(first, GOOD)).to_have_css("opacity", "1")  # seen without pointing at it
    expect(thumb(first, BAD)).to_have_css("opacity", "0")


def test_thumbs_by_keyboard(talk: ChatScreen) -> None:
    reply = talk.replies.last
    thumb(reply, GOOD).focus()
    talk.page.keyboard.press("Enter")
    expect_pressed(reply, GOOD)
    expect(thumb(reply, GOOD)).to_be_focused()
    talk.page.keyboard.press("Tab")
    expect(thumb(reply, BAD)).to_be_focused()
    talk.page.keyboard.press("Space")
    expect_pressed(reply, BAD)
    expect(thumb(reply, BAD)).to_be_focused()
    talk.page.keyboard.press("Space")
    expect_pressed(reply, "neither")


def test_each_version_has_its_own_rating_and_other_tabs_see_it(talk: ChatScreen, new_context: Callable[..., BrowserContext]) -> None:
    phone = ChatScreen(new_context(viewport=PHONE, is_mobile=True, has_touch=True).new_page(), talk.server).open(talk.id)
    talk.press(talk.reply, BAD)
    expect_pressed(talk.reply, BAD)
    expect_pressed(phone.reply, BAD)
    talk.press(talk.reply, "Regenerate: another version")
    expect(talk.reply.locator(".versions")).to_contain_text("2/2")
    talk.done()
    expect_pressed(talk.reply, "neither")
    expect(phone.reply.locator(".versions")).to_contain_text("2/2")
    talk.press(talk.reply, "Earlier version")
    expect_pressed(talk.reply, BAD)
    expect(phone.reply.locator(".versions")).to_contain_text("1/2")
    expect_pressed(phone.reply, BAD)
    thumb(phone.reply, BAD).tap()
    expect_pressed(talk.reply, "neither")
    phone.box.focus()
    expect(thumb(phone.replies.first, GOOD)).to_have_css("opacity", "1")  # nothing can be pointed at here
    tools = phone.reply.get_by_role("toolbar", name="Message actions").bounding_box()
    assert tools is not None
    assert tools["x"] >= 0
    assert tools["x"] + tools["width"] <= PHONE["width"]


def liked(talk: ChatScreen) -> int:
    choices = talk.server.ask("GET", "ui/datasets/conversations")["choices"]
    return int({choice["value"]: choice["count"] for choice in choices}["liked"])


def test_a_liked_reply_becomes_a_sample(talk: ChatScreen) -> None:
    before = liked(talk)  # of tests before this one, on the same server
    talk.press(talk.replies.last, GOOD)
    expect_pressed(talk.replies.last, GOOD)
    talk.page.reload()
    talk.ready()
    expect_pressed(talk.replies.last, GOOD)
    assert liked(talk) == before + 1
    found = talk.server.ask("POST", "ui/datasets/conversations/preview", {"choose": ["liked"]})
    assert (found["count"], found["pairs"]) == (before + 1, 0)
    (sample,) = [sample for sample in found["samples"] if sample["where"] == "Rated, message 4"]
    assert [message["role"] for message in sample["messages"]] == ["user", "assistant", "user", "assistant"]
    assert [message["text"] for message in sample["messages"]][2:] == ["What is Paddock?", talk.stored_reply()]
