"""Adapters as a person uses them: one conversation's own, a slider that acts at once, and one that cannot fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from safetensors.numpy import load_file, save_file

from tests.e2e.adapter_files import write_adapter
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen
from tests.paddock_server import PaddockServer, wait_for

GREEDY = {"preset": "Deterministic", "params": {"max_tokens": 24}}
QUESTION = "How do I load a model?"


@pytest.fixture
def too_deep(loras_dir: Path, starter_dir: Path) -> Iterator[str]:
    """An adapter for a model of more layers."""
    folder = loras_dir / "too-deep"
    write_adapter(folder, starter_dir)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name.replace("layers.1.", "layers.40."): value for name, value in weights.items()}, folder / "adapter_model.safetensors")
    yield folder.name
    shutil.rmtree(folder)


def open_drawer(page: Page) -> Locator:
    """The adapters in the settings drawer."""
    page.get_by_role("button", name="Settings", exact=True).click()
    section = page.get_by_role("region", name="Adapters", exact=True)
    expect(section).to_be_visible()
    return section


def close_drawer(page: Page) -> None:
    page.get_by_role("button", name="Done", exact=True).click()


def test_a_conversation_has_adapters_of_its_own(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(title="Plain", settings=GREEDY))
    plain = chat.say(QUESTION)
    conversation_id = starter.make_conversation(title="Adapted", settings=GREEDY)
    chat.open(conversation_id)
    section = open_drawer(page)
    expect(section).to_contain_text("As on the model: none.")
    section.get_by_role("checkbox", name="Choose for this conversation").check()
    section.get_by_role("checkbox", name="Use odd-words").check()
    section.get_by_label("Scale of odd-words").fill("2")
    page.get_by_role("textbox", name="System prompt").fill("")  # the form beside it knows no adapters and must leave them alone
    close_drawer(page)
    expect(section).to_be_hidden()
    adapted = chat.say(QUESTION)
    assert adapted != plain
    chat.reply.locator(".receipt summary").click()
    expect(chat.reply.locator(".receipt")).to_contain_text("adapters odd-words × 2")
    assert starter.conversation(conversation_id)["settings"]["adapters"] == [{"name": "odd-words", "scale": 2}]

    page.reload()
    chat.ready()
    section = open_drawer(page)
    expect(section.get_by_role("checkbox", name="Use odd-words")).to_be_checked()
    expect(section.get_by_label("Scale of odd-words")).to_have_value("2")
    section.get_by_role("checkbox", name="Choose for this conversation").uncheck()
    expect(section.get_by_role("checkbox", name="Use odd-words")).to_have_count(0)
    close_drawer(page)
    chat.press(chat.reply, "Regenerate: another version")
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    assert chat.done() == plain


def test_the_slider_of_the_model_acts_from_the_next_reply_on(models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    def say(title: str) -> str:
        chat = ChatScreen(page, starter).open(starter.make_conversation(title=title, settings=GREEDY))
        words = chat.say(QUESTION)
        models.show()
        return words

    plain = say("Plain")
    models.open()
    pid = starter.engine().pid
    adapter = models.adapter("odd-words")
    adapter.get_by_role("checkbox", name="Use odd-words").check()
    slider = adapter.get_by_role("slider", name="Scale slider of odd-words")
    for key, scale in (("End", "2"), ("Home", "0")):
        slider.press(key)
        expect(page.get_by_text(f"In use: odd-words × {scale}.")).to_be_visible()
        expect(adapter.get_by_label("Scale of odd-words")).to_have_value(scale)
        assert (say(f"At {scale}") == plain) == (scale == "0")
    adapter.get_by_role("checkbox", name="Use odd-words").uncheck()
    expect(page.get_by_text("None is in use.")).to_be_visible()
    assert starter.engine().pid == pid, "it was loaded anew"


def test_one_that_cannot_fit_says_why_and_cannot_be_chosen(models: ModelsScreen, chat: ChatScreen, page: Page, starter: PaddockServer, too_deep: str) -> None:
    adapter = models.open().adapter(too_deep)
    expect(adapter).to_contain_text("changes layer 41 and this model has 4 layers; load its base model first")
    expect(adapter.get_by_role("checkbox")).to_be_disabled()
    conversation_id = starter.make_conversation(title="Wrong choice", settings={**GREEDY, "adapters": [{"name": too_deep, "scale": 1}]})
    chat.open(conversation_id)
    chat.send(QUESTION)
    expect(chat.reply).to_have_attribute("data-status", "failed")
    expect(chat.reply).to_contain_text("changes layer 41 and this model has 4 layers")
    section = open_drawer(page)
    chosen = section.get_by_role("checkbox", name=f"Use {too_deep}")
    expect(chosen).to_be_checked()
    chosen.uncheck()  # chosen once, it can be taken off
    close_drawer(page)
    chat.press(chat.reply, "Regenerate: another version")
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    chat.done()
    expect(chat.reply).to_have_attribute("data-status", "complete")


def test_the_notebook_keeps_adapters_of_its_own(notebook: NotebookScreen, page: Page, starter: PaddockServer) -> None:
    notebook.open()
    page.evaluate("localStorage.setItem('paddock.notebook.settings', JSON.stringify({preset: 'Deterministic', params: {max_tokens: 16}}))")
    page.reload()
    notebook.show().fill(QUESTION)
    plain = write_on(notebook)
    notebook.fill(QUESTION)
    section = open_drawer(page)
    section.get_by_role("checkbox", name="Choose for the notebook").check()
    section.get_by_role("checkbox", name="Use odd-words").check()
    section.get_by_label("Scale of odd-words").fill("2")
    wait_for(lambda: [one["scale"] for one in starter.ask("GET", "ui/notebook")["settings"].get("adapters") or []] == [2], "it is remembered")
    close_drawer(page)
    assert write_on(notebook) != plain


def write_on(notebook: NotebookScreen) -> str:
    """What the notebook holds after a generation."""
    notebook.generate.click()
    expect(notebook.text).not_to_have_value(QUESTION)
    wait_for(lambda: not notebook.server.ask("GET", "ui/notebook")["running"], "it has been written")
    return notebook.done()
