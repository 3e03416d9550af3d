"""Several notebooks, their versions, writing in the middle and in several tries, what the model finds likely, and views of the text."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen, NotebookScreen, open_area
from tests.paddock_server import PaddockServer, wait_for

BEGINNING = "Once upon a time there was a small"
END = "\n\nAnd that was the end 🐎."


def write_on(notebook: NotebookScreen) -> str:
    """The text after a generation, once all of it is in the page."""
    before = notebook.text.input_value()
    notebook.generate.click()

    def written() -> str:
        told = notebook.server.ask("GET", "ui/notebook")
        return "" if told["running"] or told["text"] == before else str(told["text"])

    expect(notebook.text).to_have_value(wait_for(written, "it has been written"))
    return notebook.done()


def set_caret(notebook: NotebookScreen, start: int, stop: int) -> None:
    notebook.text.evaluate("(area, [start, stop]) => { area.focus(); area.setSelectionRange(start, stop); }", [start, stop])
    notebook.page.get_by_label("Where to write").select_option("At the cursor")


def short(server: PaddockServer, **params: object) -> None:
    server.ask("PUT", "ui/notebook/settings", {"settings": {"preset": "", "params": {"max_tokens": 12, **params}}})


def opened(page: Page, button: str, panel: str) -> Locator:
    page.get_by_role("button", name=button, exact=True).click()
    return page.get_by_role("group", name=panel, exact=True)


def test_notebooks_are_made_named_found_deleted_and_brought_back(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    notebook.open().fill("A plan for the garden")
    panel = page.get_by_role("group", name="Notebooks", exact=True)
    head = page.get_by_title("All notebooks")
    expect(head).to_have_text("A plan for the garden")
    head.click()
    panel.get_by_role("button", name="New notebook").click()
    expect(head).to_have_text("Untitled")
    expect(notebook.text).to_have_value("")
    notebook.fill("Letters to nobody")
    head.click()
    panel.get_by_role("button", name="Rename “Letters to nobody”").click()
    panel.get_by_label("Name of the notebook").fill("Letters")
    panel.get_by_label("Name of the notebook").press("Enter")
    expect(head).to_have_text("Letters")
    rows = panel.get_by_role("list", name="Notebooks").get_by_role("listitem")
    expect(rows).to_have_count(2)
    panel.get_by_label("Search notebooks").fill("GARDEN plan")
    expect(rows).to_have_count(1)
    rows.get_by_role("button", name=re.compile("^A plan for the garden")).click()
    expect(notebook.text).to_have_value("A plan for the garden")
    page.reload()
    notebook.show()
    expect(notebook.text).to_have_value("A plan for the garden")
    head.click()
    panel.get_by_role("button", name="Delete “Letters”").click()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(rows).to_have_count(1)
    panel.get_by_role("button", name="Deleted notebooks").click()
    panel.get_by_role("listitem").filter(has_text="Letters").first.get_by_role("button", name="Bring back").click()
    panel.get_by_role("button", name="Back to the notebooks").click()
    letters = rows.filter(has_text="Letters")
    expect(letters).to_have_count(1)
    letters.get_by_role("button", name="Delete “Letters”").click()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(rows).to_have_count(1)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_a_deleted_notebook_comes_back_with_undo(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    doomed = starter.ask("POST", "ui/notebooks", {"text": "About to go"})["id"]
    notebook.open()
    page.get_by_title("All notebooks").click()
    panel = page.get_by_role("group", name="Notebooks", exact=True)
    panel.get_by_role("button", name=re.compile("^About to go")).click()
    expect(notebook.text).to_have_value("About to go")
    notebook.text.press("ControlOrMeta+End")
    notebook.text.press_sequentially(" away")
    page.get_by_title("All notebooks").click()
    panel.get_by_role("button", name="Delete “About to go").click()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(notebook.text).not_to_have_value(re.compile("About to go"))
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(notebook.text).to_have_value("About to go away")
    starter.ask("DELETE", f"ui/notebooks/{doomed}")


def test_what_was_begun_in_the_list_of_before_stays_when_the_new_one_comes(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    other = starter.ask("POST", "ui/notebooks", {"text": "Of before"})["id"]
    notebook.open()
    panel = page.get_by_role("group", name="Notebooks", exact=True)
    page.get_by_title("All notebooks").click()
    expect(panel.get_by_role("button", name="Delete “Of before”")).to_be_visible()
    page.get_by_title("All notebooks").click()
    expect(panel).to_be_hidden()
    for name in ("Delete “Of before”", "Rename “Of before”"):
        held = HeldRequests(page, "GET", "ui/notebooks?*")
        page.get_by_title("All notebooks").click()
        panel.get_by_role("button", name=name).click()
        held.come()
        begun = panel.get_by_role("button", name="Delete", exact=True) if name.startswith("Delete") else panel.get_by_label("Name of the notebook")
        expect(begun).to_be_focused()
        held.release()
        page.wait_for_timeout(200)  # what would draw the list anew has done so
        expect(begun).to_be_focused()
        page.keyboard.press("Escape")
        page.get_by_title("All notebooks").click()
        expect(panel).to_be_hidden()
    starter.ask("DELETE", f"ui/notebooks/{other}")


def test_the_list_lies_over_the_buttons_beside_it_where_they_have_a_row_of_their_own(notebook: NotebookScreen, page: Page) -> None:
    notebook.open()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Preset", exact=True)).to_be_visible()
    page.get_by_title("All notebooks").click()
    panel = page.get_by_role("group", name="Notebooks", exact=True)
    expect(panel.get_by_role("button", name="New notebook")).to_be_visible()
    below = page.get_by_role("button", name="Special tokens", exact=True).bounding_box()
    assert below is not None
    on_top = "([x, y]) => Boolean(document.elementFromPoint(x, y).closest('.notebook-drop'))"
    over = panel.bounding_box()
    assert over is not None
    x, y = below["x"] + below["width"] / 2, below["y"] + below["height"] / 2
    assert over["x"] < x < over["x"] + over["width"] and over["y"] < y < over["y"] + over["height"], "the button is where the list is"
    assert page.evaluate(on_top, [x, y])


def test_who_types_without_a_pause_is_saved_too(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    notebook.open()
    notebook.text.focus()
    for _ in range(400):  # keys closer together than any waiting for a pause
        page.keyboard.type("word ", delay=20)
        if starter.ask("GET", "ui/notebook")["text"]:
            break
    else:
        pytest.fail("nothing is saved while typing goes on")
    expect(page.locator(".notebook-saved")).to_have_text("Saved")
    notebook.saved(notebook.text.input_value())


def test_a_version_is_looked_at_and_gone_back_to(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter)
    notebook.open().fill("A line.\n" * 60 + BEGINNING)
    written = write_on(notebook)
    notebook.fill("Something else")
    panel = opened(page, "History", "Versions of this notebook")
    versions = panel.get_by_role("list", name="Versions").get_by_role("listitem")
    newest = versions.first
    expect(newest).to_contain_text("written by the model")
    newest.get_by_role("button").first.click()
    expect(newest.locator("pre")).to_have_text(written)
    assert newest.locator("pre").evaluate("box => box.scrollTop > 0 && box.scrollHeight - box.scrollTop - box.clientHeight < 99"), "what is new is seen"
    newest.get_by_role("button", name="Go back to this version").click()
    expect(notebook.text).to_have_value(written)
    expect(panel).to_be_hidden()
    notebook.undo.click()
    expect(notebook.text).to_have_value("Something else")


def test_the_model_writes_at_the_cursor_and_for_a_selection(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter)
    text = BEGINNING + END
    notebook.open().fill(text)
    set_caret(notebook, len(BEGINNING), len(BEGINNING))
    written = write_on(notebook)
    assert written.startswith(BEGINNING) and written.endswith(END) and len(written) > len(text)
    notebook.saved(written)
    notebook.undo.click()
    expect(notebook.text).to_have_value(text)
    text = "Once upon a time zqx vwk" + END  # words that the model does not write again
    notebook.fill(text)
    set_caret(notebook, len("Once upon a time"), len(text) - len(END))
    replaced = write_on(notebook)
    assert replaced.startswith("Once upon a time") and replaced.endswith(END) and "zqx" not in replaced
    notebook.undo.click()
    expect(notebook.text).to_have_value(text)


@pytest.mark.usefixtures("unhurried")
def test_typing_goes_on_on_both_sides_while_the_model_writes_in_the_middle(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter, max_tokens=0, ban_eos=True)
    notebook.open().fill(BEGINNING + END)
    set_caret(notebook, len(BEGINNING), len(BEGINNING))
    notebook.generate.click()
    wait_for(lambda: len(notebook.text.input_value()) > len(BEGINNING + END), "the text grows")
    with starter.held():
        notebook.text.press("ControlOrMeta+Home")
        notebook.text.press_sequentially("Listen! ")
        notebook.text.press("ControlOrMeta+End")
        notebook.text.press_sequentially(" Really.")
    before = len(notebook.text.input_value())
    wait_for(lambda: len(notebook.text.input_value()) > before, "it goes on")
    notebook.stop.click(no_wait_after=True)
    whole = notebook.done()
    assert whole.startswith("Listen! " + BEGINNING) and whole.endswith(END + " Really.")
    notebook.saved(notebook.text.input_value())


def test_one_of_several_alternatives_is_picked(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter, temperature=1.5)
    text = BEGINNING + END
    notebook.open().fill(text)
    set_caret(notebook, len(BEGINNING), len(BEGINNING))
    page.get_by_label("How many alternatives").select_option("3 texts")
    page.add_style_tag(content="#notebook .alternative-text { flex: none; max-height: 1.5em; }")  # all of them are longer
    notebook.generate.click()
    cards = page.get_by_role("list", name="Alternatives", exact=True).get_by_role("listitem")
    expect(cards).to_have_count(3)
    second = cards.nth(1)
    use = second.get_by_role("button", name="Use alternative 2")
    expect(use).to_be_enabled()
    assert notebook.done() == text
    chosen = second.locator(".alternative-text").text_content()
    assert cards.locator(".alternative-text").evaluate_all("boxes => boxes.every((box) => box.scrollTop === 0)"), "read from the beginning"
    page.reload()  # the choice stays
    notebook.show()
    expect(page.get_by_label("How many alternatives")).to_have_value("3")
    expect(cards).to_have_count(3)
    use.click()
    expect(notebook.text).to_have_value(f"{BEGINNING}{chosen}{END}")
    expect(cards).to_have_count(0)
    notebook.undo.click()
    expect(notebook.text).to_have_value(text)


def test_what_the_model_writes_beside_the_text_is_gone_on_with_and_used(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter, ban_eos=True)
    notebook.open().fill(BEGINNING)
    page.get_by_label("Where to write").select_option("Beside the text")
    column = page.get_by_role("region", name="Alternatives to pick from")
    expect(column).to_contain_text("your text stays as it is")
    notebook.generate.click()
    more = column.get_by_role("button", name="Continue alternative 1")
    expect(more).to_be_enabled()
    assert notebook.done() == BEGINNING
    first = column.locator(".alternative-text").text_content()
    more.click()
    expect(column.locator(".alternative-text")).not_to_have_text(first or "")
    expect(more).to_be_enabled()
    whole = column.locator(".alternative-text").text_content() or ""
    assert whole.startswith(first or "?") and len(whole) > len(first or "")
    expect(notebook.text).to_have_value(BEGINNING)
    column.get_by_role("button", name="Use alternative 1").click()
    expect(notebook.text).to_have_value(BEGINNING + whole)
    notebook.undo.click()
    expect(notebook.text).to_have_value(BEGINNING)


def test_the_text_of_a_notebook_is_read_without_its_first_token(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    notebook.open().fill(BEGINNING)
    panel = opened(page, "Special tokens", "How the text becomes tokens")
    begins = panel.get_by_role("checkbox", name=re.compile("^Begin with"))
    expect(begins).to_be_checked()
    begins.uncheck()
    wait_for(lambda: starter.ask("GET", "ui/notebook")["settings"].get("add_bos") is False, "it is remembered")
    page.get_by_role("button", name="Tokens", exact=True).click()
    first = page.get_by_role("group", name="Tokens of the text").get_by_role("button").first
    expect(first).to_have_text(re.compile("^Once"))  # and not the token that marks a beginning


def test_next_tokens_before_and_after_the_samplers(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter, top_k=3)
    notebook.open().fill("Once upon a")
    page.get_by_role("button", name="Look ahead").click()
    before = page.get_by_role("list", name="Likeliest next tokens").get_by_role("button")
    after = page.get_by_role("list", name="After the samplers").get_by_role("button")
    expect(before).to_have_count(10)
    expect(after).to_have_count(3)
    expect(after.first).to_contain_text("␣time")
    after.first.click()
    expect(notebook.text).to_have_value("Once upon a time")


def test_an_unlikely_token_is_seen_and_the_text_goes_on_from_another(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    short(starter)
    text = "Once upon a zebra"
    notebook.open().fill(text)
    page.get_by_role("button", name="Tokens", exact=True).click()
    tokens = page.get_by_role("group", name="Tokens of the text").get_by_role("button")
    expect(tokens.first).to_be_visible()
    assert "".join(tokens.locator("span").all_text_contents()).endswith("upon a zebra")
    assert "".join(page.locator(".token-word").last.locator("span").all_text_contents()).strip() == "zebra", "they stand in one line"
    a = tokens.filter(has_text=re.compile(r"^ a\d+$"))
    after_a = tokens.nth(tokens.all_text_contents().index(a.text_content() or "") + 1)
    expect(after_a).to_have_class(re.compile("step-4"))
    expect(tokens.first.locator("small")).to_be_hidden()
    page.get_by_label("Token ids").check()
    expect(tokens.first.locator("small")).to_be_visible()
    after_a.click()
    choices = page.get_by_role("group", name="Alternatives of the token")
    choices.get_by_role("button").filter(has_text="␣time").click()
    expect(notebook.text).to_be_visible()
    wait_for(lambda: not starter.ask("GET", "ui/notebook")["running"], "it has been written")
    expect(notebook.text).to_have_value(re.compile("^Once upon a time.+", re.DOTALL))
    notebook.done()
    notebook.undo.click()
    expect(notebook.text).to_have_value("Once upon a time")
    notebook.undo.click()
    expect(notebook.text).to_have_value(text)


def test_the_text_as_markdown_and_beside_it(notebook: NotebookScreen, page: Page) -> None:
    notebook.open().fill("# A title\n\nSome **strong** words\n\n<script>alert(1)</script>")
    page.get_by_role("button", name="Markdown", exact=True).click()
    preview = page.get_by_role("region", name="The text as Markdown")
    expect(preview.get_by_role("heading", name="A title")).to_be_visible()
    expect(preview.locator("strong")).to_have_text("strong")
    expect(notebook.text).to_be_hidden()
    page.get_by_role("button", name="Two columns").click()
    expect(notebook.text).to_be_visible()
    text, beside = notebook.text.bounding_box(), preview.bounding_box()
    assert text and beside and text["x"] + text["width"] <= beside["x"] and abs(text["width"] - beside["width"]) < 3
    notebook.text.press("ControlOrMeta+End")
    notebook.text.press_sequentially("\n\n## More")
    expect(preview.get_by_role("heading", name="More")).to_be_visible()
    page.reload()
    notebook.show()
    expect(preview.get_by_role("heading", name="More")).to_be_visible()


def test_a_text_goes_to_the_chat_and_a_conversation_to_a_notebook(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    notebook.open().fill("What shall we work on?")
    page.get_by_role("button", name="Send to chat").click()
    expect(page.locator("body")).to_have_attribute("data-area", "chat")
    chat = ChatScreen(page, starter)
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_have_value("What shall we work on?")
    page.get_by_role("button", name="Send (Enter)").click()
    chat.done()
    chat.press(chat.reply, "Open in a notebook: the conversation up to here as one text")
    page.get_by_role("button", name="As plain text").click()
    expect(page.locator("body")).to_have_attribute("data-area", "notebook")
    expect(notebook.text).to_have_value(re.compile("^User: What shall we work on\\?\n\nAssistant: .+", re.DOTALL))
    made = [starter.ask("GET", "ui/notebook")["id"]]
    open_area(page, "Chat")
    chat.press(chat.reply, "Open in a notebook: the conversation up to here as one text")
    page.get_by_role("button", name="As the model sees it").click()
    reply = chat.stored_reply()
    expect(notebook.text).to_have_value(re.compile(f"What shall we work on\\?<.+{re.escape(reply)}$", re.DOTALL))
    opened_now = starter.ask("GET", "ui/notebook")
    made.append(opened_now["id"])
    assert opened_now["settings"]["add_bos"] is False, "the template has written that mark too"
    for one in made:
        starter.ask("DELETE", f"ui/notebooks/{one}")


def test_the_notebook_on_a_phone(new_context, starter: PaddockServer) -> None:
    starter.ask("PUT", "ui/notebook", {"text": "A small text", "rev": None})
    short(starter)
    page = new_context(viewport={"width": 390, "height": 844}).new_page()
    NotebookScreen(page, starter).open()
    open_area(page, "Notebook")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("How many alternatives").select_option("3 texts")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("button", name="Use alternative 3")).to_be_enabled()
    for where in ("At the end", "Beside the text"):
        page.get_by_label("Where to write").select_option(where)
        above, below = page.locator(".notebook-bar").bounding_box(), page.get_by_role("region", name="Next token").bounding_box()
        assert above and below and above["y"] + above["height"] <= below["y"], "nothing lies over something else"
    page.get_by_role("button", name="Take none").click()
    page.get_by_title("All notebooks").click()
    box = page.get_by_role("group", name="Notebooks", exact=True).bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
