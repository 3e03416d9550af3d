"""The map of a conversation: every version in sight, and shown when it is chosen."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer


def test_any_message_is_shown_from_the_map(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    rows = [
        {"id": "q", "parent_id": None, "role": "user", "content": "Tell me about meadows."},
        {"id": "a", "parent_id": "q", "role": "assistant", "content": "Meadows are open."},
        {"id": "a2", "parent_id": "a", "role": "user", "content": "And horses?"},
        {"id": "a3", "parent_id": "a2", "role": "assistant", "content": "Horses graze there."},
        {"id": "b", "parent_id": "q", "role": "assistant", "content": "<think>Hm.</think>Meadows have flowers."},
        {"id": "b2", "parent_id": "b", "role": "user", "content": "Which flowers?"},
    ]
    chat.open(starter.ask("POST", "ui/conversations/import", {"title": "Two ways", "messages": rows, "head_id": "b2"})["id"])
    chat.press(chat.replies.first, "Map of all versions")
    map_ = page.get_by_role("dialog", name="Map of the conversation")
    expect(map_.locator(".tree-box")).to_have_count(6)
    expect(map_.locator(".tree-box.shown .tree-words")).to_have_text(["Tell me about meadows.", "Meadows have flowers.", "Which flowers?"])
    first, second = (map_.get_by_role("button", name=f"Reply, version {number} of 2") for number in (1, 2))
    left, right = first.bounding_box(), second.bounding_box()
    assert left is not None and right is not None
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    map_.get_by_role("button", name="Reply: Horses graze there.").click()
    expect(map_).to_have_count(0)
    expect(chat.messages).to_have_count(4)
    expect(chat.reply).to_contain_text("Horses graze there.")
