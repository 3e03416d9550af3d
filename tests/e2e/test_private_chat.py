"""A private conversation: marked, working, in no list, in no file of server or browser, gone with its page."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer, wait_for

WORD = "quillfeather"


def test_a_private_conversation_leaves_nothing(chat: ChatScreen, page: Page, starter: PaddockServer, watch: ConsoleWatch) -> None:
    watch.allow(r"status of 404.*/ui/conversations/p\w+/context")  # a question on its way when the conversation ends
    page.on("dialog", lambda dialog: dialog.accept())  # the browser asks before such a page is left
    chat.open(starter.make_conversation((("user", "an ordinary question"),), title="Ordinary"))
    page.get_by_label("More about chats").click()
    page.get_by_role("button", name=re.compile("^Private chat")).click()
    expect(page.get_by_role("note")).to_contain_text("It is gone when this page is closed")
    chat.say(f"Tell me about the {WORD}.")
    expect(page).to_have_title("Private conversation · Paddock")
    chat.press(chat.reply, "Regenerate: another version")
    expect(chat.reply.get_by_text("2/2")).to_be_visible()
    chat.done()
    expect(page.get_by_label(re.compile("^Open in a notebook"))).to_have_count(0)
    chat.box.fill(f"unsent {WORD}")
    private = chat.id
    expect(chat.row(f"Tell me about the {WORD}")).to_have_attribute("aria-current", "page")
    chat.row("Ordinary").get_by_role("button", name="Ordinary", exact=True).click()
    expect(chat.asked).to_contain_text("an ordinary question")
    expect(page.get_by_role("note")).to_be_hidden()
    chat.row(f"Tell me about the {WORD}").get_by_role("button", name="Tell me").click()
    expect(chat.box).to_have_value(f"unsent {WORD}")
    assert private not in [row["id"] for row in starter.ask("GET", "ui/conversations")["conversations"]]
    stored = page.evaluate("JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])")
    state = starter.log_path.parent
    assert [path for path in state.rglob("*") if path.is_file() and WORD.encode() in path.read_bytes()] == []
    assert WORD not in stored
    assert private not in stored
    page.reload()
    expect(page.get_by_text("The private conversation ended")).to_be_visible()
    expect(chat.asked).to_contain_text("an ordinary question")
    expect(page.get_by_role("note")).to_be_hidden()
    wait_for(lambda: starter.http.get(f"ui/conversations/{private}").status_code == 404, "the server has forgotten it")

    page.get_by_label("More about chats").click()
    page.get_by_role("button", name=re.compile("^Private chat")).click()
    expect(page.get_by_role("note")).to_be_visible()
    private = chat.id
    chat.row("Private conversation").hover()
    chat.row("Private conversation").get_by_label("End this private conversation").click()
    expect(page.get_by_role("note")).to_be_hidden()
    assert starter.http.get(f"ui/conversations/{private}").status_code == 404
    expect(chat.sidebar.get_by_role("heading", name="Private")).to_have_count(0)


def test_what_is_typed_for_a_private_conversation_goes_into_no_other_when_it_ends_elsewhere(
    chat: ChatScreen, page: Page, starter: PaddockServer, watch: ConsoleWatch
) -> None:
    watch.allow("404")
    chat.open()
    page.get_by_label("More about chats").click()
    page.get_by_role("button", name=re.compile("^Private chat")).click()
    expect(page.get_by_role("note")).to_be_visible()
    ended = chat.id
    chat.box.fill(f"unsent {WORD}")
    starter.ask("POST", f"ui/conversations/{ended}/forget", {})
    wait_for(lambda: (page.title(), chat.id)[1] != ended, "another conversation is open")
    chat.ready()
    expect(chat.box).to_have_value(f"unsent {WORD}")
    expect(page.get_by_role("note")).to_be_visible()
    assert WORD not in page.evaluate("JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])")
