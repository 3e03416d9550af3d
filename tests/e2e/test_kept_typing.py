"""What is typed at an awkward moment stays: between a request and its answer, while another window changes the same, before a server answers."""

from __future__ import annotations

import contextlib
import re

import pytest
from playwright.sync_api import BrowserContext, Error, Page, Route, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen, NotebookScreen
from tests.e2e.test_characters import menu
from tests.e2e.test_notebook import BEGINNING, writes_long
from tests.paddock_server import PaddockServer, wait_for

TYPED = "Listen! "
BEGUN = re.compile(f"^{TYPED}{BEGINNING}.+", re.DOTALL)
NEW_CHAT = "What shall we work on?"
FULL = """() => {
    const { setItem } = Storage.prototype;
    Storage.prototype.setItem = function (key, value) {
        if (key.startsWith("paddock.draft.")) throw new DOMException(key, "QuotaExceededError");
        setItem.call(this, key, value);
    };
}"""


def type_first(notebook: NotebookScreen) -> None:
    """Type something before all that the notebook has."""
    notebook.text.press("ControlOrMeta+Home")
    notebook.text.press_sequentially(TYPED)


def type_while_another_tab_writes(notebook: NotebookScreen, context: BrowserContext) -> NotebookScreen:
    """Typed here, on its way to the server, and refused there because the other tab has the notebook written on; the other tab."""
    writes_long(notebook.page)
    notebook.open().fill(BEGINNING)
    other = NotebookScreen(context.new_page(), notebook.server)
    writes_long(other.page)
    other.open()
    saving = HeldRequests(notebook.page, "PUT", "ui/notebook")
    type_first(notebook)
    saving.come()
    other.generate.click()
    expect(notebook.stop).to_be_visible()
    with notebook.server.held():
        saving.release()
    return other


# ---- the notebook --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unhurried")
def test_what_is_typed_while_the_notebook_asks_for_more_is_kept(notebook: NotebookScreen) -> None:
    notebook.open().fill(BEGINNING)
    asking = HeldRequests(notebook.page, "POST", "ui/notebook/generate")
    notebook.generate.click()
    asking.come()
    type_first(notebook)
    asking.release()
    expect(notebook.text).to_have_value(BEGUN)
    notebook.done()
    notebook.saved(notebook.text.input_value())
    expect(notebook.text).to_have_value(BEGUN)


@pytest.mark.usefixtures("unhurried")
def test_what_is_typed_while_another_tab_writes_is_kept(notebook: NotebookScreen, context: BrowserContext, watch: ConsoleWatch) -> None:
    watch.allow("409")
    other = type_while_another_tab_writes(notebook, context)
    expect(notebook.text).to_have_value(BEGUN)
    other.stop.click()
    notebook.done()
    notebook.saved(notebook.text.input_value())
    expect(notebook.text).to_have_value(BEGUN)


@pytest.mark.usefixtures("unhurried")
def test_a_save_refused_while_it_is_written_on_is_no_conflict(notebook: NotebookScreen, context: BrowserContext, watch: ConsoleWatch) -> None:
    watch.allow("409")
    other = type_while_another_tab_writes(notebook, context)
    other.stop.click()
    notebook.done()
    expect(notebook.page.get_by_text("changed in another window")).to_have_count(0)


@pytest.mark.usefixtures("unhurried")
def test_what_is_typed_while_it_writes_survives_a_reload(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    writes_long(page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the text grows")
    with starter.held():
        expect(notebook.stop).to_be_visible()
        type_first(notebook)
        page.reload()
        expect(notebook.text).to_have_value(BEGUN)
        notebook.stop.click(no_wait_after=True)
    notebook.done()
    notebook.saved(notebook.text.input_value())
    expect(notebook.text).to_have_value(BEGUN)


@pytest.mark.usefixtures("unhurried")
def test_what_is_typed_while_it_writes_survives_a_crash_and_no_other_tab_takes_it(
    notebook: NotebookScreen, page: Page, context: BrowserContext, starter: PaddockServer
) -> None:
    writes_long(page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the text grows")
    with starter.held():
        type_first(notebook)
        page.wait_for_function("typed => Object.values(localStorage).some((value) => value.includes(typed))", arg=TYPED)
        other = NotebookScreen(context.new_page(), starter)
        tab = page.evaluate("sessionStorage.getItem('paddock.notebook.tab')")
        other.page.add_init_script(f"sessionStorage.setItem('paddock.notebook.tab', '{tab}')")  # as in a copied tab
        other.open_held()
        expect(other.stop).to_be_visible()
        assert TYPED not in other.text.input_value()
        expect(other.page.get_by_role("button", name="Put it back")).to_have_count(0)
        other.page.close()
        with page.expect_event("crash"), contextlib.suppress(Error):
            page.goto("chrome://crash")
        page.close()
        again = NotebookScreen(context.new_page(), starter).open_held()
        expect(again.text).to_have_value(BEGUN)
    starter.ask("POST", "ui/notebook/stop", {})
    again.done()
    again.saved(again.text.input_value())
    expect(again.text).to_have_value(BEGUN)
    assert not again.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('paddock.notebook.draft.'))")


@pytest.mark.usefixtures("unhurried")
def test_over_plain_http_the_text_of_another_tab_is_offered_until_it_is_saved(notebook: NotebookScreen, context: BrowserContext, starter: PaddockServer) -> None:
    other = NotebookScreen(context.new_page(), starter)
    for screen in (notebook, other):
        screen.page.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { get: () => undefined })")
    writes_long(notebook.page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the text grows")
    type_first(notebook)
    notebook.page.wait_for_function("typed => Object.values(localStorage).some((value) => value.includes(typed))", arg=TYPED)
    other.open()
    offer = other.page.get_by_text("typed in another tab")
    expect(offer).to_be_visible()
    assert TYPED not in other.text.input_value()
    starter.ask("POST", "ui/notebook/stop", {})
    expect(offer).to_have_count(0)
    expect(other.text).to_have_value(BEGUN)
    notebook.page.reload()
    expect(notebook.text).to_have_value(BEGUN)


def test_a_text_that_gave_way_is_offered_until_somebody_chooses(notebook: NotebookScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("409")
    notebook.open().fill("first")
    saving = HeldRequests(page, "PUT", "ui/notebook")
    notebook.text.fill("mine")
    notebook.server.ask("PUT", "ui/notebook", {"text": "of another window", "rev": None})
    saving.release()
    page.get_by_role("button", name="Show the other").click()
    expect(notebook.text).to_have_value("of another window")
    page.reload()
    expect(notebook.text).to_have_value("of another window")
    page.get_by_role("button", name="Put it back").click()
    notebook.saved("mine")
    expect(page.get_by_role("button", name="Put it back")).to_have_count(0)
    saving = HeldRequests(page, "PUT", "ui/notebook")
    notebook.text.fill("the same in both")
    notebook.server.ask("PUT", "ui/notebook", {"text": "the same in both", "rev": None})
    saving.release()
    expect(page.locator(".notebook-saved")).to_have_text("Saved")  # there is nothing to choose from


def test_undo_takes_nothing_back_while_the_text_cannot_be_saved(notebook: NotebookScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("409")
    notebook.open().fill("first")
    saving = HeldRequests(page, "PUT", "ui/notebook")
    notebook.text.fill("mine")
    notebook.server.ask("PUT", "ui/notebook", {"text": "of another window", "rev": None})
    saving.release()
    problem = page.get_by_role("alert").filter(has_text="changed in another window")
    expect(problem).to_be_visible()
    with page.expect_response("**/ui/notebook"):
        notebook.undo.click()
    expect(problem).to_be_visible()
    problem.get_by_role("button", name="Keep this text").click()
    notebook.saved("mine")
    expect(notebook.text).to_have_value("mine")
    assert not [address for address in watch.addresses if address.endswith("ui/notebook/undo")]


def test_an_answer_that_comes_after_the_end_does_not_leave_the_button_at_stop(notebook: NotebookScreen, page: Page) -> None:
    notebook.open().fill(BEGINNING)
    asking = HeldRequests(page, "POST", "ui/notebook/generate", answered=True)
    notebook.generate.click()
    asking.come()
    wait_for(lambda: not notebook.server.ask("GET", "ui/notebook")["running"], "the text is written")
    expect(notebook.text).to_have_value(notebook.server.ask("GET", "ui/notebook")["text"])
    notebook.done()
    asking.release()
    notebook.fill("Another text.")
    expect(notebook.stop).to_have_count(0)
    expect(notebook.generate).to_be_visible()


# ---- the chat ------------------------------------------------------------------------------------------------------


def test_what_is_typed_before_the_first_conversation_exists_stays(chat: ChatScreen, page: Page) -> None:
    beginning = HeldRequests(page, "POST", "ui/conversations")
    page.goto(chat.server.url)
    chat.box.fill("typed early")
    beginning.release()
    expect(page.get_by_text(NEW_CHAT)).to_be_visible()
    expect(chat.box).to_have_value("typed early")
    page.reload()
    chat.ready()
    expect(chat.box).to_have_value("typed early")


def test_a_conversation_deleted_elsewhere_leaves_what_is_typed(chat: ChatScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("404")
    doomed = chat.server.make_conversation((("user", "not for long"),), title="Deleted elsewhere")
    chat.open(doomed).box.fill("a long text")
    chat.server.ask("DELETE", f"ui/conversations/{doomed}")
    expect(page.get_by_text(NEW_CHAT)).to_be_visible()
    assert chat.id != doomed
    expect(chat.box).to_have_value("a long text")


def test_an_open_edit_stays_when_another_tab_shows_another_version(chat: ChatScreen, page: Page, context: BrowserContext) -> None:
    rows = [{"id": word, "parent_id": None, "role": "user", "content": f"the {word} version"} for word in ("earlier", "later")]
    made = chat.server.ask("POST", "ui/conversations/import", {"title": "Versions", "messages": rows, "head_id": "later"})["id"]
    chat.open(made)
    chat.press(chat.asked.first, "Edit")
    box = page.get_by_role("textbox", name="Edit message")
    box.fill("a long edit")
    other = ChatScreen(context.new_page(), chat.server).open(made)
    other.press(other.asked.first, "Earlier version")
    expect(chat.asked.filter(has_text="the earlier version")).to_be_visible()
    expect(box).to_have_value("a long edit")
    box.press("Escape")
    expect(box).to_have_count(0)
    expect(chat.messages).to_have_count(1)


def test_an_open_edit_survives_a_reload(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Good day."))))
    chat.press(chat.reply, "Edit")
    area = chat.reply.get_by_role("textbox", name="Edit message")
    area.fill("Good day to")
    page.reload()
    expect(area).to_have_value("Good day to")
    area.press_sequentially(" you.")
    chat.reply.get_by_role("button", name="Save", exact=True).click()
    expect(area).to_have_count(0)
    expect(chat.reply.locator(".body")).to_have_text("Good day to you.")
    page.reload()
    expect(chat.reply.locator(".body")).to_have_text("Good day to you.")
    expect(area).to_have_count(0)


def test_a_key_pressed_in_an_open_edit_opens_no_second_one(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Good day."))))
    page.keyboard.press("Alt+E")
    area = chat.reply.get_by_role("textbox", name="Edit message")
    area.fill("Good day to you.")
    area.press("Alt+E")
    area.press("Shift+Enter")  # what the key began has been done before this one comes
    expect(area).to_have_count(1)
    expect(area).to_have_value("Good day to you.\n")


def test_what_is_on_its_way_is_not_sent_twice(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Good day."))))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]) if request.method == "POST" and request.url.endswith(("/edit", "/insert")) else None)
    chat.press(chat.reply, "Edit")
    area = chat.reply.get_by_role("textbox", name="Edit message")
    area.fill("Good day to you.")
    for verb, box, key in (("edit", area, "Enter"), ("insert", chat.box, "ControlOrMeta+Shift+Enter")):
        under_way = HeldRequests(page, "POST", f"ui/conversations/{chat.id}/{verb}")
        box.press(key)
        under_way.come()
        box.press(key)
        under_way.release()
        expect(area).to_have_count(0)
        chat.box.fill("And then?")
    assert asked == ["edit", "insert"]


def test_a_draft_for_which_the_browser_has_no_room_stays_while_the_page_does(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "of the other"),), title="The other one")
    chat.open(starter.make_conversation((("user", "Hello"),), title="Full"))
    chat.box.fill("short")
    page.evaluate(FULL)
    chat.box.fill("a text that is much longer")
    chat.row("The other one").get_by_role("button", name="The other one").click()
    expect(chat.asked).to_have_text("of the other")
    chat.row("Full").get_by_role("button", name="Full").click()
    expect(chat.asked).to_have_text("Hello")
    expect(chat.box).to_have_value("a text that is much longer")


def test_an_edit_ended_with_escape_waits_until_edit_is_pressed_again(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Good day."))))
    chat.press(chat.reply, "Edit")
    area = chat.reply.get_by_role("textbox", name="Edit message")
    area.press("Escape")
    expect(area).to_have_count(0)
    chat.press(chat.reply, "Edit")
    area.fill("Good day to you.")
    area.press("Escape")
    expect(area).to_have_count(0)
    expect(page.get_by_text("Your edit is kept")).to_have_count(1)  # nothing is said of one in which nothing was typed
    page.get_by_role("button", name="Go on", exact=True).click()
    expect(area).to_have_value("Good day to you.")
    area.press("Escape")
    page.reload()
    expect(chat.reply.locator(".body")).to_have_text("Good day.")
    expect(area).to_have_count(0)
    chat.press(chat.reply, "Edit")
    expect(area).to_have_value("Good day to you.")
    chat.reply.get_by_role("button", name="Original text").click()
    expect(area).to_have_value("Good day.")
    area.press("Escape")
    chat.press(chat.reply, "Edit")
    expect(area).to_have_value("Good day.")


def test_the_words_that_a_reply_is_to_begin_with_stay_until_they_are_sent(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    other = starter.make_conversation((("user", "of the other"),), title="Beside what was begun")
    chat.open(starter.make_conversation((("user", "Hello"),), title="Begun here"))
    words = page.get_by_label("The reply begins with")
    menu(page, "Start the reply with…")
    words.fill("Every single")
    page.reload()
    expect(words).to_have_value("Every single")
    chat.row("Beside what was begun").get_by_role("button", name="Beside what was begun").click()
    expect(chat.asked).to_have_text("of the other")
    expect(words).to_have_count(0)
    chat.row("Begun here").get_by_role("button", name="Begun here").click()
    expect(words).to_have_value("Every single")
    words.press("Escape")
    expect(words).to_have_count(0)
    menu(page, "Start the reply with…")
    expect(words).to_have_value("Every single")
    words.press("Enter")
    expect(words).to_have_count(0)
    assert chat.done().startswith("Every single")
    assert other not in chat.page.url
    menu(page, "Start the reply with…")
    expect(words).to_have_value("")


def test_sending_tries_again_to_begin_a_conversation(chat: ChatScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("ERR_CONNECTION_REFUSED")

    def refuse(route: Route) -> None:
        if route.request.method == "POST":
            route.abort("connectionrefused")
        else:
            route.continue_()

    page.route("**/ui/conversations", refuse)
    with page.expect_event("requestfailed"):
        page.goto(chat.server.url)
    chat.box.fill("hello after all")
    page.unroute("**/ui/conversations", refuse)
    chat.box.press("Enter")
    expect(chat.asked).to_have_text(re.compile("hello after all"))
    assert chat.done()
    expect(chat.box).to_be_empty()


def test_a_sent_text_is_no_draft_after_switching(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "of the other"),), title="Looked at meanwhile")
    chat.open(starter.make_conversation((("user", "of this one"),), title="Sent from here"))
    sending = HeldRequests(page, "POST", "send")
    chat.box.fill("sent and left")
    chat.box.press("Enter")
    sending.come()
    chat.row("Looked at meanwhile").get_by_role("button", name="Looked at meanwhile").click()
    expect(chat.asked).to_have_text("of the other")
    sending.release()
    chat.row("Sent from here").get_by_role("button", name="Sent from here").click()
    expect(chat.asked.last).to_contain_text("sent and left")
    assert chat.done()
    expect(chat.box).to_be_empty()
