"""The pictures of the documentation, taken from the real page: when one is missing, or `PADDOCK_SCREENSHOTS=1` asks for new ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.e2e.conftest import PHONE
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen
from tests.paddock_server import ROOT, STARTER, PaddockServer, wait_for

FOLDER = ROOT / "docs" / "screenshots"
NAMES = ("chat-light", "chat-dark", "notebook", "models", "phone")
LIMIT_BYTES = 200_000
OLDER = ("Favourite recipes", "Names for a horse", "Longest common prefix", "A letter to the council")
DEMO = (
    ("user", "What can I do here?"),
    ("assistant", "<think>They ask about Paddock. I name the three areas.</think>Paddock runs language models on **your own machine**. Three areas:\n\n"
                  "1. **Chat**: every message keeps its versions; edit, regenerate, continue or branch.\n"
                  "2. **Notebook**: a text that the model writes on.\n"
                  "3. **Models**: load, unload and set up models.\n\nPrograms talk to it as well:\n\n"
                  "```python\nclient = OpenAI(base_url=\"http://localhost:7860/v1\", api_key=\"none\")\nclient.models.list()\n```"),
)  # fmt: skip


@pytest.fixture
def wanted() -> tuple[str, ...]:
    """Names of the pictures to take."""
    if os.environ.get("PADDOCK_SCREENSHOTS") == "1":
        return NAMES
    missing = tuple(name for name in NAMES if not file(name).exists())
    if not missing:
        pytest.skip("all pictures are there; PADDOCK_SCREENSHOTS=1 takes new ones")
    return missing


def file(name: str) -> Path:
    return FOLDER / f"{name}.png"


def test_pictures(new_context: Callable[..., BrowserContext], starter: PaddockServer, wanted: tuple[str, ...]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for row in starter.ask("GET", "ui/conversations")["conversations"]:
        starter.ask("DELETE", f"ui/conversations/{row['id']}")
    for title in OLDER:
        starter.make_conversation((("user", title),), title=title)
    seeded = {"preset": "Deterministic", "params": {}}
    demo = starter.make_conversation(DEMO, title="What can I do here?", settings=seeded)
    starter.ask("PUT", "ui/notebook", {"text": "One sunny day the old horse opened the gate of the paddock by itself.", "rev": None})
    asked = False
    for name in [name for name in NAMES if name in wanted]:
        options = {"viewport": PHONE, "is_mobile": True, "has_touch": True} if name == "phone" else {}
        scheme = "dark" if name == "chat-dark" else "light"
        page = new_context(color_scheme=scheme, reduced_motion="reduce", **options).new_page()
        if name == "notebook":
            notebook = NotebookScreen(page, starter).open()
            notebook.generate.click()
            wait_for(lambda: not starter.ask("GET", "ui/notebook")["running"], "the notebook is written")
            notebook.done()
            count = starter.ask("POST", "ui/tokens", {"text": notebook.text.input_value()})["count"]
            expect(page.locator(".notebook-bar .count")).to_have_text(f"{count} / 1,024 tokens")
            page.get_by_role("button", name="Look ahead").click()
            expect(page.get_by_role("list", name="Likeliest next tokens").get_by_role("button")).to_have_count(10)
        elif name == "models":
            ModelsScreen(page, starter).open().loaded(STARTER)
        else:
            chat = ChatScreen(page, starter).open(demo)
            if not asked:
                chat.say("How do I load a model?")
                asked = True
        page.mouse.move(0, 0)
        page.evaluate("document.fonts.ready")
        page.screenshot(path=file(name), animations="disabled", caret="hide")
        assert file(name).stat().st_size < LIMIT_BYTES
