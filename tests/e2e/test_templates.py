"""The Templates area: looked at, edited, kept, chosen for a model, moved in and out; nothing typed is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, open_area
from tests.e2e.test_access import serious
from tests.paddock_server import PaddockServer, wait_for

BEGINNING = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\n"
ASKING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
STARTER = "starter-Q8_0"


class TemplatesScreen:
    """The area as a person uses it."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.server = server
        self.list = page.get_by_role("navigation", name="Templates")
        self.name = page.locator("#template-name")
        self.text = page.get_by_role("textbox", name="Template text")
        self.stop = page.locator("#template-stop")
        self.save = page.locator("#template-save")
        self.status = page.locator(".tpl-status")
        self.written = page.get_by_role("region", name="The text that the model reads")
        self.error = page.locator("#template-error")
        self.findings = page.get_by_role("list", name="What the doctor found")
        self.choice = page.locator("#template-choice")

    def open(self) -> TemplatesScreen:
        self.page.goto(self.server.url)
        return self.show()

    def show(self) -> TemplatesScreen:
        open_area(self.page, "Templates")
        expect(self.row(STARTER)).to_be_visible()
        return self

    def row(self, name: str) -> Locator:
        return self.list.get_by_role("button", name=re.compile(rf"^{re.escape(name)}(\s*(not saved|in use|changed|broken))*$"))

    def pick(self, name: str) -> None:
        self.row(name).click()
        expect(self.row(name)).to_have_attribute("aria-current", "true")

    def make(self, name: str, text: str) -> None:
        self.list.get_by_role("button", name="New", exact=True).click()
        self.name.fill(name)
        self.text.fill(text)

    def kept(self, name: str) -> str:
        """The text as the server has it."""
        return str(self.server.ask("GET", f"ui/templates/files/{name}")["text"])


@pytest.fixture
def screen(context: BrowserContext, starter: PaddockServer) -> Iterator[TemplatesScreen]:
    yield TemplatesScreen(context.new_page(), starter).open()
    starter.ask("PUT", "ui/templates/choice", {"template": ""})
    for row in starter.ask("GET", "ui/templates")["templates"]:
        if row["kind"] != "shipped":
            starter.ask("DELETE", f"ui/templates/files/{row['name']}")
    for entry in starter.ask("GET", "ui/templates")["deleted"]:
        starter.ask("DELETE", f"ui/templates/bin/{entry['id']}")


def test_the_models_own_template_is_shown_token_by_token(screen: TemplatesScreen) -> None:
    page = screen.page
    screen.pick(STARTER)
    expect(screen.text).to_have_js_property("readOnly", True)
    expect(screen.written.locator(".special").first).to_be_visible()
    expect(screen.written).to_contain_text("When do I plant beans?")
    one = page.locator(".tpl-count").inner_text()
    page.get_by_label("Conversation to look at").select_option("Several turns")
    expect(screen.written).to_contain_text("patient gardener")
    expect(page.locator(".tpl-count")).not_to_have_text(one)
    expect(screen.findings.locator("li").first).to_be_visible()
    expect(screen.findings.locator(".problem")).to_have_count(0)
    page.get_by_role("checkbox", name="Tokens").uncheck()
    expect(screen.written.locator(".tpl-token")).to_have_count(0)
    expect(screen.written).to_contain_text("patient gardener")
    page.get_by_role("button", name="Write 20 tokens").click()
    expect(page.locator(".tpl-tried")).to_contain_text(re.compile("It ended its reply by itself|It did not end its reply"))


def test_a_mistake_is_shown_with_its_line_and_nothing_typed_is_lost(screen: TemplatesScreen) -> None:
    page = screen.page
    screen.make("Mine", f"{BEGINNING}\n{{% if %}}\n")
    expect(screen.error).to_contain_text("Line 3: ")
    expect(page.locator(".tpl-numbers .bad")).to_have_text("3")
    page.get_by_role("button", name="Go to line 3").click()
    page.keyboard.insert_text(ASKING)
    expect(screen.error).to_be_hidden()
    expect(screen.written).to_contain_text("assistant")
    typed = screen.text.input_value()
    page.reload()
    expect(screen.name).to_have_value("Mine")
    expect(screen.text).to_have_value(typed)
    expect(screen.status).to_have_text("Not saved; kept in this browser")
    screen.pick("ChatML")
    expect(screen.name).to_have_value("ChatML")
    screen.pick("Mine")
    expect(screen.text).to_have_value(typed)


def test_kept_deleted_and_restored(screen: TemplatesScreen) -> None:
    page = screen.page
    screen.make("Mine", BEGINNING + ASKING)
    screen.stop.fill("###\n\\nYou:")
    screen.save.click()
    expect(screen.status).to_have_text("Saved")
    assert screen.kept("Mine") == BEGINNING + ASKING
    assert screen.server.ask("GET", "ui/templates/files/Mine")["stop"] == ["###", "\nYou:"]
    screen.text.press("End")
    screen.text.press_sequentially("x")
    screen.text.press("Control+s")
    expect(screen.status).to_have_text("Saved")
    wait_for(lambda: "x" in screen.kept("Mine").replace("messages", ""), "it is saved by the keyboard")
    page.locator("#template-delete").click()
    expect(screen.row("Mine")).to_have_count(0)
    page.locator(".tpl-bin summary").click()
    page.get_by_role("button", name="Restore Mine").click()
    expect(screen.row("Mine")).to_be_visible()
    expect(screen.name).to_have_value("Mine")


def test_the_settings_of_a_chat_offer_a_template_as_soon_as_it_is_kept(screen: TemplatesScreen) -> None:
    page = screen.page
    open_area(page, "Chat")
    page.get_by_role("button", name="Settings", exact=True).click()
    choice = page.get_by_label("Prompt template", exact=True)
    expect(choice).to_have_value(re.compile("The model's own"))
    open_area(page, "Templates")
    screen.make("Mine", BEGINNING + ASKING)
    with page.expect_response("**/gradio_api/**"):
        screen.save.click()
    expect(screen.status).to_have_text("Saved")
    open_area(page, "Chat")
    choice.click()
    expect(page.get_by_role("option", name="Mine", exact=True)).to_be_visible()


def test_a_shipped_one_is_changed_and_reset(screen: TemplatesScreen) -> None:
    screen.pick("ChatML")
    shipped = screen.text.input_value()
    screen.text.fill(shipped + "\nend")
    screen.save.click()
    expect(screen.row("ChatML")).to_contain_text("changed")
    assert screen.kept("ChatML").endswith("end")
    screen.page.get_by_role("button", name="Reset to the shipped one").click()
    expect(screen.text).to_have_value(shipped)
    assert screen.kept("ChatML") == shipped


def test_two_tabs_do_not_overwrite_each_other(screen: TemplatesScreen, watch: ConsoleWatch) -> None:
    watch.allow(" 409 ")
    screen.make("Mine", BEGINNING)
    screen.save.click()
    expect(screen.status).to_have_text("Saved")
    stamp = screen.server.ask("GET", "ui/templates/files/Mine")["stamp"]
    screen.server.ask("PUT", "ui/templates/files/Mine", {"text": "theirs", "stamp": stamp})
    screen.text.fill("ours")
    screen.save.click()
    expect(screen.page.locator("#template-problem")).to_contain_text("changed meanwhile")
    expect(screen.text).to_have_value("ours")
    assert screen.kept("Mine") == "theirs"
    screen.name.fill("Ours")
    screen.page.get_by_role("button", name="Save as “Ours”").click()
    expect(screen.row("Ours")).to_be_visible()
    assert (screen.kept("Mine"), screen.kept("Ours")) == ("theirs", "ours")


def test_a_template_chosen_for_the_model_is_what_chats_use(screen: TemplatesScreen) -> None:
    page = screen.page
    screen.make("Terse", "{{ messages[-1].content }}")
    screen.stop.fill("###")
    screen.save.click()
    expect(screen.status).to_have_text("Saved")
    screen.choice.select_option("Terse")
    expect(screen.row("Terse")).to_contain_text("in use")
    page.reload()
    expect(screen.choice).to_have_value("Terse")
    chat = ChatScreen(page, screen.server)
    open_area(page, "Chat")
    chat.say("Hello")
    reply = screen.server.conversation(chat.id)["messages"][-1]
    own = screen.server.ask("POST", "ui/templates/look", {"sample": "One question"})["count"]
    assert reply["receipt"]["prompt_tokens"] < own


def test_the_doctor_offers_what_fits(screen: TemplatesScreen) -> None:
    page = screen.page
    screen.make("Foreign", "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endfor %}")
    expect(screen.findings.locator("li.problem").first).to_be_visible()
    page.get_by_role("button", name="Find one that fits").first.click()
    expect(page.locator(".tpl-fits")).to_contain_text("Without a problem for")
    offered = page.locator(".tpl-chips button").first
    name = offered.inner_text().split(" · ")[0]
    offered.click()
    expect(screen.choice).to_have_value(name)


def test_moved_out_and_in(screen: TemplatesScreen, tmp_path: Path) -> None:
    page = screen.page
    screen.pick("ChatML")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    assert download.value.suggested_filename == "ChatML.yaml"
    file = tmp_path / "Theirs.yaml"
    download.value.save_as(file)
    page.get_by_label("Template file").set_input_files(file)
    expect(screen.name).to_have_value("Theirs")
    expect(screen.status).to_have_text("Not saved; kept in this browser")
    screen.save.click()
    expect(screen.status).to_have_text("Saved")
    assert screen.kept("Theirs") == screen.kept("ChatML")


def test_on_a_phone_everything_is_reached(new_context: Callable[..., BrowserContext], starter: PaddockServer) -> None:
    page = new_context(viewport=PHONE, has_touch=True).new_page()
    screen = TemplatesScreen(page, starter).open()
    screen.pick("Gemma")
    expect(screen.name).to_have_value("Gemma")
    screen.written.scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for name in ("Chat", "Notebook", "Models", "Training", "Templates"):
        box = page.get_by_role("tab", name=name, exact=True).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_templates(new_context: Callable[..., BrowserContext], starter: PaddockServer, scheme: str) -> None:
    page = new_context(color_scheme=scheme).new_page()
    screen = TemplatesScreen(page, starter).open()
    expect(screen.written.locator(".special").first).to_be_visible()
    found = serious(page, "own")
    screen.make("Mine", f"{BEGINNING}{{% if %}}")
    expect(screen.error).to_be_visible()
    assert found + serious(page, "with a mistake") == []
