"""Several replies at once, side by side, until one is picked."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer

LIVELY = {"preset": "", "params": {"temperature": 3.0, "max_tokens": 40}}


def test_three_versions_are_written_side_by_side_and_one_is_used(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hi.")), title="Beside", settings=LIVELY))
    page.get_by_label("Replies at once").select_option("3")
    chat.send("What can I do with you?")
    beside = page.get_by_role("group", name="Versions side by side")
    columns = beside.locator(".version-column")
    expect(columns).to_have_count(3)
    expect(columns.locator(".message")).to_have_count(3)
    for place in range(3):
        expect(columns.nth(place).locator(".message")).to_have_attribute("data-status", "complete")
    assert len({chat.words(columns.nth(place).locator(".message")) for place in range(3)}) > 1
    page.reload()
    expect(columns).to_have_count(3)  # also after a reload, and on another device
    expect(page.get_by_label("Replies at once")).to_have_value("3")
    second = chat.words(columns.nth(1).locator(".message"))
    columns.nth(1).get_by_role("button", name="Use this one").click()
    expect(beside).to_have_count(0)
    expect(chat.messages).to_have_count(4)
    expect(chat.reply.locator(".versions")).to_contain_text("2/3")
    assert chat.words(chat.reply) == second
    chat.press(chat.reply, "Later version")
    expect(chat.reply.locator(".versions")).to_contain_text("3/3")


def test_stop_stops_all_versions(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hi.")), settings={"preset": "", "params": {"ban_eos": True}}))
    page.get_by_label("Replies at once").select_option("2")
    chat.press(chat.reply, "Regenerate: another version")
    columns = page.locator(".version-column .message")
    expect(columns).to_have_count(2)
    chat.begun()
    chat.stop_button.click()
    for place in range(2):
        expect(columns.nth(place)).to_have_attribute("data-status", re.compile("stopped"))
    expect(chat.send_button).to_be_visible()
