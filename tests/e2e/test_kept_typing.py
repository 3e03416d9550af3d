"""What is typed at an awkward moment stays: between a request and its answer, while another window changes the same, before a server answers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen, NotebookScreen
from tests.e2e.test_notebook import BEGINNING, writes_long
from tests.paddock_server import PaddockServer, wait_for

TYPED = "Listen! "
BEGUN = re.compile(f"^{TYPED}{BEGINNING}.+", re.DOTALL)
NEW_CHAT = "What shall we work on?"


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
