"""From a name to a model that answers: search, look, download with progress, cancel, resume, load, chat; on a large and on a small screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.hub.hub_server import HubServer
from tests.paddock_server import PaddockServer, wait_for

CARD = b"---\nlicense: mit\n---\n# Pony\n\nA **small** model. <script>document.title = 'owned'</script>\n"
NAME = "meadow__pony-GGUF/pony-Q8_0.gguf"


class GetModels:
    """The part of the models area that gets new ones."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.get_by_role("searchbox", name="Search models or paste a link")
        self.results = page.get_by_role("region", name="Found models")
        self.problem = page.locator(".hub > .problem")
        self.job = page.locator(".job").first

    def find(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")


def fitting_first_models(server: PaddockServer) -> list[str]:
    """Suggestions that this machine has room for, at most four."""
    state = server.ask("GET", "ui/hub")
    return [model["name"] for model in state["first"]["models"] if model["needs_gb"] * 1e9 <= state["memory_bytes"]][-4:]


@pytest.fixture
def pony(hub: HubServer, starter: PaddockServer, models_dir: Path, starter_gguf: Path) -> Iterator[HubServer]:
    """A hub with one small model, and a server without traces of an earlier download."""
    gguf = starter_gguf.read_bytes()
    files = {"README.md": CARD, "pony-Q8_0.gguf": gguf, "pony-Q4_0.gguf": gguf[: len(gguf) // 2], "model.bin": b"pickle"}
    hub.add("meadow/pony-GGUF", files, info={"tags": ["gguf", "license:mit"]})
    hub.add("meadow/walled", {"README.md": CARD}, gated=True)
    hub.faults.clear()
    yield hub
    hub.faults.clear()
    for job in starter.ask("GET", "ui/jobs")["jobs"]:
        if job["status"] in ("queued", "running"):
            starter.ask("POST", f"ui/jobs/{job['id']}/cancel", {})
        wait_for(lambda job=job: starter.ask("GET", f"ui/jobs/{job['id']}")["status"] not in ("queued", "running"), "the job has ended")
        starter.ask("DELETE", f"ui/jobs/{job['id']}")
    starter.load()
    for folder in ("meadow__pony-GGUF", ".partial"):
        shutil.rmtree(models_dir / folder, ignore_errors=True)


def test_search_download_cancel_resume_load_and_chat(models: ModelsScreen, page: Page, pony: HubServer, starter: PaddockServer, models_dir: Path) -> None:
    get = GetModels(models.open().page)
    expect(get.results.get_by_role("button", name=re.compile("GGUF:"))).to_have_count(len(fitting_first_models(starter)))
    get.find("pony")
    get.results.get_by_role("button", name="meadow/pony-GGUF").click()
    choice = get.results.locator('.hub-choice[data-label="pony-Q8_0"]')
    for fact in ("GGUF", "Q8_0", "3.4 MB", "Fits with a context of 1024 tokens: needs about", "tokens/s"):
        expect(choice).to_contain_text(fact)
    expect(get.results).to_contain_text("licence mit")
    expect(choice).to_contain_text("Recommended")
    expect(choice).to_contain_text("The largest that fits with a context of 1024 tokens.")
    expect(get.results.locator(".hub-choice").first).to_have_attribute("data-label", "pony-Q8_0")
    get.results.get_by_text("About this model").click()
    expect(get.results.locator(".hub-card").first).to_contain_text("A small model.")
    assert "owned" not in page.title()
    get.results.get_by_text("1 files are not offered").click()
    expect(get.results).to_contain_text("model.bin can run any program")

    pony.fault("slow", r"lfs|Q8_0", count=-1, value=300_000)
    get.results.get_by_role("button", name="Download pony-Q8_0").click()
    expect(get.job.locator(".job-facts")).to_contain_text(re.compile(r"[\d.]+ [kM]B of 3\.4 MB \(\d+ %\)"))
    page.reload()  # the work is the server's
    expect(get.job.locator(".job-facts")).to_contain_text(re.compile(r"[1-9]\d* %"))
    get.job.get_by_role("button", name="Cancel").click()
    expect(get.job.locator(".job-facts")).to_contain_text("Cancelled")
    assert not (models_dir / NAME).exists()
    moved = pony.sent()
    pony.faults.clear()
    get.job.get_by_role("button", name="Try again").click()
    expect(get.job.locator(".job-facts")).to_contain_text("Done")
    assert pony.sent() - moved < (models_dir / NAME).stat().st_size  # it went on where it had stopped
    expect(get.job).to_contain_text(NAME)

    models.load(NAME)
    chat = ChatScreen(page, starter).open(starter.make_conversation(title="A new model", settings={"preset": "Deterministic", "params": {}}))
    assert "Models" in chat.say("How do I load a model?")
    expect(chat.reply.locator(".receipt")).to_contain_text("pony-Q8_0")


def test_pause_and_resume_on_a_phone(new_context: Callable[..., BrowserContext], pony: HubServer, starter: PaddockServer, models_dir: Path) -> None:
    page = new_context(viewport=PHONE, is_mobile=True, has_touch=True).new_page()
    get = GetModels(ModelsScreen(page, starter).open().page)
    pony.fault("slow", r"lfs|Q8_0", count=-1, value=300_000)
    get.find("meadow/pony-GGUF:Q8_0")
    get.results.get_by_role("button", name="Download pony-Q8_0").tap()
    get.job.get_by_role("button", name="Pause").tap()
    expect(get.job.locator(".job-facts")).to_contain_text("Paused")
    pony.faults.clear()
    get.job.get_by_role("button", name="Resume").tap()
    expect(get.job.locator(".job-facts")).to_contain_text("Done")
    assert (models_dir / NAME).is_file()
    expect(ModelsScreen(page, starter).row(NAME)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    get.find("meadow/pony-GGUF")
    expect(get.results.locator('.hub-choice[data-label="pony-Q8_0"]')).to_contain_text("On this machine")


def test_what_cannot_be_had_is_a_sentence_and_nothing_typed_is_lost(models: ModelsScreen, watch: ConsoleWatch, pony: HubServer) -> None:
    watch.allow("status of 40|status of 50")
    get = GetModels(models.open().page)
    get.find("meadow/nothing-here")
    expect(get.problem).to_contain_text("There is no model meadow/nothing-here")
    expect(get.box).to_have_value("meadow/nothing-here")
    get.find("meadow/walled")
    expect(get.problem).to_contain_text(re.compile("licence|access"))
    expect(get.problem.get_by_role("link", name="Open its page")).to_have_attribute("href", f"{pony.endpoint}/meadow/walled")
    get.find("https://example.com/a/b")
    expect(get.problem).to_contain_text("Links to “example.com” are not fetched")
    get.find("zebra")
    expect(get.results).to_contain_text("Nothing found")


@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, PHONE])
def test_filters_narrow_the_search(new_context: Callable[..., BrowserContext], pony: HubServer, starter: PaddockServer, size: dict[str, int]) -> None:
    pony.add("meadow/donkey", {"README.md": CARD}, info={"tags": ["gguf", "license:mit"], "gguf": {"total": 2_000_000_000}})
    pony.add("forest/donkey", {"README.md": CARD}, info={"tags": ["gguf", "license:apache-2.0"], "gguf": {"total": 700_000_000_000}})
    page = new_context(viewport=size).new_page()
    get = GetModels(ModelsScreen(page, starter).open().page)
    rows = get.results.locator(".hub-row strong")
    get.find("donkey")
    expect(rows).to_have_text(["forest/donkey", "meadow/donkey"])
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Runs on this machine").check()
    expect(rows).to_have_text(["meadow/donkey"])
    page.get_by_label("Runs on this machine").uncheck()
    page.get_by_label("Licence", exact=True).select_option("apache-2.0")
    expect(rows).to_have_text(["forest/donkey"])
    page.get_by_label("Size", exact=True).select_option("1-4")
    expect(get.results).to_contain_text("Nothing found. Try fewer filters")
    expect(page.get_by_text("Filters (2)")).to_be_visible()
    page.get_by_label("Licence", exact=True).select_option("")
    expect(rows).to_have_text(["meadow/donkey"])
    page.get_by_label("Author").fill("forest")
    page.get_by_label("Author").press("Enter")
    expect(get.results).to_contain_text("Nothing found")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_predicted_and_real_stand_in_the_row_and_in_a_table(models: ModelsScreen, page: Page, starter: PaddockServer, chat: ChatScreen) -> None:
    conversation = starter.make_conversation(title="Speed", settings={"preset": "Deterministic", "params": {"max_tokens": 60, "ban_eos": True}})
    chat.open(conversation).say("How do I load a model?")
    wait_for(lambda: any(row["real_tokens_per_s"] for row in starter.ask("GET", "ui/fit")["records"]), "the reply was learned from")
    name = "starter/starter-Q8_0.gguf"
    row = models.open().row(name)
    expect(row.locator(".fit-note")).to_contain_text(re.compile(r"Memory: [\d.]+ MB predicted, [\d.]+ MB at most in use \([+-]?\d+ %\) · speed: .* tokens/s real"))
    page.get_by_text("Predicted and real memory and speed").click()
    expect(page.locator(".fit-table tbody tr").filter(has_text=name)).to_be_visible()
    expect(page.get_by_role("button", name="Measure this machine")).to_be_visible()


def test_the_best_settings_are_filled_in_and_load(models: ModelsScreen, page: Page) -> None:
    models.open().press("starter/starter-Q8_0.gguf", "Options")
    page.get_by_role("button", name="Best settings for this machine").click()
    expect(page.locator("#load-advice")).to_contain_text(re.compile("A context of 1024 tokens for (4|16) replies at the same time"))
    page.get_by_role("button", name="Load with these options").click()
    expect(models.row("starter/starter-Q8_0.gguf").locator(".model-card")).to_contain_text("context 1,024")
    models.press("tinytalk3m-chat-f16.gguf" if models.row("tinytalk3m-chat-f16.gguf").count() else "starter", "Options")
    expect(page.locator("#load-advice")).to_be_hidden()
