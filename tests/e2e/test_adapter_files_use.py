"""What a person makes of an adapter: a chat with its scale at hand, a GGUF file, a model of its own, an archive."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.adapter_files import write_adapter
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.paddock_server import PaddockServer, wait_for

QUESTION = "How do I load a model?"


@pytest.fixture
def learned(server: PaddockServer, loras_dir: Path, models_dir: Path, starter_dir: Path) -> Iterator[str]:
    """An adapter of the starter model; what is made of it goes with it."""
    before = {*loras_dir.iterdir(), *models_dir.iterdir()}
    write_adapter(loras_dir / "learned", starter_dir)
    yield "learned"
    server.load()
    for path in {*loras_dir.iterdir(), *models_dir.iterdir()} - before:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for job in server.ask("GET", "ui/jobs")["jobs"]:
        if job["kind"] in ("convert_adapter", "merge_adapter"):
            server.ask("DELETE", f"ui/jobs/{job['id']}")


def rename_base(adapter: Path, name: str) -> None:
    """Another word for the model that it was made for."""
    about = adapter / "adapter_config.json"
    about.write_text(about.read_text(encoding="utf-8").replace('"starter"', f'"{name}"'), encoding="utf-8")


def choose(row: Locator, item: str) -> None:
    row.get_by_label("More for learned").first.click()
    row.get_by_role("button", name=item, exact=True).click()


def test_made_into_a_file_a_model_and_an_archive(models: ModelsScreen, page: Page, watch: ConsoleWatch, learned: str, tmp_path: Path) -> None:
    watch.allow("status of 400")
    row = models.open().page.locator('.adapter[data-name="learned"]')
    choose(row, "Convert to GGUF")
    jobs = page.get_by_role("region", name="Conversions and merges")
    converted = jobs.locator(".job").filter(has_text="Convert learned")
    expect(converted).to_contain_text("Done · ")
    expect(converted).to_contain_text("learned.gguf")
    made = page.locator('.adapter[data-name="learned.gguf"]')
    expect(made).to_contain_text("GGUF · rank 4 · changes ffn_up · for starter")
    expect(made.get_by_role("checkbox")).to_be_enabled()

    choose(row, "Merge into its base")
    row.get_by_label("Name of the model merged from learned").fill("starter")
    row.get_by_role("button", name="Merge", exact=True).click()
    expect(row.get_by_role("alert")).to_contain_text("There is “starter” among the models already; choose another name.")
    row.get_by_label("Name of the model merged from learned").fill("two-in-one")
    row.get_by_label("Scale at which learned is merged").fill("0.5")
    row.get_by_role("button", name="Merge", exact=True).click()
    expect(row.locator(".model-form")).to_have_count(0)
    expect(jobs.locator(".job").filter(has_text="Merge two-in-one")).to_contain_text("Done · 6.3 MB · two-in-one")
    expect(models.row("two-in-one")).to_be_visible()

    with page.expect_download() as download:
        choose(row, "Download")
    download.value.save_as(tmp_path / "learned.zip")
    assert download.value.suggested_filename == "learned.zip"
    with zipfile.ZipFile(tmp_path / "learned.zip") as content:
        assert {"learned/adapter_config.json", "learned/adapter_model.safetensors"} <= set(content.namelist())


def test_one_click_to_a_chat_with_its_scale_at_hand(models: ModelsScreen, page: Page, server: PaddockServer, learned: str, loras_dir: Path) -> None:
    """Its base is the model that is loaded; that another one is loaded for it is a test of the service."""
    rename_base(loras_dir / learned, "starter-Q8_0.gguf")
    models.open().page.get_by_role("button", name="Try learned in chat").click()
    chat = ChatScreen(page, server)
    expect(page.locator("body")).to_have_attribute("data-area", "chat", timeout=90_000)
    chat.ready()
    expect(chat.row("Trying learned")).to_be_visible()
    section = page.get_by_role("region", name="Adapters", exact=True)
    expect(section.get_by_role("checkbox", name="Use learned")).to_be_checked()
    server.ask("PATCH", f"ui/conversations/{chat.id}", {"settings": {"preset": "Deterministic", "params": {"max_tokens": 12}}})
    slider = section.get_by_role("slider", name="Scale slider of learned")
    adapted = chat.say(QUESTION)
    slider.press("Home")
    wait_for(lambda: server.conversation(chat.id)["settings"]["adapters"] == [{"name": "learned", "scale": 0}], "the scale is kept")
    assert chat.say(QUESTION) != adapted
    chat.reply.locator(".receipt summary").click()
    expect(chat.reply.locator(".receipt")).to_contain_text("starter-Q8_0")


def test_where_the_base_is_in_doubt_it_is_asked_for(models: ModelsScreen, page: Page, watch: ConsoleWatch, learned: str, loras_dir: Path) -> None:
    watch.allow("status of 400")
    rename_base(loras_dir / learned, "somebody/elsewhere")
    row = models.open().page.locator('.adapter[data-name="learned"]')
    choose(row, "Convert to GGUF")
    expect(row.get_by_role("alert")).to_contain_text("its base model “somebody/elsewhere” is not on this machine. It fits")
    row.get_by_label("Base model of learned").select_option("starter")
    row.get_by_role("button", name="Go on").click()
    jobs = page.get_by_role("region", name="Conversions and merges")
    expect(jobs.locator(".job").filter(has_text="Convert learned")).to_contain_text("learned.gguf")
