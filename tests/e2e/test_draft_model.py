"""A draft model in the page: offered by its name, loaded beside the model, told in the row and in the receipt of a reply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.paddock_server import STARTER, PaddockServer

NAME = "larger.gguf"


@pytest.fixture
def larger(models_dir: Path) -> Iterator[str]:
    """The starter model in a file that is a little larger, so that the starter itself is offered to draft for it."""
    file = models_dir / NAME
    file.write_bytes((models_dir / STARTER).read_bytes() + bytes(4096))
    yield NAME
    file.unlink()


def test_a_draft_model_is_chosen_from_a_list_and_its_work_is_told(larger: str, models: ModelsScreen, page: Page, starter: PaddockServer) -> None:
    models.open().press(larger, "Options")
    group = page.get_by_role("button", name="Drafting").filter(visible=True)
    group.click()
    choice = page.locator("input[aria-label='Draft model']").filter(visible=True)
    choice.click()
    offered = page.locator("ul[role=listbox] [role=option]")
    expect(offered).to_have_text([re.compile("none"), re.compile(re.escape(STARTER))])
    offered.last.click()
    expect(choice).to_have_value(STARTER)
    expect(page.locator("#load-changes")).to_be_hidden()
    page.get_by_role("button", name="Load with these options").click()
    models.loaded(larger)
    expect(models.row(larger)).to_contain_text("starter-Q8_0.gguf drafts up to 16 tokens a step.")
    settings = {"preset": "Deterministic", "params": {"max_tokens": 120, "ban_eos": True}}
    chat = ChatScreen(page, starter).open(starter.make_conversation(title="Drafted", settings=settings))
    chat.say("How do I load a model?")
    receipt = chat.reply.locator("details.receipt")
    receipt.locator("summary").click()
    expect(receipt).to_contain_text(re.compile(r"\d+ of \d+ drafted tokens? right"))
    models.show().press(larger, "Options")
    group.click()
    choice.fill("no-such-model.gguf")
    choice.press("Enter")
    page.get_by_role("button", name="Load with these options").click()
    expect(page.locator("#load-problem")).to_contain_text("There is no model “no-such-model.gguf” to draft with; choose a smaller one")
    models.press(larger, "Unload")
    expect(models.row(larger).get_by_role("button", name="Load", exact=True)).to_be_visible()
