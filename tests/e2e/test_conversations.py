"""The sidebar: several conversations, rename, pin, search, delete, export."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer, wait_for


def test_new_rename_pin_and_open(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "about meadows"),), title="Meadows")
    chat.open()
    page.get_by_role("button", name="New chat").click()
    chat.say("hello there, friend")
    chat.press_row("hello there, friend", "Rename")
    name = page.get_by_role("textbox", name="Name of the conversation")
    name.fill("A friend")
    name.press("Enter")
    expect(chat.row("A friend")).to_be_visible()
    expect(page).to_have_title("A friend · Paddock")
    chat.press_row("Meadows", "Pin")
    expect(chat.sidebar.get_by_role("heading").first).to_have_text("Pinned")
    expect(chat.sidebar.locator("li").first).to_contain_text("Meadows")
    chat.row("Meadows").get_by_role("button", name="Meadows").click()
    expect(chat.asked).to_have_text("about meadows")
    expect(chat.row("Meadows")).to_have_attribute("aria-current", "page")
    page.reload()
    expect(chat.asked).to_have_text("about meadows")
    chat.press_row("Meadows", "Unpin")


def test_search_finds_words_in_messages(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "the velocipede of my aunt"),), title="Vehicles")
    chat.open()
    search = page.get_by_role("searchbox", name="Search conversations")
    search.fill("velocipede")
    expect(chat.sidebar.locator("li")).to_have_count(1)
    expect(chat.row("Vehicles")).to_be_visible()
    search.fill("no such words anywhere")
    expect(page.get_by_text("Nothing found.")).to_be_visible()
    search.fill("")
    wait_for(lambda: chat.sidebar.locator("li").count() > 1, "the whole list is back")


def test_deleting_a_conversation_asks_first(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    doomed = starter.make_conversation((("user", "not for long"),), title="Doomed")
    chat.open(doomed)
    chat.press_row("Doomed", "Delete")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(chat.row("Doomed")).to_be_visible()
    chat.press_row("Doomed", "Delete")
    chat.row("Doomed").or_(chat.sidebar.locator(".ask")).get_by_role("button", name="Delete", exact=True).filter(visible=True).first.click()
    expect(chat.row("Doomed")).to_have_count(0)
    expect(chat.asked.filter(has_text="not for long")).to_have_count(0)
    assert chat.id != doomed
    ids = [row["id"] for row in starter.ask("GET", "ui/conversations")["conversations"]]
    assert doomed not in ids


def test_export_saves_the_conversation_as_a_file(chat: ChatScreen, page: Page, starter: PaddockServer, tmp_path: Path) -> None:
    chat.open(starter.make_conversation((("user", "keep me"), ("assistant", "Kept.")), title="Kept in a file"))
    with page.expect_download() as waiting:
        chat.press_row("Kept in a file", "Export as JSON")
    file = tmp_path / "conversation.json"
    waiting.value.save_as(file)
    assert [message["content"] for message in json.loads(file.read_text(encoding="utf-8"))["messages"]] == ["keep me", "Kept."]
