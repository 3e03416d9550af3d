"""Models: what the list says, load, options, unload, adapters, and a reply in the browser from every kind of model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen, ModelsScreen, open_area
from tests.paddock_server import LONG, STARTER, PaddockServer, wait_for

GREEDY = {"preset": "Deterministic", "params": {"max_tokens": 24}}


@pytest.fixture
def optional_model(models_dir: Path, request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not (models_dir / name).exists():
        pytest.skip(f"the optional model {name} is not here")
    return name


def new_chat(page: Page, server: PaddockServer, title: str) -> ChatScreen:
    return ChatScreen(page, server).open(server.make_conversation(title=title, settings=GREEDY))


def test_the_list_says_what_each_model_is(models: ModelsScreen, page: Page, models_dir: Path) -> None:
    models.open()
    row = models.row(STARTER)
    expect(row).to_contain_text("llama")
    parameters = json.loads((models_dir / "starter" / "evaluation.json").read_text(encoding="utf-8"))["parameters"]
    for fact in (f"{parameters / 1e6:.1f} M parameters", "Q8_0", "1,024 context", f"{(models_dir / STARTER).stat().st_size / 1e6:.1f} MB"):
        expect(row.locator(".facts")).to_contain_text(fact)
    expect(row.get_by_text("Loaded", exact=True)).to_be_visible()
    expect(row).to_contain_text(re.compile(r"llama\.cpp · context 1,024 · (4|16) slots · [\d.]+ MB memory · loaded in [\d.]+ s"))
    expect(models.row("starter")).to_contain_text("F16")
    expect(page.locator(".memory")).to_contain_text(re.compile(r"[\d.]+ GB free of [\d.]+ GB · models take \d+ MB"))
    expect(models.row("broken.gguf")).to_contain_text("Cannot be loaded")
    expect(models.row("broken.gguf").locator(".model-note.bad")).to_contain_text(re.compile(r"broken\.gguf.*(download|incomplete|cut|short)", re.DOTALL))
    expect(models.row("broken.gguf").get_by_role("button", name="Load", exact=True)).to_have_count(0)
    page.get_by_role("searchbox", name="Filter models").fill("brok")
    expect(models.rows).to_have_count(1)


def test_a_loaded_model_says_what_it_is_doing(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    asked = {"model": STARTER, "messages": [{"role": "user", "content": "What is a LoRA?"}], "max_tokens": 9, "ban_eos": True}
    starter.ask("POST", "v1/chat/completions", asked)
    figures = models.open().row(STARTER).locator(".model-figures")
    expect(figures.locator("table")).to_have_count(0)
    figures.get_by_text("What it is doing").click()
    written = figures.locator("tr[data-name=decode_tokens]")
    expect(written).to_have_text(re.compile(r"Tokens that were written\.[\d,]+"))
    expect(figures.locator("li").first).to_contain_text(re.compile(r"\d\d:\d\d:\d\d · 9 tokens at [\d.]+ tok/s · .*ended by length"))
    before = written.inner_text()
    starter.ask("POST", "v1/chat/completions", {**asked, "max_tokens": 11})
    expect(figures.locator("li").first).to_contain_text("11 tokens")  # while it is open
    expect(written).not_to_have_text(before)


DRAWN_ANEW = """async () => {
    const { modelFigures } = await import(document.querySelector('link[href$="/app.css"]').href.replace("app.css", "model_figures.js"));
    const draw = () => document.body.appendChild(modelFigures("made up"));
    const before = draw();
    before.querySelector("summary").click();
    before.remove();
    const after = draw();
    const seen = [after.open];
    after.querySelector("summary").click();
    after.remove();
    return [...seen, modelFigures("made up").open];
}"""


def test_what_is_opened_stays_open_though_the_row_is_drawn_anew_at_once(models: ModelsScreen, page: Page) -> None:
    models.open()
    assert page.evaluate(DRAWN_ANEW) == [True, False]


def test_unload_and_load_with_options(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    models.open().press(STARTER, "Unload")
    expect(models.row(STARTER).get_by_role("button", name="Load", exact=True)).to_be_visible()
    expect(page.locator(".model-state")).to_contain_text("No model loaded")
    models.press(STARTER, "Options")
    context_length = page.get_by_role("spinbutton", name=re.compile("Context length")).filter(visible=True)
    expect(context_length).to_be_visible()
    context_length.fill("256")
    context_length.press("Tab")
    page.get_by_role("button", name="Load with these options").click()
    models.loaded(STARTER)
    expect(models.row(STARTER)).to_contain_text("context 256")
    page.reload()
    models.show().press(STARTER, "Options")
    expect(context_length).to_have_value("256")
    expect(page.locator("#load-options")).to_contain_text("trained for 1,024 tokens")
    changes, last_good = page.locator("#load-changes"), page.get_by_role("button", name="Back to the last good load")
    expect(changes).to_contain_text("As at the last good load.")
    expect(last_good).to_be_disabled()
    page.get_by_role("button", name="Back to defaults").click()
    expect(context_length).to_have_value("0")
    expect(changes).to_contain_text("Since the last good load: Context length 256 → 0.")
    last_good.click()
    expect(context_length).to_have_value("256")
    expect(changes).to_contain_text("As at the last good load.")
    context_length.fill("0")
    context_length.press("Tab")
    expect(changes).to_contain_text("Context length 256 → 0")
    page.get_by_role("button", name="Load with these options").click()
    expect(models.row(STARTER)).to_contain_text("context 1,024", timeout=60_000)


def test_an_option_that_does_not_fit_is_named(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    models.open().press("broken.gguf", "Options") if models.row("broken.gguf").get_by_role("button").count() else models.open()
    models.press(STARTER, "Options")
    context_length = page.get_by_role("spinbutton", name=re.compile("Context length")).filter(visible=True)
    expect(context_length).to_be_visible()
    context_length.fill("-5")
    context_length.press("Tab")
    page.get_by_role("button", name="Load with these options").click()
    wait_for(lambda: page.locator("#load-problem").filter(visible=True).count() or starter.loaded() == STARTER, "an answer")
    expect(models.row(STARTER).get_by_text("Loaded", exact=True)).to_be_visible()


def test_with_one_slot_the_second_waits_and_stop_frees_it(
    models: ModelsScreen, context: BrowserContext, starter: PaddockServer, hurry: Callable[[], None]
) -> None:
    page = models.open().page
    models.press(STARTER, "Options")
    slots = page.get_by_role("spinbutton", name=re.compile("Slots")).filter(visible=True)
    expect(slots).to_be_visible()
    slots.fill("1")
    slots.press("Tab")
    page.get_by_role("button", name="Load with these options").click()
    expect(models.row(STARTER)).to_contain_text("1 slot", timeout=60_000)
    first = ChatScreen(page, starter).open(starter.make_conversation(settings=LONG, title="First in line"))
    second = ChatScreen(context.new_page(), starter).open(starter.make_conversation(settings=LONG, title="Second in line"))
    first.send("Tell me a long story.")
    first.begun()
    with starter.held():
        second.send("And another one.")
        expect(second.reply).to_have_attribute("data-status", "streaming")
        first.stop_button.click()
    first.done()
    second.begun(5)
    second.page.keyboard.press("Escape")
    second.done()
    hurry()
    models.show()
    models.press(STARTER, "Options")
    page.get_by_role("button", name="Back to defaults").click()
    expect(slots).to_have_value("0")  # chosen when it is loaded
    page.get_by_role("button", name="Load with these options").click()
    expect(models.row(STARTER)).to_contain_text(re.compile(r"(4|16) slots"), timeout=60_000)


def test_the_starter_folder_replies_through_transformers_and_takes_an_adapter(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    models.open().press("starter", "Load")
    expect(page.locator(".loading-card")).to_contain_text("Loading starter")
    models.loaded("starter")
    expect(models.row("starter")).to_contain_text("transformers")
    plain = new_chat(page, starter, "Plain").say("How do I load a model?")
    assert "Models" in plain

    models.show()
    adapter = models.adapter("odd-words")
    expect(adapter).to_contain_text("PEFT · rank 4 · changes up_proj · for starter")
    adapter.get_by_role("checkbox").check()
    adapter.get_by_label("Scale of odd-words").fill("2")
    expect(page.get_by_text("In use: odd-words × 2.")).to_be_visible()
    expect(models.row("starter")).to_contain_text("1 adapter")
    chat = new_chat(page, starter, "Adapted")
    assert chat.say("How do I load a model?") != plain

    models.show()
    expect(adapter.get_by_role("checkbox")).to_be_checked()
    adapter.get_by_role("checkbox").uncheck()
    expect(page.get_by_text("None is in use.")).to_be_visible()
    expect(models.row("starter")).not_to_contain_text("1 adapter")
    open_area(page, "Chat")
    assert new_chat(page, starter, "Plain again").say("How do I load a model?") == plain


def test_a_peft_adapter_acts_on_the_gguf_model_and_goes_again(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    """The same folder as above, converted when it is applied."""
    chat = new_chat(page, starter, "Plain GGUF")
    plain = chat.say("How do I load a model?")
    expect(chat.reply.locator(".receipt")).to_contain_text(STARTER.split("/")[-1].removesuffix(".gguf"))
    models.show()
    adapter = models.adapter("odd-words")
    adapter.get_by_role("checkbox").check()
    adapter.get_by_label("Scale of odd-words").fill("2")
    expect(page.get_by_text("In use: odd-words × 2.")).to_be_visible()
    expect(models.row(STARTER)).to_contain_text("1 adapter")
    assert new_chat(page, starter, "Adapted GGUF").say("How do I load a model?") != plain

    models.show()
    adapter.get_by_role("checkbox").uncheck()
    expect(page.get_by_text("None is in use.")).to_be_visible()
    expect(models.row(STARTER)).not_to_contain_text("1 adapter")
    assert new_chat(page, starter, "Plain GGUF again").say("How do I load a model?") == plain


def test_news_of_adapters_that_are_older_than_a_choice_are_passed_over(models: ModelsScreen, page: Page) -> None:
    """They were asked for before it and come after its answer, and before anything newer."""
    models.open()
    adapter = models.adapter("odd-words")
    scale = adapter.get_by_label("Scale of odd-words")
    expect(scale).to_be_enabled()
    older = HeldRequests(page, "GET", "ui/adapters*", answered=True)
    adapter.get_by_role("checkbox").check()
    expect(page.get_by_text("In use: odd-words.")).to_be_visible()
    older.come()
    newer = HeldRequests(page, "GET", "ui/models")
    scale.fill("2")
    expect(page.get_by_text("In use: odd-words × 2.")).to_be_visible()
    older.release()
    page.evaluate("() => new Promise((done) => setTimeout(done, 200))")
    expect(page.get_by_text("In use: odd-words × 2.")).to_be_visible()
    expect(scale).to_have_value("2")
    newer.release()
    adapter.get_by_role("checkbox").uncheck()
    expect(page.get_by_text("None is in use.")).to_be_visible()


@pytest.mark.parametrize("optional_model", ["tinytalk3m-chat-f16.gguf"], indirect=True)
def test_another_gguf_chats(models: ModelsScreen, page: Page, starter: PaddockServer, optional_model: str) -> None:
    models.open().load(optional_model)
    chat = new_chat(page, starter, "Another GGUF")
    words = chat.say("hey, how are you?")
    assert len(words.split()) >= 3
    expect(chat.reply.locator(".receipt")).to_contain_text("tinytalk3m-chat-f16")


@pytest.mark.parametrize("optional_model", ["stories260K"], indirect=True)
def test_a_safetensors_folder_without_a_template_says_so_and_writes_on(
    models: ModelsScreen, page: Page, starter: PaddockServer, optional_model: str
) -> None:
    models.open().load(optional_model)
    expect(models.row(optional_model)).to_contain_text("no chat template")
    chat = new_chat(page, starter, "A folder")
    chat.send("Once upon a time")
    assert len(chat.done().split()) >= 3
    expect(chat.reply.locator(".receipt")).to_contain_text("stories260K")


def test_a_load_that_fails_leaves_the_loaded_model(models: ModelsScreen, watch: ConsoleWatch, starter: PaddockServer, models_dir: Path) -> None:
    """A folder whose header is fine and whose weights are not those that it names."""
    folder = models_dir / "torn"
    folder.mkdir()
    for file in (models_dir / "starter").iterdir():
        if file.suffix != ".gguf":
            (folder / file.name).write_bytes(file.read_bytes())
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(re.sub(r'"intermediate_size": \d+', '"intermediate_size": 64', config), encoding="utf-8")
    models.open().press("torn", "Load")
    expect(models.page.get_by_role("alert").filter(has_text="torn")).to_be_visible(timeout=90_000)
    expect(models.row(STARTER).get_by_text("Loaded", exact=True)).to_be_visible()


def test_a_pin_is_set_and_taken_off_in_the_menu(models: ModelsScreen, starter: PaddockServer) -> None:
    row = models.open().row(STARTER)
    for verb, pinned in (("Pin", True), ("Unpin", False)):
        row.locator("summary.small-button").click()
        row.get_by_role("button", name=verb, exact=True).click()
        expect(row.get_by_text("Pinned", exact=True)).to_have_count(int(pinned))
        assert [model["name"] for model in starter.ask("GET", "ui/models")["models"] if model["pinned"]] == [STARTER] * pinned


def test_one_that_sleeps_says_so_and_is_loaded_or_forgotten(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    """The server of these tests lets none fall asleep, so its answer is changed on the way."""

    def fall_asleep(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        names = [card["name"] for card in found["loaded"]]
        rows = [{**model, "loaded": False} for model in found["models"]]
        route.fulfill(response=answer, json={**found, "models": rows, "loaded": [], "asleep": names})

    page.route("**/ui/models", fall_asleep)
    row = models.open().row(STARTER)
    expect(row).to_contain_text("Asleep: loads again when used.")
    expect(page.locator(".model-state")).to_contain_text("(asleep)")
    expect(row.get_by_role("button", name="Load", exact=True)).to_be_enabled()
    models.press(STARTER, "Forget")
    expect(row.get_by_role("button", name="Forget", exact=True)).to_have_count(0)
    page.unroute("**/ui/models")
    models.load(STARTER)
