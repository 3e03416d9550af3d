"""Chat: the first visit, a reply, stop, continue, what is typed and never lost."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.paddock_server import LONG, STARTER, PaddockServer, wait_for


def test_first_visit_says_what_this_is(chat: ChatScreen, page: Page) -> None:
    chat.open()
    expect(page.locator("p.lead", has_text="What shall we work on?")).to_be_visible()
    expect(page.get_by_text("tiny")).to_contain_text("demo that shipped with Paddock")
    expect(page.locator(".model-chip")).to_contain_text("starter-Q8_0")
    page.get_by_role("button", name="Just talk").click()
    expect(chat.box).to_have_value("Hello! How are you today?")
    expect(chat.box).to_be_focused()


def test_a_reply_comes_with_its_receipt_and_its_title(chat: ChatScreen, page: Page) -> None:
    chat.open()
    words = chat.say("How do I load a model?")
    assert len(words.split()) > 3
    assert chat.same(words, chat.stored_reply())
    expect(chat.reply.locator(".receipt")).to_contain_text(re.compile(r"starter-Q8_0 · \d+ tokens · [\d.]+ tok/s"))
    chat.reply.locator(".receipt summary").click()
    expect(chat.reply.locator(".receipt")).to_contain_text(re.compile(r"(Prompt \d+ tokens|\d+ of \d+ prompt tokens reused).*seed \d+.*ended by stop"))
    expect(chat.row("How do I load a model?").first).to_have_attribute("aria-current", "page")
    expect(page).to_have_title("How do I load a model? · Paddock")
    expect(page.locator(".composer .count")).to_contain_text("/ 1,024 tokens")
    expect(chat.box).to_be_empty()


@pytest.mark.usefixtures("unhurried")
def test_stop_keeps_the_text_and_continue_extends_it(chat: ChatScreen, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(settings=LONG, title="To be stopped"))
    chat.send("Tell me a story.")
    chat.begun()
    with starter.held():
        expect(chat.reply.locator(".receipt.live")).to_contain_text(re.compile(r"\d+ tokens"))
        chat.stop_button.click()
    kept = chat.done()
    assert len(kept) >= 20
    expect(chat.reply).to_have_attribute("data-status", "stopped")
    expect(chat.reply.locator(".receipt")).to_contain_text("stopped")
    assert chat.same(kept, chat.stored_reply())

    chat.press(chat.reply, "Continue this reply")
    wait_for(lambda: len(chat.words(chat.reply)) > len(kept), "the reply grows")
    chat.page.keyboard.press("Escape")
    longer = chat.done()
    assert longer.startswith(kept)
    expect(chat.replies).to_have_count(1)


def test_copy_puts_the_text_on_the_clipboard(chat: ChatScreen, page: Page) -> None:
    chat.open()
    words = chat.say("hello")
    chat.press(chat.reply, "Copy")
    wait_for(lambda: page.evaluate("navigator.clipboard.readText()") == words, "the reply is on the clipboard")


def test_the_settings_drawer_sets_up_the_conversation(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "hi"), ("assistant", "Hello!")), title="Set up"))
    page.get_by_role("button", name="Settings", exact=True).click()
    system = page.get_by_role("textbox", name="System prompt")
    temperature = page.get_by_role("spinbutton", name=re.compile("Temperature")).first
    expect(temperature).to_have_value("0.8")  # of the preset: the form shows this conversation now
    system.press_sequentially("Answer in one wordy")
    system.press("Backspace")
    page.evaluate("navigator.clipboard.writeText('.')")
    system.press("ControlOrMeta+V")
    system.blur()
    wait_for(lambda: chat.server.conversation(chat.id)["settings"]["system_prompt"] == "Answer in one word.", "the system prompt is stored")
    page.get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name="Deterministic").click()
    wait_for(lambda: chat.server.conversation(chat.id)["settings"]["preset"] == "Deterministic", "the preset is stored")
    expect(temperature).to_have_value("0")
    temperature.fill("0.5")
    temperature.press("Tab")
    wait_for(lambda: chat.server.conversation(chat.id)["settings"]["params"] == {"temperature": 0.5}, "the temperature is stored")
    page.get_by_role("button", name="Done").click()
    expect(system).not_to_be_visible()

    chat.sidebar.page.get_by_role("button", name="New chat").click()
    expect(page.locator("p.lead", has_text="What shall we work on?")).to_be_visible()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(system).to_be_empty()


def test_the_theme_stays_over_a_reload(chat: ChatScreen, page: Page) -> None:
    chat.open()
    expect(page.locator("body")).not_to_have_class(re.compile(r"\bdark\b"))
    page.get_by_role("button", name="Dark theme").click()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    page.reload()
    chat.ready()
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
    expect(page.get_by_role("button", name="Light theme")).to_be_visible()


def test_a_draft_stays_with_its_conversation(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    other = starter.make_conversation((("user", "hi"),), title="Without a draft")
    chat.open()
    first = chat.id
    chat.box.fill("half a thou")
    page.reload()
    chat.ready()
    expect(chat.box).to_have_value("half a thou")
    chat.open(other)
    expect(chat.box).to_be_empty()
    chat.open(first)
    expect(chat.box).to_have_value("half a thou")
    chat.box.fill("")


def test_without_the_server_what_was_typed_stays(chat: ChatScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("ERR_INTERNET_DISCONNECTED")
    chat.open()
    page.context.set_offline(True)
    chat.box.fill("a precious text")
    chat.box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(chat.box).to_have_value("a precious text")
    page.context.set_offline(False)
    chat.box.press("Enter")
    expect(chat.asked).to_have_text(re.compile("a precious text"))
    chat.done()
    expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)


def test_without_a_model_the_reply_says_so_and_can_be_asked_for_again(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    models = ModelsScreen(page, starter).open()
    models.press(STARTER, "Unload")
    wait_for(lambda: not starter.loaded(), "the model is unloaded")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".model-chip")).to_contain_text("No model loaded")
    chat.send("hello")
    expect(chat.reply.locator(".note")).to_contain_text("No model is loaded. Open the Models page")
    models.show().load(STARTER)
    page.get_by_role("tab", name="Chat", exact=True).first.click()
    chat.reply.get_by_role("button", name="Try again").click()
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    assert chat.done()
