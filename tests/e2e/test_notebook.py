"""The notebook: what the model writes goes to the end, and nothing typed is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import NotebookScreen, open_area
from tests.paddock_server import LONG, PaddockServer, wait_for

BEGINNING = "Once upon a time there was a small"


def writes_long(page: Page) -> None:
    """From now on the notebook's generations do not end by themselves soon."""
    settings = {"preset": "", "params": LONG["params"]}
    page.add_init_script(f"localStorage.setItem('paddock.notebook.settings', {json.dumps(json.dumps(settings))})")


def test_every_button_has_its_name_before_the_text_has_come(page: Page, starter: PaddockServer) -> None:
    page.route("**/ui/notebook**", lambda route: None)
    page.goto(starter.url)
    notebook = NotebookScreen(page, starter)
    open_area(page, "Notebook")
    expect(notebook.generate).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def test_generate_undo_redo_and_regenerate(notebook: NotebookScreen) -> None:
    notebook.open().fill(BEGINNING)
    expect(notebook.page.locator(".notebook-bar .count")).to_contain_text(re.compile(r"\d+ / 1,024 tokens"))
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the text grows")
    first = notebook.done()
    assert first.startswith(BEGINNING)
    notebook.saved(first)
    count = notebook.server.ask("POST", "ui/tokens", {"text": first})["count"]
    expect(notebook.page.locator(".notebook-bar .count")).to_have_text(f"{count} / 1,024 tokens")
    notebook.undo.click()
    expect(notebook.text).to_have_value(BEGINNING)
    notebook.redo.click()
    expect(notebook.text).to_have_value(first)
    with notebook.page.expect_response("**/ui/notebook/regenerate"):
        notebook.regenerate.click()
    wait_for(lambda: not notebook.server.ask("GET", "ui/notebook")["running"], "the other text is written")
    second = notebook.done()
    assert second.startswith(BEGINNING)
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the other text is shown")
    notebook.undo.click()
    expect(notebook.text).to_have_value(BEGINNING)


@pytest.mark.usefixtures("unhurried")
def test_stop_keeps_what_is_written_and_a_reload_shows_it(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    writes_long(page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING) + 10, "the text grows")
    with starter.held():
        expect(notebook.stop).to_be_visible()
        page.reload()
        expect(page.get_by_role("tab", name="Notebook")).to_have_attribute("aria-selected", "true")  # the area stays
        expect(notebook.stop).to_be_visible()
        assert len(notebook.text.input_value()) > len(BEGINNING)
        notebook.stop.click(no_wait_after=True)
    kept = notebook.done()
    assert kept.startswith(BEGINNING)
    notebook.saved(kept)
    page.reload()
    notebook.show()
    expect(notebook.text).to_have_value(kept)


@pytest.mark.usefixtures("unhurried")
def test_a_closed_tab_stops_the_writing_and_keeps_what_was_typed(notebook: NotebookScreen, context: BrowserContext, starter: PaddockServer) -> None:
    writes_long(notebook.page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING) + 10, "the text grows")
    said = starter.log.count("/ui/notebook/left")
    with starter.held():
        notebook.page.close(run_before_unload=True)
        wait_for(lambda: starter.log.count("/ui/notebook/left") > said, "the server has heard of it")
    wait_for(lambda: not starter.ask("GET", "ui/notebook")["running"], "the writing has stopped")
    assert starter.counters()["running"] == 0
    again = NotebookScreen(context.new_page(), starter).open()
    expect(again.text).to_have_value(re.compile("^" + BEGINNING + ".+", re.DOTALL))
    again.text.press("ControlOrMeta+End")
    again.text.press_sequentially(" typed last")
    again.page.reload()
    expect(again.text).to_have_value(re.compile(" typed last$"))
    again.saved(again.text.input_value())


def test_typing_goes_on_while_the_model_writes(notebook: NotebookScreen, page: Page, starter: PaddockServer, hurry: Callable[[], None]) -> None:
    writes_long(page)
    notebook.open().fill(BEGINNING)
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING), "the text grows")
    with starter.held():
        notebook.text.press("ControlOrMeta+Home")
        notebook.text.press_sequentially("Listen! ")
    hurry()
    whole = notebook.done()
    assert whole.startswith("Listen! " + BEGINNING)
    assert page.evaluate("document.querySelector('.notebook-text').selectionStart") == len("Listen! ")
    notebook.saved(notebook.text.input_value())
    assert len(whole) > len("Listen! " + BEGINNING)


def test_the_likeliest_next_tokens(notebook: NotebookScreen, page: Page) -> None:
    notebook.open().fill("Once upon a")
    page.get_by_role("button", name="Look ahead").click()
    choices = page.get_by_role("list", name="Likeliest next tokens").get_by_role("button")
    expect(choices).to_have_count(10)
    expect(choices.first).to_contain_text(re.compile(r"[\d.]+ %"))
    choices.first.click()
    expect(notebook.text).to_have_value(re.compile("^Once upon a ?.+"))


def test_what_is_typed_in_one_tab_is_shown_in_the_other(notebook: NotebookScreen, context: BrowserContext, starter: PaddockServer) -> None:
    notebook.open().fill("first")
    notebook.saved("first")
    second = NotebookScreen(context.new_page(), starter).open()
    expect(second.text).to_have_value("first")
    second.text.press("ControlOrMeta+End")
    second.text.press_sequentially(" and second")
    expect(notebook.text).to_have_value("first and second")
    notebook.text.press("ControlOrMeta+Home")
    notebook.text.press_sequentially("The ")
    expect(second.text).to_have_value("The first and second")
    notebook.saved("The first and second")


def test_a_second_tab_shows_the_same_text_and_a_conflict_is_asked_about(
    notebook: NotebookScreen, context: BrowserContext, starter: PaddockServer, watch: ConsoleWatch
) -> None:
    watch.allow("409")
    notebook.open().fill("first")
    second = NotebookScreen(context.new_page(), starter).open()
    expect(second.text).to_have_value("first")
    saving = HeldRequests(notebook.page, "PUT", "ui/notebook")
    notebook.text.fill("third")
    saving.come()
    second.fill("second")
    saving.release()
    problem = notebook.page.get_by_role("alert").filter(has_text="changed in another window")
    expect(problem).to_be_visible()
    expect(notebook.text).to_have_value("third")
    problem.get_by_role("button", name="Keep this text").click()
    notebook.saved("third")
