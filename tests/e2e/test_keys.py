"""Keys: the sheet that lists and changes them, what they do, the palette, the list that can be hidden."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.screens import ChatScreen, NotebookScreen
from tests.paddock_server import STARTER, PaddockServer

CONFLICTS = """async () => {
    const load = (name) => import(document.querySelector('link[href$="/app.css"]').href.replace("app.css", `${name}.js`));
    const [{ ACTIONS }, { whyNotKey }] = await Promise.all([load("key_actions"), load("key_bindings")]);
    return ACTIONS.map(({ id, key }) => key && whyNotKey(id, key)).filter(Boolean);
}"""
TALK = (("user", "What is a foal?"), ("assistant", "A young horse."))


def sheet(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Keys")


def test_a_question_mark_lists_all_keys_and_a_key_can_be_changed(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="Keys"))
    chat.box.press("?")  # while typing it is a letter
    expect(chat.box).to_have_value("?")
    chat.box.fill("")
    chat.log.click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    expect(sheet(page).get_by_text("Search conversations")).to_be_visible()
    assert page.evaluate(CONFLICTS) == []
    change = sheet(page).get_by_role("button", name=re.compile("Change the key of “Light or dark”"))
    change.click()
    page.keyboard.press("ControlOrMeta+K")  # it is the palette's
    expect(sheet(page).get_by_role("alert")).to_contain_text("belongs to “Jump to")
    change.click()
    page.keyboard.press("Alt+J")
    expect(change).to_contain_text("J")
    page.keyboard.press("Escape")
    expect(sheet(page)).to_have_count(0)
    page.reload()
    chat.ready()
    page.keyboard.press("Alt+L")
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))
    page.keyboard.press("Alt+J")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    fresh = page.get_by_role("button", name="New chat", exact=True)
    expect(fresh).to_have_attribute("title", "New chat (Ctrl+Shift+O)")
    chat.log.click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    sheet(page).get_by_role("button", name=re.compile("Change the key of “New chat”")).click()
    page.keyboard.press("Alt+Q")
    expect(fresh).to_have_attribute("title", "New chat (Alt+Q)")
    sheet(page).get_by_role("button", name="All keys as they were").click()
    expect(fresh).to_have_attribute("title", "New chat (Ctrl+Shift+O)")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+L")
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))


def test_keys_do_what_the_buttons_do(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="By keys"))
    expect(chat.box).to_be_focused()
    page.keyboard.press("ArrowUp")
    edit = page.get_by_role("textbox", name="Edit message")
    expect(edit).to_have_value("What is a foal?")
    for key in ("ControlOrMeta+Shift+Backspace", "Alt+Backspace", "Alt+ArrowUp"):  # they belong to the text there
        edit.press(key)
    edit.fill("What is a foal?")
    expect(chat.messages).to_have_count(len(TALK))
    expect(chat.reply.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Escape")
    expect(edit).to_have_count(0)
    chat.box.focus()
    page.keyboard.press("ArrowRight")  # behind the last version another one is made
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    chat.done()
    page.keyboard.press("ArrowLeft")
    expect(chat.reply.locator(".versions")).to_contain_text("1/2")
    expect(chat.reply).to_contain_text("A young horse.")
    page.keyboard.press("ControlOrMeta+Enter")
    expect(chat.reply.locator(".versions")).to_contain_text("3/3")
    chat.done()
    chat.box.fill("typed")
    page.keyboard.press("ArrowLeft")  # moves in what is typed
    expect(chat.reply.locator(".versions")).to_contain_text("3/3")
    page.keyboard.press("Alt+ArrowUp")
    expect(chat.reply.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
    chat.box.fill("")
    page.keyboard.press("Alt+Shift+G")
    saw = page.get_by_role("dialog", name="What the model saw")
    expect(saw).to_contain_text("What is a foal?")
    page.keyboard.press("Escape")
    expect(saw).to_be_hidden()
    page.keyboard.press("Alt+Shift+Y")
    expect(chat.reply.locator(".versions")).to_contain_text("4/4")
    chat.done()
    expect(chat.reply.locator(".receipt")).to_contain_text("replay:")
    page.keyboard.press("Alt+3")
    expect(page.locator("body")).to_have_attribute("data-area", "models")
    page.keyboard.press("Alt+1")
    expect(page.locator("body")).to_have_attribute("data-area", "chat")


def rebind(page: Page, title: str, key: str) -> None:
    """Give an action another key on the sheet, which is open."""
    change = sheet(page).get_by_role("button", name=re.compile(f"Change the key of “{title}"))
    change.click()
    page.keyboard.press(key)


def test_sending_and_stopping_have_keys_that_can_be_changed(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((*TALK, ("user", "And?")), title="Other keys"))
    chat.log.click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    rebind(page, "New line", "Enter")
    expect(sheet(page).get_by_role("alert")).to_contain_text("Enter belongs to “Send, or save an edit”")
    rebind(page, "Send, or", "x")
    expect(sheet(page).get_by_role("alert")).to_contain_text("X writes or moves in the text there")
    rebind(page, "Send, or", "ControlOrMeta+Enter")  # another version has it where the box is empty
    rebind(page, "New line", "Alt+Enter")
    expect(sheet(page).get_by_role("alert")).to_contain_text("belongs to “Continue the last reply”")
    rebind(page, "Stop the reply", "Alt+Q")
    page.keyboard.press("Escape")
    expect(sheet(page)).to_have_count(0)
    chat.box.fill("first")
    chat.box.press("Enter")
    chat.box.press_sequentially("second")
    expect(chat.box).to_have_value("first\nsecond")
    stop = page.get_by_role("button", name="Stop (Alt+Q)")
    expect(page.get_by_role("button", name=re.compile(r"Send \((Ctrl|⌘)\+Enter\)"))).to_be_enabled()
    with starter.held():  # the reply may be of four tokens
        chat.box.press("ControlOrMeta+Enter")
        expect(stop).to_be_visible()
        expect(chat.box).to_have_value("")
        page.keyboard.press("Alt+Q")
    expect(stop).to_have_count(0)


def test_the_notebook_has_keys(notebook: NotebookScreen, page: Page) -> None:
    notebook.open().fill("Once upon a time")
    notebook.saved("Once upon a time")
    page.keyboard.press("ControlOrMeta+Enter")
    expect(notebook.text).not_to_have_value("Once upon a time")
    written = notebook.done()
    page.keyboard.press("Alt+Z")
    expect(notebook.text).to_have_value("Once upon a time")
    page.keyboard.press("Alt+Shift+Z")
    expect(notebook.text).to_have_value(written)
    page.keyboard.press("Alt+N")
    expect(page.get_by_role("list", name="Likeliest next tokens").get_by_role("listitem")).to_have_count(10)
    page.keyboard.press("Alt+Shift+2")
    expect(page.get_by_role("region", name="The text as Markdown")).to_be_visible()
    page.keyboard.press("Alt+Shift+1")
    expect(page.get_by_role("region", name="The text as Markdown")).to_be_hidden()
    page.keyboard.press("Alt+H")
    expect(page.get_by_role("list", name="Versions")).to_be_visible()


def press_option(page: Page, locator: Locator, *, key: str, code: str, control: bool = False) -> bool:
    """A key with Option as a Mac tells it; whether the page took it from the text."""
    init = {"key": key, "code": code, "altKey": True, "ctrlKey": control, "bubbles": True, "cancelable": True}
    return bool(locator.evaluate("(element, init) => !element.dispatchEvent(new KeyboardEvent('keydown', init))", init))


def test_option_on_a_mac_writes_in_a_box_and_is_a_key_elsewhere(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'platform', { get: () => 'MacIntel' })")
    chat.open(starter.make_conversation(TALK, title="On a Mac"))
    dark = re.compile("dark")
    assert not press_option(page, chat.box, key="@", code="KeyL"), "a German Mac writes @ so"
    expect(page.locator("body")).not_to_have_class(dark)
    assert press_option(page, chat.box, key="@", code="KeyL", control=True)
    expect(page.locator("body")).to_have_class(dark)
    assert press_option(page, chat.log, key="@", code="KeyL")
    expect(page.locator("body")).not_to_have_class(dark)
    chat.log.click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    change = sheet(page).get_by_role("button", name=re.compile("Change the key of “Light or dark”"))
    change.click()
    press_option(page, change, key="Dead", code="KeyN")
    expect(sheet(page).get_by_role("alert")).to_contain_text("⌥+N belongs to")


def test_the_palette_goes_to_conversations_models_and_presets(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    wanted = starter.make_conversation((("user", "About zebras and their stripes"),), title="Stripes")
    here = starter.make_conversation(TALK, title="Somewhere else")
    chat.open(here)
    page.keyboard.press("ControlOrMeta+K")
    palette = page.get_by_role("dialog", name="Jump to")
    field = palette.get_by_role("combobox", name="Jump to")
    expect(field).to_be_focused()
    field.fill("zebras")
    expect(palette.get_by_role("option", name="Stripes")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(palette).to_have_count(0)
    expect(chat.log).to_contain_text("About zebras")
    assert chat.id == wanted
    page.go_back()
    expect(chat.log).to_contain_text("A young horse.")
    page.go_forward()
    expect(chat.log).to_contain_text("About zebras")

    page.keyboard.press("ControlOrMeta+K")
    preset = next(name for name in starter.ask("GET", "ui/palette")["presets"] if name != "Balanced")
    field.fill(preset)
    palette.get_by_role("option", name=preset).click()
    page.wait_for_function("([id, name]) => fetch(`ui/conversations/${id}`).then((r) => r.json()).then((c) => c.settings.preset === name)", arg=[wanted, preset])

    page.keyboard.press("ControlOrMeta+K")
    field.fill("starter-Q8")
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_attribute("data-area", "models")
    expect(page.locator(f'.model-row[data-name="{STARTER}"]')).to_be_in_viewport()
    page.keyboard.press("ControlOrMeta+K")
    field.fill("dark theme")
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_have_class(re.compile("dark"))


def test_the_list_of_conversations_can_be_hidden_and_stays_so(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="Wide"))
    expect(chat.row("Wide")).to_be_visible()
    page.keyboard.press("ControlOrMeta+B")
    expect(chat.row("Wide")).not_to_be_visible()
    page.reload()
    chat.ready()
    expect(chat.row("Wide")).not_to_be_visible()
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(chat.row("Wide")).to_be_visible()
    page.get_by_role("button", name="Close the list").click()
    expect(chat.row("Wide")).not_to_be_visible()
    page.keyboard.press("ControlOrMeta+Shift+F")
    expect(page.get_by_role("searchbox", name="Search conversations")).to_be_focused()


@pytest.mark.usefixtures("unhurried")
def test_escape_in_a_dialog_stops_no_reply(chat: ChatScreen, page: Page, hurry: Callable[[], None]) -> None:
    chat.open()
    chat.send("Tell me a long story.")
    expect(chat.stop_button).to_be_visible()
    page.keyboard.press("ControlOrMeta+K")
    expect(page.get_by_role("dialog", name="Jump to")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    hurry()
    chat.done()
    expect(chat.reply).to_have_attribute("data-status", "complete")
