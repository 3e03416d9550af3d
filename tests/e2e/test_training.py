"""Training as a person does it: from a file whose columns nobody could guess to an adapter that answers in chat; and what must survive a wrong value or a reload."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.held_requests import HeldRequests
from tests.e2e.screens import ChatScreen
from tests.e2e.training_screen import WORK_MS, TrainingScreen
from tests.hub.hub_server import HubServer
from tests.paddock_server import ROOT, PaddockServer, wait_for

TUTORIAL = ROOT / "datasets" / "starter-captain.jsonl"
RECIPE = TUTORIAL.with_suffix(".recipe.yaml")
QUESTION = "How do I load a model?"
ROWS = 64
BOXES = """(title) => [...[...document.querySelectorAll("#training-options .label-wrap")].find((head) => head.textContent.includes(title))
  .nextElementSibling.querySelectorAll("textarea, input[type=number]")]"""
TYPE_AT_ONCE = f"""async (title) => {{
  for (const end = performance.now() + 5000; performance.now() < end; await new Promise((go) => setTimeout(go))) {{
    const boxes = ({BOXES})(title).filter((box) => !box.closest("[inert]"));
    for (const box of boxes) {{ box.value = box.type === "number" ? "1" : "q_proj"; box.dispatchEvent(new Event("input", {{ bubbles: true }})); }}
    if (boxes.length) return boxes.map((box) => box.value);
  }}
}}"""
SHOWN = f"(title) => ({BOXES})(title).map((box) => box.value)"


@pytest.fixture
def training(page: Page, server: PaddockServer) -> Iterator[TrainingScreen]:
    """The area with nothing left of other tests."""
    screen = TrainingScreen(page, server)
    screen.forget()
    yield screen
    screen.forget()


@pytest.fixture
def captain(tmp_path: Path) -> Path:
    """Questions and answers in columns whose names say nothing; the answers are easy to learn."""
    rows = [json.loads(line)["messages"] for line in TUTORIAL.read_text(encoding="utf-8").splitlines()][:ROWS]
    file = tmp_path / "captain.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("first", "second", "third"))
        writer.writerows((messages[0]["content"], f"Aye, captain! {messages[0]['content']}", "x") for messages in rows)
    return file


def prepare(training: TrainingScreen, captain: Path, name: str) -> None:
    """Data, columns by clicks, model and name."""
    training.open().upload(captain)
    expect(training.page.get_by_text("The format was not recognised")).to_be_visible()
    training.format.select_option("instruction")
    expect(training.samples).to_contain_text("Choose the column for")
    training.column("instruction").select_option("first")
    training.column("output").select_option("second")
    expect(training.samples).to_contain_text("Aye, captain!")
    training.base.select_option("starter")
    training.name.fill(name)


@pytest.mark.timeout(600)  # several processes that load torch, on whatever else the machine does
def test_from_a_file_to_an_adapter_in_chat(training: TrainingScreen, captain: Path, page: Page, server: PaddockServer) -> None:
    prepare(training, captain, "captain")
    training.prompts.fill(QUESTION)
    training.set("Learning rate", "0.005")
    training.set("Micro batch size", "8")
    training.set("Epochs", "4")

    training.check_button.click()
    expect(training.found).to_contain_text("will be learned in 32 steps", timeout=WORK_MS)
    tokens = training.found.get_by_role("region", name="Tokens of the sample")
    learned = "".join(tokens.locator(".trained").all_text_contents())
    assert learned.startswith("Aye, captain!")
    assert QUESTION not in learned
    assert "user" in "".join(tokens.locator(".ignored").all_text_contents()).lower()
    expect(training.found).to_contain_text("s each", timeout=WORK_MS)  # two steps were tried
    page.reload()
    expect(training.found).to_contain_text("will be learned in 32 steps")

    training.train_button.click()
    expect(training.run("captain")).to_be_visible()
    expect(training.run("captain")).to_contain_text(re.compile(r"step [1-9]\d* of 32"), timeout=WORK_MS)
    training.press("captain", "Pause")
    training.becomes("captain", "Paused")
    page.reload()
    training.becomes("captain", "Paused")
    expect(training.chart("captain", "Loss")).to_have_attribute("aria-label", re.compile(r"Loss: .* at step 1,"))
    training.press("captain", "Resume")
    training.becomes("captain", "Done")
    proof = training.run("captain").get_by_role("region", name="What training changed")
    expect(proof).to_contain_text("Held-out loss fell from")
    expect(proof.locator(".train-side").last).to_contain_text("Aye")
    expect(training.chart("captain", "Loss")).to_have_attribute("aria-label", re.compile("at step 32"))

    clone_and_compare(training)
    training.unfold("captain")
    training.run("captain").get_by_role("button", name="Try in chat").click()
    expect(page.locator("body")).to_have_attribute("data-area", "chat", timeout=WORK_MS)
    assert "Aye" in ChatScreen(page, server).say(QUESTION)


def clone_and_compare(training: TrainingScreen) -> None:
    """A second run with another rank, ended early, beside the first."""
    page = training.page
    training.run("captain").get_by_role("button", name="Clone captain with changes").click()
    expect(training.name).to_have_value("captain-2")
    expect(training.option("Learning rate")).to_have_value("0.005")
    training.set("Rank", "4")
    training.train_button.click()
    expect(training.run("captain-2")).to_contain_text(re.compile(r"step [1-9]\d* of 32"), timeout=WORK_MS)
    training.press("captain-2", "Stop and keep")
    training.becomes("captain-2", "Done")
    for name in ("captain", "captain-2"):
        page.get_by_role("checkbox", name=f"Compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    comparison = page.get_by_role("region", name="Comparison of runs")
    expect(comparison.get_by_role("row", name="Rank")).to_have_text(re.compile("Rank.*(16.*4|4.*16)"))
    expect(comparison.locator(".chart-line")).to_have_count(4)  # loss and held-out loss of both
    comparison.get_by_role("button", name="Close").click()


def test_what_was_typed_survives_a_wrong_value_and_a_reload(training: TrainingScreen, captain: Path, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("400")
    prepare(training, captain, "mine")
    training.prompts.fill("One?\nTwo?")
    training.set("Rank", "8")
    training.group("Adapter")
    training.box("Target modules").fill("q_proj")
    training.box("Target all").uncheck()
    training.group("When to stop")
    training.set("Patience", "3")
    training.group("Held-out")
    training.set("Held out percent", "0")
    training.keeps(rank=8, patience=3, held_out_percent=0)
    training.train_button.click()
    alert = page.get_by_role("alert").filter(has_text="Patience needs held-out data")
    expect(alert).to_be_visible()
    page.reload()
    expect(training.name).to_have_value("mine")
    expect(training.prompts).to_have_value("One?\nTwo?")
    expect(training.option("Rank")).to_have_value("8")
    expect(training.column("output")).to_have_value("second")
    training.group("Adapter")
    expect(training.box("Target modules")).to_have_value("q_proj")
    expect(training.box("Target all")).not_to_be_checked()
    training.group("When to stop")
    expect(training.option("Patience")).to_have_value("3")
    assert not training.server.ask("GET", "ui/training/runs")["runs"]


def test_what_is_typed_as_soon_as_a_group_can_be_typed_in_stays(training: TrainingScreen, page: Page) -> None:
    """Gradio makes the boxes of a group when it is first opened and puts their values in a frame later."""
    training.open()
    for title in ("Adapter", "Length", "When to stop", "Held-out", "Preference"):
        training.group(title)
        typed = page.evaluate(TYPE_AT_ONCE, title)
        assert typed
        page.wait_for_timeout(300)  # what would write over it has come
        assert page.evaluate(SHOWN, title) == typed, title


def test_answers_about_edits_that_come_in_another_order_lose_nothing(training: TrainingScreen, page: Page) -> None:
    """Of two edits in quick succession the answer about the first one may come last; here it comes in place of the second one's."""
    training.open()
    told: list[str] = []
    late: list[str] = []  # what is answered instead, once

    def answer(route: Route) -> None:
        told.append(route.fetch().text())
        route.fulfill(body=late.pop() if late else told[-1], content_type="application/json")

    page.route("**/gradio_api/run/predict?*", answer)
    training.set("Rank", "8")
    training.keeps(rank=8)
    page.wait_for_timeout(1000)  # it is looked at once more
    late.append(told[0])
    training.set("Micro batch size", "3")
    wait_for(lambda: (page.title(), not late)[1], "the second edit is answered by what was said of the first one")
    training.keeps(rank=8, micro_batch_size=3)
    page.unroute("**/gradio_api/run/predict?*", answer)


def test_the_tutorial_is_filled_in_by_one_click(training: TrainingScreen, page: Page, server: PaddockServer) -> None:
    kept = [shutil.copy(TUTORIAL, server.datasets_dir), shutil.copy(RECIPE, server.datasets_dir)]
    try:
        training.open()
        form = page.locator("#training-options")
        expect(form).to_have_js_property("inert", False)
        held = HeldRequests(page, "POST", "gradio_api/run/predict?*")
        page.get_by_role("button", name="Fill in the tutorial").click()
        held.come()
        expect(form).to_have_js_property("inert", True)  # what is typed now would be written over
        held.release()
        expect(form).to_have_js_property("inert", False)
        expect(training.name).to_have_value("captain")
        expect(training.base).to_have_value("starter")
        expect(training.data(TUTORIAL.name)).to_be_checked()
        expect(training.option("Micro batch size")).to_have_value("8")
        expect(training.samples).to_contain_text("matey")
        expect(page.get_by_role("button", name="Fill in the tutorial")).to_be_hidden()
        expect(page.get_by_label("Copy settings from").locator("option", has_text="Tutorial")).to_have_count(1)
    finally:
        for file in kept:
            Path(file).unlink(missing_ok=True)


def test_what_is_missing_is_told_where_it_is_missing(training: TrainingScreen, captain: Path, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("400")
    training.open().train_button.click()
    expect(page.get_by_role("alert").filter(has_text="Choose the data to learn from first")).to_be_visible()
    prepare(training, captain, "")
    training.train_button.click()
    expect(page.get_by_role("alert").filter(has_text="Give the adapter a name")).to_have_count(2)
    expect(training.name).to_be_focused()
    training.name.fill("odd-words")  # the server's own refusal comes to the same place
    training.train_button.click()
    expect(page.get_by_role("alert").filter(has_text="There is an adapter “odd-words” already")).to_have_count(2)
    expect(training.name).to_have_value("odd-words")


def test_a_file_with_a_fault_says_where(training: TrainingScreen, tmp_path: Path, page: Page, watch: ConsoleWatch) -> None:
    watch.allow("400")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "good"}\n{"text": "cut off\n', encoding="utf-8")
    training.open().upload(broken)
    expect(page.get_by_role("alert").filter(has_text=re.compile("broken.jsonl.*line 2"))).to_be_visible()
    page.get_by_label("Upload a file").set_input_files({"name": "notes.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"})
    expect(page.get_by_role("alert").filter(has_text="notes.pdf")).to_contain_text("of no kind that can be read")
    expect(page.locator(".train-samples[aria-busy=true]")).to_have_count(0)  # a look that is under way would find it gone
    page.get_by_role("button", name="Delete broken.jsonl").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("There is no data yet")).to_be_visible()


def test_a_failed_run_is_tried_again_and_a_paused_one_given_up(training: TrainingScreen, tmp_path: Path, page: Page, server: PaddockServer) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "Anybody?"}]}) + "\n", encoding="utf-8")
    training.open().upload(chats)
    training.base.select_option("starter")
    training.name.fill("again")
    training.train_button.click()
    training.becomes("again", "Failed")
    expect(training.run("again")).to_contain_text("Nothing would be trained")
    server.ask("POST", "ui/datasets/delete", {"name": chats.name})
    shutil.copy(TUTORIAL, chats)
    training.upload(chats)
    training.press("again", "Try again")
    training.becomes("again", "Training")
    training.press("again", "Pause")
    training.becomes("again", "Paused")
    training.press("again", "Cancel")
    training.run("again").get_by_role("button", name="End it").click()
    training.becomes("again", "Cancelled")


def test_a_data_set_from_the_hub(training: TrainingScreen, page: Page, hub: HubServer, server: PaddockServer, watch: ConsoleWatch) -> None:
    watch.allow("status of 400")
    row = json.dumps({"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Aye!"}]}).encode()
    hub.add("datasets/meadow/talks", {"one.jsonl": row, "two.jsonl": row})
    training.open()
    page.get_by_role("button", name="From the hub").click()
    box = page.get_by_label("File of a data set on the hub")
    box.fill("meadow/talks")
    box.press("Enter")
    form = page.locator(".train-fetch")
    expect(form.get_by_role("alert")).to_contain_text("meadow/talks has 2 files: one.jsonl, two.jsonl")
    box.fill(f"{hub.endpoint}/datasets/meadow/talks/blob/main/two.jsonl")
    box.press("Enter")
    expect(training.data("meadow__talks")).to_be_checked()
    expect(form.get_by_role("alert")).to_be_hidden()
    for job in server.ask("GET", "ui/jobs")["jobs"]:
        if job["kind"] == "download":
            server.ask("DELETE", f"ui/jobs/{job['id']}")


def test_a_data_set_of_my_conversations(training: TrainingScreen, page: Page, server: PaddockServer) -> None:
    asked = "I live at anna@example.org, who are you?"
    server.make_conversation((("user", asked), ("assistant", "A friend of anna@example.org.")), title="To learn from")
    training.open()
    page.get_by_role("button", name="From my conversations").click()
    section = page.get_by_role("region", name="From my conversations", exact=True)
    expect(section.get_by_role("checkbox").first).to_be_visible()
    for box in section.get_by_role("group", name="Learn from").get_by_role("checkbox").all():
        if box.is_enabled() and not box.is_checked():
            box.check()
            break
    personal = section.get_by_role("checkbox", name=re.compile("anna@example.org"))
    expect(personal).to_be_checked()
    samples = section.get_by_role("region", name="Samples of my conversations")
    expect(samples).not_to_contain_text("anna@example.org")
    section.get_by_label("Name of the data set").fill("talk.jsonl")
    section.get_by_role("button", name="Write the data set").click()
    expect(training.data("talk.jsonl")).to_be_checked()
    written = (server.datasets_dir / "talk.jsonl").read_text(encoding="utf-8")  # the page shows the first samples of all conversations there are
    assert "who are you?" in written and "anna@example.org" not in written
    expect(training.samples).not_to_contain_text("anna@example.org")


def test_a_narrow_page_needs_no_sideways_scrolling(training: TrainingScreen, captain: Path, page: Page) -> None:
    page.set_viewport_size(PHONE)
    prepare(training, captain, "narrow")
    area = page.locator("#area-training")
    wait_for(lambda: area.evaluate("area => area.scrollWidth <= area.clientWidth"), "everything is as wide as the page")
    for name in ("Check", "Train"):
        box = page.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
