"""Two hundred messages: only the growing one is touched, and the view follows unless the person looks elsewhere."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import LONG, PaddockServer, wait_for

pytestmark = pytest.mark.usefixtures("unhurried")

COUNT = 200
WATCH = """() => {
  window.touched = new Set();
  const note = (node) => { const message = (node.nodeType === 1 ? node : node.parentElement)?.closest('.message'); if (message) window.touched.add(message.dataset.id); };
  new MutationObserver((changes) => { for (const change of changes) { note(change.target); change.addedNodes.forEach(note); } })
    .observe(document.querySelector('.messages'), { subtree: true, childList: true, characterData: true, attributes: true });
}"""


@pytest.fixture
def long_chat(chat: ChatScreen, starter: PaddockServer) -> ChatScreen:
    talk = tuple((("user", "assistant")[place % 2], f"Message {place} with a few words, so that it has some height.") for place in range(COUNT))
    chat.open(starter.make_conversation(talk, title="Long", settings=LONG))
    expect(chat.messages).to_have_count(COUNT)
    return chat


def distance(page: Page) -> float:
    """Pixels between what is shown and the end."""
    return float(page.evaluate("(() => { const s = document.querySelector('.scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight; })()"))


def test_only_the_growing_message_is_touched(long_chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    wait_for(lambda: distance(page) < 5, "the end is shown")
    long_chat.send("And one more.")
    expect(long_chat.messages).to_have_count(COUNT + 2)
    long_chat.begun()
    with starter.held():
        page.evaluate(WATCH)
        growing = long_chat.reply.get_attribute("data-id")
    before = len(long_chat.words(long_chat.reply))
    wait_for(lambda: len(long_chat.words(long_chat.reply)) > before + 100, "the reply grows")
    page.keyboard.press("Escape")
    long_chat.done()
    assert page.evaluate("[...window.touched]") == [growing]
    assert distance(page) < 40
    expect(long_chat.reply.locator(".dropped")).to_contain_text("left out")


def test_the_view_follows_unless_scrolled_up(long_chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    long_chat.send("And one more.")
    long_chat.begun()
    with starter.held():
        long_chat.log.hover()
        page.mouse.wheel(0, -600)
        jump = page.get_by_role("button", name="Jump to the latest")
        expect(jump).to_be_visible()
        place = page.evaluate("document.querySelector('.scroller').scrollTop")
    before = len(long_chat.words(long_chat.reply))
    wait_for(lambda: len(long_chat.words(long_chat.reply)) > before + 100, "the reply grows")
    assert abs(page.evaluate("document.querySelector('.scroller').scrollTop") - place) < 5
    jump.click()
    expect(jump).not_to_be_visible()
    wait_for(lambda: distance(page) < 40, "the end is shown")
    page.keyboard.press("Escape")
    long_chat.done()
    wait_for(lambda: distance(page) < 40, "the end is still shown")
