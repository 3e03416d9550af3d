"""Replies belong to the server: reload, a second tab, a closed tab, a killed engine."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import LONG, PaddockServer, wait_for

pytestmark = pytest.mark.usefixtures("unhurried")

IN_FLIGHT_TOKENS = 192  # written by the engine and not yet delivered when it was held: it delivers every 50 ms


def long_reply(chat: ChatScreen, server: PaddockServer, title: str) -> str:
    """A conversation whose reply has begun and will not end by itself soon; its id."""
    made = server.make_conversation(settings=LONG, title=title)
    chat.open(made)
    chat.send("Tell me a long story.")
    chat.begun()
    return made


def test_a_reload_in_mid_reply_re_attaches(chat: ChatScreen, page: Page, starter: PaddockServer, hurry: Callable[[], None]) -> None:
    long_reply(chat, starter, "Reloaded")
    with starter.held():
        page.reload()
        chat.ready()
        expect(chat.stop_button).to_be_visible()
        half = chat.words(chat.reply)
        assert len(half) >= 20
    hurry()
    whole = chat.done()
    assert len(whole) > len(half)
    page.reload()
    chat.ready()
    assert chat.words(chat.reply) == whole
    assert chat.same(whole, chat.stored_reply())


def test_a_second_tab_follows_and_stops_the_same_reply(
    chat: ChatScreen, context: BrowserContext, starter: PaddockServer, hurry: Callable[[], None]
) -> None:
    made = long_reply(chat, starter, "Two tabs")
    with starter.held():
        second = ChatScreen(context.new_page(), starter).open(made)
        second.begun()
        expect(second.stop_button).to_be_visible()
        second.stop_button.click()
    expect(second.reply).to_have_attribute("data-status", "stopped")
    expect(chat.reply).to_have_attribute("data-status", "stopped")
    assert chat.done() == second.done()
    expect(chat.send_button).to_be_visible()
    hurry()
    second.say("hello")
    expect(chat.messages).to_have_count(4)
    assert chat.done() == second.done()


def test_a_phone_goes_on_with_the_reply_of_a_page_that_is_closed(
    chat: ChatScreen, page: Page, new_context: Callable[..., BrowserContext], starter: PaddockServer, hurry: Callable[[], None]
) -> None:
    made = long_reply(chat, starter, "On the way")
    expect(page.get_by_text("The reply goes on while any page shows it, also on another device")).to_be_visible()
    phone = ChatScreen(new_context(viewport=PHONE, is_mobile=True, has_touch=True).new_page(), starter)
    with starter.held():
        phone.open(made)
        phone.begun()
        page.close(run_before_unload=True)
        wait_for(lambda: f"/ui/conversations/{made}/left" in starter.log, "the server has heard that a page left")
        half = phone.words(phone.reply)
    hurry()
    whole = phone.done()
    assert len(whole) > len(half)
    assert starter.conversation(made)["messages"][-1]["receipt"]["finish_reason"] == "length"
    assert phone.same(whole, phone.stored_reply())


def test_closing_the_last_tab_frees_the_slot_within_a_step(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    cancelled = starter.counters()["cancelled"]
    made = long_reply(chat, starter, "Closed")
    with starter.held():
        half = chat.words(chat.reply)
        written = starter.conversation(made)["messages"][-1]["receipt"]["completion_tokens"]
        page.close(run_before_unload=True)
        wait_for(lambda: f"/ui/conversations/{made}/left" in starter.log, "the server has heard of it")
    wait_for(lambda: not starter.conversation(made)["running"], "the reply has ended")
    counted = starter.counters()
    assert (counted["running"], counted["waiting"], counted["cancelled"]) == (0, 0, cancelled + 1)
    last = starter.conversation(made)["messages"][-1]
    assert last["status"] == "stopped"
    assert "last page that showed it was closed" in last["error"]
    assert len(starter.text(last["id"])) >= len(half)
    assert last["receipt"]["completion_tokens"] <= written + IN_FLIGHT_TOKENS


def test_stop_frees_the_slot_within_a_step(chat: ChatScreen, starter: PaddockServer) -> None:
    cancelled = starter.counters()["cancelled"]
    made = long_reply(chat, starter, "Stopped")
    with starter.held():
        written = starter.conversation(made)["messages"][-1]["receipt"]["completion_tokens"]
        chat.stop_button.click()
        wait_for(lambda: f"/ui/conversations/{made}/stop" in starter.log, "the server has heard of it")
    chat.done()
    counted = starter.counters()
    assert (counted["running"], counted["cancelled"]) == (0, cancelled + 1)
    assert starter.conversation(made)["messages"][-1]["receipt"]["completion_tokens"] <= written + IN_FLIGHT_TOKENS


def test_a_killed_engine_is_told_and_started_again(chat: ChatScreen, starter: PaddockServer) -> None:
    long_reply(chat, starter, "Crashed")
    with starter.held():
        half = chat.words(chat.reply)
        starter.engine().kill()
    expect(chat.reply).to_have_attribute("data-status", "failed")
    expect(chat.reply.locator(".note")).to_contain_text(re.compile("engine|model", re.IGNORECASE))
    assert chat.words(chat.reply).startswith(half[:20])
    expect(chat.reply.get_by_role("button", name="Try again")).to_be_visible()
    chat.page.reload()
    chat.ready()
    assert chat.words(chat.reply).startswith(half[:20])
    chat.send("hello again")
    expect(chat.asked).to_have_count(2)
    expect(chat.replies).to_have_count(2)
    chat.begun()
    chat.page.keyboard.press("Escape")
    assert chat.done()


def test_a_deleted_conversation_is_left(chat: ChatScreen, page: Page, watch: ConsoleWatch, starter: PaddockServer) -> None:
    watch.allow("404")
    made = starter.make_conversation((("user", "soon gone"),), title="Soon gone")
    chat.open(made)
    starter.ask("DELETE", f"ui/conversations/{made}")
    expect(page.locator("p.lead", has_text="What shall we work on?")).to_be_visible()
    assert chat.id != made
