"""The settings drawer: a parameter is found by a word, what differs from the preset is marked and taken back, a preset comes from a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from modules.core.params import DEFAULT_ORDER
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen
from tests.e2e.test_characters import menu
from tests.paddock_server import STARTER, PaddockServer, wait_for

FOREIGN = "temperature: 0.87\ntop_p: 0.99\ntop_k: 85\nrepetition_penalty: 1.05\ntemperature_last: true\ntop_a: 0.3\n"


class Drawer:
    """The open drawer of a conversation without settings of its own."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.chat = ChatScreen(page, server).open(server.make_conversation((("user", "Hello"),)))
        page.get_by_role("button", name="Settings", exact=True).click()
        self.element = page.locator("#drawer")
        self.search = page.get_by_label("Find a parameter")
        self.changes = page.get_by_role("group", name="Differs from the preset")
        expect(self.search).to_be_visible()
        expect(page.get_by_label("Preset", exact=True)).to_have_value("Balanced")  # the conversation's settings have come

    def number(self, label: str) -> Locator:
        return self.element.get_by_role("spinbutton", name=f"number input for {label}", exact=True)


@pytest.fixture
def drawer(context: BrowserContext, starter: PaddockServer) -> Iterator[Drawer]:
    yield Drawer(context.new_page(), starter)


def test_the_form_is_drawn_when_it_is_wanted_and_shown_when_it_is_filled(chat: ChatScreen, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("500")
    chat.open()
    prompt, preset = page.get_by_label("System prompt", exact=True), page.get_by_label("Preset", exact=True)
    button = page.get_by_role("button", name="Settings", exact=True)
    expect(prompt).to_have_count(0)
    button.hover()
    expect(prompt).to_be_attached()
    expect(page.get_by_label("Find a parameter")).to_be_attached()
    with page.expect_response("**/gradio_api/run/predict?*"):
        page.route("**/gradio_api/run/predict?*", lambda route: route.fulfill(status=500, json={}))
        button.click()
    expect(page.get_by_role("button", name="Done")).to_be_visible()
    expect(preset).to_be_hidden()  # it holds values that are nobody's
    page.unroute("**/gradio_api/run/predict?*")
    page.get_by_role("button", name="Done").click()
    button.click()
    expect(preset).to_have_value("Balanced")
    expect(prompt).to_be_visible()


def test_a_parameter_is_found_by_a_word(drawer: Drawer) -> None:
    drawer.search.fill("repeat")
    expect(drawer.element.locator(".field-dry_multiplier")).to_be_visible()
    expect(drawer.element.locator(".field-temperature")).to_be_hidden()
    drawer.search.fill("zebra")
    expect(drawer.element.get_by_text("No parameter is about “zebra”.")).to_be_visible()
    drawer.search.fill("")
    expect(drawer.element.locator(".field-temperature")).to_be_visible()
    expect(drawer.element.locator(".field-dry_multiplier")).to_be_hidden()


def test_what_differs_is_marked_and_taken_back(drawer: Drawer, starter: PaddockServer) -> None:
    before = drawer.number("Temperature").input_value()
    expect(drawer.changes).to_be_hidden()
    drawer.number("Temperature").fill("1.3")
    drawer.number("Temperature").press("Tab")
    expect(drawer.changes.get_by_role("button")).to_have_count(1)
    drawer.number("Top k").fill("7")
    drawer.number("Top k").press("Tab")
    expect(drawer.changes.get_by_role("button")).to_have_count(2)
    expect(drawer.changes).to_contain_text("Temperature 1.3")
    mark = "block => getComputedStyle(block.querySelector('[data-testid=block-info]'), '::after').content"
    marks = {name: drawer.element.locator(f".field-{name}").evaluate(mark) for name in ("temperature", "top_k", "top_p")}
    assert "●○" in marks["temperature"] and "●○" in marks["top_k"], "from the preset and from neutral"
    assert "○" in marks["top_p"] and "●" not in marks["top_p"], "the preset itself is not neutral there"
    drawer.element.locator(".field-top_p").hover(position={"x": 5, "y": 5})
    expect(drawer.element.locator(".field-top_p")).to_have_attribute("title", "Differs from neutral, which is 1.")
    drawer.changes.get_by_role("button", name="Take Temperature back to the preset").click()
    expect(drawer.changes.get_by_role("button")).to_have_count(1)
    expect(drawer.number("Temperature")).to_have_value(before)
    expect(drawer.number("Top k")).to_have_value("7")
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"]["params"] == {"top_k": 7}, "the one that was kept is stored")


def test_answers_about_edits_that_come_in_another_order_lose_nothing(drawer: Drawer, starter: PaddockServer) -> None:
    """Of edits in quick succession the answer about an earlier one may come last; here that about the first one in place of the third one's."""
    page = drawer.page
    told: list[str] = []
    late: list[str] = []  # what is answered instead, once

    def answer(route: Route) -> None:
        told.append(route.fetch().text())
        route.fulfill(body=late.pop() if late else told[-1], content_type="application/json")

    def change(label: str, value: str) -> None:
        drawer.number(label).fill(value)
        drawer.number(label).press("Tab")

    def keeps(**params: float) -> None:
        wait_for(lambda: (page.title(), starter.conversation(drawer.chat.id)["settings"].get("params") == params)[1], f"{params} are stored")

    page.route("**/gradio_api/run/predict?*", answer)
    change("Temperature", "1.3")
    keeps(temperature=1.3)
    change("Top k", "7")
    keeps(temperature=1.3, top_k=7)
    page.wait_for_timeout(1000)  # it is looked at once more
    late.append(next(text for text in told if "1.3" in text))
    change("Min p", "0.2")
    wait_for(lambda: (page.title(), not late)[1], "the last edit is answered by what was said of the first one")
    keeps(temperature=1.3, top_k=7, min_p=0.2)
    page.unroute("**/gradio_api/run/predict?*", answer)


@pytest.fixture
def prompt(drawer: Drawer) -> Locator:
    """The box of the system prompt, as it is typed into and not left."""
    box = drawer.page.get_by_label("System prompt", exact=True)
    box.click()
    return box


def paste(box: Locator, text: str) -> None:
    """Put text into the box that has the cursor, as pasting does: without a key."""
    box.page.keyboard.insert_text(text)


def test_a_system_prompt_is_stored_while_it_is_typed_and_when_the_page_goes(drawer: Drawer, prompt: Locator, starter: PaddockServer) -> None:
    page = drawer.page
    expect(drawer.element.get_by_text("Saved", exact=True)).to_be_hidden()
    paste(prompt, "Be brief.")
    expect(drawer.element.get_by_text("Saved", exact=True)).to_be_visible()
    expect(prompt).to_be_focused()
    assert starter.conversation(drawer.chat.id)["settings"]["system_prompt"] == "Be brief."
    paste(prompt, " Rhyme.")
    page.reload()
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"]["system_prompt"] == "Be brief. Rhyme.", "it is stored though the page went")
    expect(page.get_by_label("System prompt", exact=True)).to_have_value("Be brief. Rhyme.")


def test_a_turn_from_the_menu_waits_for_settings_that_are_on_their_way(drawer: Drawer, prompt: Locator) -> None:
    page, told = drawer.page, []
    page.on("request", lambda request: told.append("inserted") if request.url.endswith("/insert") else None)
    page.on("response", lambda response: told.append("stored") if response.request.method == "PATCH" else None)
    saving = HeldRequests(page, "PATCH", f"ui/conversations/{drawer.chat.id}")
    paste(prompt, "Be brief.")
    saving.come()
    drawer.chat.box.fill("And then?")
    menu(page, "Send without a reply")
    saving.release()
    wait_for(lambda: (page.title(), len(told))[1] == 2, "both have come")
    assert told == ["stored", "inserted"]


def test_settings_of_two_tabs_do_not_overwrite_each_other(drawer: Drawer, prompt: Locator, context: BrowserContext, starter: PaddockServer) -> None:
    stored = lambda: starter.conversation(drawer.chat.id)["settings"]  # noqa: E731
    starter.ask("PATCH", f"ui/conversations/{drawer.chat.id}", {"settings": {"template_variables": {"tone": "dry"}}})
    other = context.new_page()
    other.goto(drawer.page.url)  # its settings open as they were
    theirs = other.get_by_label("System prompt", exact=True)
    expect(other.get_by_label("Preset", exact=True)).to_have_value("Balanced")
    temperature = other.locator("#drawer").get_by_role("spinbutton", name="number input for Temperature", exact=True)
    temperature.fill("1.3")  # so close to the other edit that its news come while this one is on its way
    paste(prompt, "Be brief.")
    drawer.number("Top k").fill("7")
    drawer.number("Top k").press("Tab")
    expect(theirs).to_have_value("Be brief.")
    expect(drawer.number("Temperature")).to_have_value("1.3")
    temperature.fill("1.2")
    temperature.press("Tab")
    expect(drawer.number("Temperature")).to_have_value("1.2")
    wait_for(lambda: stored()["params"] == {"temperature": 1.2, "top_k": 7}, "both edits are stored")
    assert stored()["system_prompt"] == "Be brief."
    assert stored()["template_variables"] == {"tone": "dry"}, "what the page has no control for stays"


def test_settings_of_a_notebook_in_two_tabs_do_not_overwrite_each_other(notebook: NotebookScreen, context: BrowserContext, starter: PaddockServer) -> None:
    other = NotebookScreen(context.new_page(), starter)
    boxes = []
    for screen in (notebook, other):
        screen.open()
        if not boxes:
            screen.page.get_by_role("button", name="Settings", exact=True).click()  # the other tab has them open as they were
        boxes.append(screen.page.locator("#drawer").get_by_role("spinbutton", name=re.compile("number input for (Temperature|Top k)$")))
        expect(boxes[-1]).to_have_count(2)
        expect(screen.page.get_by_label("Preset", exact=True)).to_have_value("Balanced")
    (mine, theirs) = boxes
    mine.first.fill("1.3")
    mine.first.press("Tab")
    expect(theirs.first).to_have_value("1.3")
    theirs.last.fill("7")
    theirs.last.press("Tab")
    expect(mine.last).to_have_value("7")
    wait_for(lambda: starter.ask("GET", "ui/notebook")["settings"]["params"] == {"max_tokens": 256, "temperature": 1.3, "top_k": 7}, "both are stored")


def test_the_settings_of_another_notebook_are_shown_though_those_of_the_last_were_just_edited(notebook: NotebookScreen, starter: PaddockServer) -> None:
    page = notebook.page
    other = starter.ask("POST", "ui/notebooks", {"name": "The other one"})["id"]
    starter.ask("PUT", "ui/notebook/settings", {"id": other, "settings": {"preset": "Balanced", "params": {"temperature": 0.5}}})
    notebook.open()
    page.evaluate("() => { const now = Date.now(); Date.now = () => now; }")  # the edit stays as fresh as it was
    page.get_by_role("button", name="Settings", exact=True).click()
    temperature = page.locator("#drawer").get_by_role("spinbutton", name="number input for Temperature", exact=True)
    expect(temperature).to_have_value("0.5")
    with page.expect_response("**/ui/notebook/settings"):
        temperature.fill("1.3")
        temperature.press("Tab")
    page.get_by_title("All notebooks").click()
    page.get_by_role("group", name="Notebooks", exact=True).get_by_role("list", name="Notebooks").get_by_role("button").filter(has_text="Untitled").first.click()
    expect(temperature).not_to_have_value("1.3")
    starter.ask("DELETE", f"ui/notebooks/{other}")


def test_settings_of_a_notebook_in_two_browsers_stay(notebook: NotebookScreen, new_context: Callable[..., BrowserContext], starter: PaddockServer) -> None:
    boxes = []
    for screen in (notebook, NotebookScreen(new_context().new_page(), starter)):
        screen.open()
        screen.page.get_by_role("button", name="Settings", exact=True).click()
        boxes.append(screen.page.locator("#drawer").get_by_role("spinbutton", name=re.compile("number input for (Temperature|Top k)$")))
        expect(screen.page.get_by_label("Preset", exact=True)).to_have_value("Balanced")
    (mine, theirs) = boxes
    for box, value in ((mine.first, "1.3"), (theirs.last, "7")):
        with box.page.expect_response("**/ui/notebook/settings"):
            box.fill(value)
            box.press("Tab")
    assert starter.ask("GET", "ui/notebook")["settings"]["params"] == {"max_tokens": 256, "temperature": 1.3, "top_k": 7}
    expect(theirs.first).to_have_value("1.3")  # which came with the answer


def test_a_preset_of_another_program_is_imported(drawer: Drawer, tmp_path: Path) -> None:
    file = tmp_path / "Big O.yaml"
    file.write_text(FOREIGN)
    drawer.page.get_by_label("Preset file").set_input_files(file)
    expect(drawer.page.get_by_text("Left out, as it has no place here: top_a 0.3.")).to_be_visible()
    expect(drawer.number("Temperature")).to_have_value("0.87")
    expect(drawer.page.get_by_label("Preset", exact=True)).to_have_value("Big O")
    expect(drawer.element.get_by_text("As last used with")).to_be_visible()
    expect(drawer.changes).to_be_hidden()


def test_a_preset_is_deleted_only_when_it_is_meant(drawer: Drawer, tmp_path: Path, starter: PaddockServer) -> None:
    page = drawer.page
    file = tmp_path / "Short lived.yaml"
    file.write_text("top_k: 12\n")
    chosen = page.get_by_label("Preset", exact=True)
    with page.expect_request(lambda request: "run/predict" in request.url and '"Short lived"' in (request.post_data or "")) as read:
        page.get_by_label("Preset file").set_input_files(file)
        expect(chosen).to_have_value("Short lived")
    drawer.element.get_by_role("button", name="Save as preset").click()
    drawer.element.get_by_role("button", name="Delete the chosen preset").click()
    expect(drawer.element.get_by_text("Delete the preset “Short lived” for good?")).to_be_visible()
    drawer.element.get_by_role("button", name="Keep it").click()
    expect(drawer.element.get_by_text("for good?")).to_be_hidden()
    expect(chosen).to_have_value("Short lived")
    drawer.element.get_by_role("button", name="Delete the chosen preset").click()
    drawer.element.get_by_role("button", name="Delete it").click()
    expect(chosen).to_have_value("Neutral")
    late = page.request.post(read.value.url, data=read.value.post_data, headers={"content-type": "application/json"})  # what was on its way meanwhile
    assert late.ok and "There is no preset “Short lived”" in late.text()


def test_samplers_are_put_in_order_by_dragging_and_by_keys(drawer: Drawer, starter: PaddockServer) -> None:
    drawer.search.fill("temperature")  # also a row of the order
    rows = drawer.element.get_by_role("list", name="Sampler order").get_by_role("listitem")
    expect(rows).to_have_count(len(DEFAULT_ORDER))
    expect(drawer.element.locator(".sampler.acting .sampler-name")).to_have_text(["Top k", "Top p", "Min p", "Temperature"])
    drawer.element.locator("[data-name=temperature] .sampler-grip").drag_to(drawer.element.locator("[data-name=penalties]"), target_position={"x": 20, "y": 2})
    expect(rows.first).to_contain_text("Temperature")
    first = drawer.element.get_by_role("button", name="Move Penalties up")
    first.press("Alt+ArrowDown")
    expect(drawer.element.get_by_text("Penalties is now 3 of")).to_be_attached()
    expect(first).to_be_focused()
    drawer.element.get_by_role("checkbox", name="Use XTC").uncheck()
    order = ["temperature", "dry", "penalties", *(name for name in DEFAULT_ORDER if name not in ("temperature", "dry", "penalties", "xtc"))]
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"]["params"] == {"sampler_order": order}, "the order is stored")
    drawer.number("Temperature").fill("0")
    drawer.number("Temperature").press("Tab")
    expect(drawer.element.locator(".sampler.acting")).to_have_count(0)
    drawer.element.get_by_role("button", name="Usual order").click()
    expect(rows.last).to_contain_text("Smoothing")
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"]["params"] == {"temperature": 0.0}, "the usual order is stored as none")


def test_a_model_has_the_preset_last_used_with_it(drawer: Drawer, starter: PaddockServer) -> None:
    page, preset = drawer.page, drawer.page.get_by_label("Preset", exact=True)
    preset.click()
    page.get_by_role("option", name="Precise").click()
    expect(page.get_by_text("As last used with starter-Q8_0.", exact=True)).to_be_visible()
    wait_for(lambda: starter.conversation(drawer.chat.id)["settings"]["preset"] == "Precise", "it is stored")
    other = ChatScreen(page, starter).open(starter.make_conversation((("user", "Hello"),)))
    expect(preset).to_have_value("Balanced")
    drawer.element.get_by_role("button", name="Take Precise, last used with").click()
    expect(preset).to_have_value("Precise")
    wait_for(lambda: starter.conversation(other.id)["settings"]["preset"] == "Precise", "it is taken")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(preset).to_have_value("Precise")
    page.get_by_role("button", name="Done").click()
    ModelsScreen(page, starter).show().press(STARTER, "Unload")
    wait_for(lambda: not starter.loaded(), "no model is loaded")
    page.get_by_role("tab", name="Chat", exact=True).first.click()
    page.get_by_role("button", name="Settings", exact=True).click()
    preset.click()
    page.get_by_role("option", name="Creative").click()
    starter.load()
    expect(page.get_by_text("Preset “Precise”, as last used with")).to_be_visible()
    expect(preset).to_have_value("Precise")
    preset.click()
    page.get_by_role("option", name="Balanced").click()
    expect(page.get_by_text("As last used with starter-Q8_0.", exact=True)).to_be_visible()


def test_a_grammar_comes_from_a_file_and_is_kept_in_one(drawer: Drawer, starter: PaddockServer) -> None:
    page, element = drawer.page, drawer.element
    drawer.search.fill("grammar")
    text, file = element.locator(".field-grammar textarea"), element.get_by_label("Grammar file", exact=True)
    file.click()
    page.get_by_role("option", name="Yes or no").click()
    expect(text).to_have_value(re.compile(r'"Yes" \| "No"'))
    wait_for(lambda: "Yes" in starter.conversation(drawer.chat.id)["settings"]["params"].get("grammar", ""), "the grammar is stored")
    text.fill('root ::= [0-9]{1,9}\nrest ::= (')
    expect(element.locator("#grammar-note")).to_contain_text("not right in line 2, column 11")
    text.fill("root ::= [0-9]{1,9}")
    expect(element.locator("#grammar-note")).to_be_hidden()
    element.get_by_label("Name to save the grammar under").fill("Digits")
    element.get_by_role("button", name="Save grammar").click()
    expect(file).to_have_value("Digits")
    element.get_by_role("button", name="Delete the file").click()
    element.get_by_role("button", name="Delete this grammar").click()
    expect(file).to_have_value("none")
    expect(text).to_have_value("root ::= [0-9]{1,9}")
    page.get_by_role("button", name="Done").click()
    assert re.fullmatch(r"\d{1,9}", drawer.chat.say("How many?").strip())
