"""Long conversations: only the growing message is touched, the view follows unless the person looks elsewhere, and older messages come by themselves."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.screens import ChatScreen, open_area
from tests.paddock_server import LONG, PaddockServer, wait_for

COUNT, THOUSAND = 200, 1000
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


def seen_in_the_middle(page: Page) -> tuple[str, float]:
    """The message in the middle of the window, and where it stands there."""
    box = page.locator(".scroller").bounding_box()
    assert box is not None
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    message_id = page.evaluate("([x, y]) => document.elementsFromPoint(x, y).map((element) => element.closest('.message')).find(Boolean).dataset.id", middle)
    return message_id, top_of(page, message_id)


def top_of(page: Page, message_id: str) -> float:
    """Where a message stands in the window."""
    return float(page.evaluate("(id) => document.querySelector(`.message[data-id=\"${id}\"]`).getBoundingClientRect().top", message_id))


@pytest.mark.usefixtures("unhurried")
def test_only_the_growing_message_is_touched(long_chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    wait_for(lambda: distance(page) < 5, "the end is shown")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    long_chat.send("And one more.")
    expect(long_chat.messages).to_have_count(COUNT + 2)
    long_chat.begun()
    with starter.held():
        page.evaluate(WATCH)
        growing = long_chat.reply.get_attribute("data-id")
    before = len(long_chat.words(long_chat.reply))
    wait_for(lambda: len(long_chat.words(long_chat.reply)) > before + 100, "the reply grows")
    assert "context" not in asked[asked.index("send") :]  # the whole conversation is not counted beside a reply, but at its end
    with page.expect_request("**/context"):
        page.keyboard.press("Escape")
    long_chat.done()
    assert page.evaluate("[...window.touched]") == [growing]
    assert distance(page) < 40
    expect(long_chat.reply.locator(".dropped")).to_contain_text("left out")


@pytest.mark.usefixtures("unhurried")
def test_the_view_follows_unless_scrolled_up(long_chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    long_chat.send("And one more.")
    long_chat.begun()
    with starter.held():
        long_chat.log.hover()
        page.mouse.wheel(0, -600)
        jump = page.get_by_role("button", name="Jump to the latest")
        expect(jump).to_be_visible()
        seen = seen_in_the_middle(page)
    before = len(long_chat.words(long_chat.reply))
    wait_for(lambda: len(long_chat.words(long_chat.reply)) > before + 100, "the reply grows")
    assert abs(top_of(page, seen[0]) - seen[1]) < 5
    jump.click()
    expect(jump).not_to_be_visible()
    wait_for(lambda: distance(page) < 40, "the end is shown")
    page.keyboard.press("Escape")
    long_chat.done()
    wait_for(lambda: distance(page) < 40, "the end is still shown")


def test_a_conversation_of_a_thousand_messages(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    """The end at once, the rest by itself; what is read stays in its place meanwhile; who comes back sees what stands there."""
    talk = tuple((("user", "assistant")[place % 2], f"Message {place} with a few words" + ", and more of them" * (place % 23) + ".") for place in range(THOUSAND))
    conversation_id = starter.make_conversation(talk, title="Longer", settings=LONG)
    held_back: list[Route] = []
    page.route(re.compile(r"/messages\?before="), lambda route: held_back.append(route))
    chat.open(conversation_id)
    expect(chat.messages.last).to_contain_text(f"Message {THOUSAND - 1} ")
    assert chat.messages.count() < 100
    chat.log.hover()
    page.mouse.wheel(0, -1500)
    expect(page.get_by_role("button", name="Jump to the latest")).to_be_visible()
    seen = seen_in_the_middle(page)
    wait_for(lambda: held_back, "the page asks for older messages")
    page.unroute_all()  # what was held back goes on
    expect(chat.messages).to_have_count(THOUSAND)
    assert abs(top_of(page, seen[0]) - seen[1]) < 5
    assert [chat.messages.nth(place).locator(".body").text_content().split()[1] for place in (0, 1, 500, 998)] == ["0", "1", "500", "998"]  # type: ignore[union-attr]
    chat.log.evaluate("list => { list.closest('.scroller').scrollTop = 0; }")
    expect(chat.messages.first).to_be_in_viewport()
    chat.press(chat.messages.nth(1), "Good reply")
    expect(chat.messages.nth(1).get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    open_area(page, "Notebook")  # nobody looks: the connection is given back
    rated = starter.conversation(conversation_id)["messages"][3]["id"]
    starter.ask("POST", f"ui/conversations/{conversation_id}/rate", {"message_id": rated, "rating": -1})
    starter.ask("POST", f"ui/conversations/{conversation_id}/insert", {"text": "From elsewhere.", "role": "user"})
    open_area(page, "Chat")
    expect(chat.messages).to_have_count(THOUSAND + 1)
    expect(chat.messages.nth(3).get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")
    expect(chat.messages.first).to_be_in_viewport()
    starter.ask("POST", f"ui/conversations/{conversation_id}/delete", {"message_id": starter.conversation(conversation_id)["messages"][2]["id"]})
    expect(chat.messages).to_have_count(2)
    expect(chat.messages.last.get_by_role("button", name="Continue this reply")).to_be_visible()
    expect(page.locator(".older")).to_have_count(0)
