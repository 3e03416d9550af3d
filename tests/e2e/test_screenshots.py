"""The pictures of the documentation, taken from the real page: when one is missing, or `PADDOCK_SCREENSHOTS=1` asks for new ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from modules.prompts.png_text import plain_picture
from tests.e2e.conftest import PHONE
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen, open_area
from tests.e2e.training_screen import TrainingScreen
from tests.paddock_server import ROOT, STARTER, PaddockServer, wait_for

FOLDER = ROOT / "docs" / "screenshots"
TUTORIAL = (ROOT / "datasets" / "starter-captain.jsonl", ROOT / "datasets" / "starter-captain.recipe.yaml")
LIMIT_BYTES = 200_000
OLDER = ("Favourite recipes", "Names for a horse", "Longest common prefix", "A letter to the council")
KEEPER = "Mira Voss"
DEMO = (
    ("user", "What can I do here?"),
    ("assistant", "<think>They ask about Paddock. I name the areas.</think>Paddock runs language models on **your own machine**:\n\n"
                  "1. **Chat**: every message keeps its versions; edit, regenerate, continue or branch.\n"
                  "2. **Notebook**: a text that the model writes on.\n"
                  "3. **Models**, **Training**, **Templates**: get them, teach them, prompt them.\n\n"
                  "Formulas are drawn, $e^{i\\pi}+1=0$, and programs talk to it as well:\n\n"
                  "```python\nclient = OpenAI(base_url=\"http://localhost:7860/v1\", api_key=\"none\")\nclient.models.list()\n```"),
)  # fmt: skip
ISLAND = (
    ("assistant", "*The door opens a hand's breadth. Warm light falls on the wet steps.*\n\nYou are late for the tide, Robin. Come in before the wind does."),
    ("user", "Is it always this loud up here?"),
    ("assistant", "No. Sometimes there is wind as well.\n\n*She hangs your coat beside the stove.*\n\nThe glass has been falling since noon. You will stay until it turns."),
    ("user", "*looks up the stairs* Who winds the lamp?"),
    ("assistant", "I do. Every four hours, since eleven years. The lens is from 1871; it is older than anybody who complains about it."),
)
STORY = "Once upon a time there was a brave rabbit named Anna. Anna lived near a barn. One sunny day the old horse opened the gate of the paddock by itself."


@dataclass(frozen=True)
class Stage:
    """What the pictures show."""

    server: PaddockServer
    demo: str
    island: str
    several: str


@pytest.fixture
def stage(starter: PaddockServer, models_dir: Path) -> Iterator[Stage]:
    """Conversations, a character and a notebook, and nothing that other tests left."""
    for row in starter.ask("GET", "ui/conversations")["conversations"]:
        starter.ask("DELETE", f"ui/conversations/{row['id']}")
    for title in OLDER:
        starter.make_conversation((("user", title),), title=title)
    for path, name, colours in (("characters", KEEPER, ((216, 170, 92), (30, 52, 84))), ("profiles", "Robin", ((132, 170, 140), (40, 72, 66)))):
        if name not in [row["name"] for row in starter.ask("GET", f"ui/{path}")["cards"]]:
            starter.ask("POST", f"ui/{path}", {"values": {"name": name, "description": "{{user}} is a stranger here."}})
        answer = starter.http.put(f"ui/{path}/{name}/picture", content=plain_picture(400, 600, *colours))
        assert answer.status_code == 200, answer.text
    starter.ask("PUT", "ui/notebook", {"text": STORY, "rev": None})
    starter.ask("PUT", "ui/notebook/settings", {"settings": {"preset": "Balanced", "params": {"max_tokens": 28, "seed": 4, "ban_eos": True}}})
    lively = {"preset": "Creative", "params": {"seed": 7, "max_tokens": 60}}
    broken = models_dir / "broken.gguf"
    aside = broken.rename(broken.with_suffix(".aside"))  # it is there for other tests
    yield Stage(
        server=starter,
        island=starter.make_conversation(ISLAND, title="A storm on the island", settings={"character": KEEPER, "profile": "Robin"}),
        several=starter.make_conversation((("user", "hello"), ("assistant", "Hello! How can I help you today?")), title="Three at once", settings=lively),
        demo=starter.make_conversation(DEMO, title="What can I do here?", settings={"preset": "Deterministic", "params": {}}),
    )
    aside.rename(broken)


def file(name: str) -> Path:
    return FOLDER / f"{name}.png"


# ---- what is shown in each ----------------------------------------------------------------------------------------


def counted(page: Page) -> None:
    expect(page.locator(".context-count")).to_contain_text("tokens")


def show_chat(page: Page, stage: Stage) -> None:
    chat = ChatScreen(page, stage.server).open(stage.demo)
    if chat.messages.count() < 4:
        chat.say("How do I load a model?")
    counted(page)


def show_several(page: Page, stage: Stage) -> None:
    chat = ChatScreen(page, stage.server).open(stage.several)
    page.get_by_label("Replies at once").select_option("3")
    chat.send("Tell me about your day.")
    columns = page.get_by_role("group", name="Versions side by side").locator(".version-column .message")
    expect(columns).to_have_count(3)
    for place in range(3):
        expect(columns.nth(place)).to_have_attribute("data-status", re.compile("complete|stopped"))


def show_character(page: Page, stage: Stage) -> None:
    chat = ChatScreen(page, stage.server).open(stage.island)
    expect(chat.replies.locator(".speaker").first).to_contain_text(KEEPER)
    counted(page)


def show_receipt(page: Page, stage: Stage) -> None:
    show_chat(page, stage)
    receipt = page.locator(".message.assistant").last.locator("details.receipt")
    receipt.locator("summary").first.click()
    expect(receipt.locator("dd").filter(has_text="llama-cpp-python")).to_be_visible()
    receipt.scroll_into_view_if_needed()


def show_what_it_saw(page: Page, stage: Stage) -> None:
    show_receipt(page, stage)
    page.locator(".message.assistant").last.get_by_role("button", name="What the model saw").click()
    expect(page.get_by_role("dialog").get_by_text("This is what the model saw")).to_be_visible()


def show_parameters(page: Page, stage: Stage) -> None:
    show_character(page, stage)
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Preset", exact=True)).to_have_value("Balanced")
    page.locator("#drawer").evaluate("drawer => { drawer.scrollTop = 500; }")


def show_notebook(page: Page, stage: Stage) -> None:
    notebook = NotebookScreen(page, stage.server).open()
    if notebook.text.input_value() == STORY:
        notebook.generate.click()
        wait_for(lambda: not stage.server.ask("GET", "ui/notebook")["running"], "the notebook is written")
        notebook.done()
    count = stage.server.ask("POST", "ui/tokens", {"text": notebook.text.input_value()})["count"]
    expect(page.locator(".notebook-bar .count")).to_have_text(f"{count} / 1,024 tokens")
    page.get_by_role("button", name="Look ahead").click()
    expect(page.get_by_role("list", name="Likeliest next tokens").get_by_role("button")).to_have_count(10)


def show_likelihood(page: Page, stage: Stage) -> None:
    NotebookScreen(page, stage.server).open()
    page.get_by_role("button", name="Tokens", exact=True).click()
    page.get_by_role("group", name="Tokens of the text").get_by_role("button", name=re.compile("sunny")).first.click()
    expect(page.get_by_role("group", name="Alternatives of the token")).to_be_visible()


def show_templates(page: Page, stage: Stage) -> None:
    ChatScreen(page, stage.server).open(stage.demo)
    open_area(page, "Templates")
    page.get_by_role("navigation", name="Templates").get_by_role("button", name="ChatML", exact=True).click()
    page.get_by_label("Conversation to look at").select_option("Several turns")
    expect(page.get_by_role("region", name="The text that the model reads")).to_contain_text("patient gardener")
    expect(page.get_by_role("list", name="What the doctor found").get_by_role("listitem")).to_have_count(4)
    page.get_by_role("heading", name="Preview").scroll_into_view_if_needed()
    page.mouse.move(900, 400)
    page.mouse.wheel(0, 360)


def show_models(page: Page, stage: Stage) -> None:
    ModelsScreen(page, stage.server).open().loaded(STARTER)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".model-row").filter(has_text="Cannot be loaded")).to_have_count(0)


def show_what_is_learned(page: Page, stage: Stage) -> None:
    """The tutorial's data, looked at token by token."""
    training = TrainingScreen(page, stage.server)
    kept = [Path(shutil.copy(path, stage.server.datasets_dir)) for path in TUTORIAL]
    try:
        training.open().page.get_by_role("button", name="Fill in the tutorial").click()
        training.check_button.click()
        seen = page.get_by_text("What is learned, token by token")
        expect(seen).to_be_visible(timeout=90_000)
        seen.scroll_into_view_if_needed()
    finally:
        for path in kept:
            path.unlink(missing_ok=True)


PICTURES: tuple[tuple[str, Callable[[Page, Stage], None]], ...] = (
    ("chat-light", show_chat),
    ("chat-dark", show_chat),
    ("phone", show_chat),
    ("receipt", show_receipt),
    ("what-it-saw", show_what_it_saw),
    ("parameters", show_parameters),
    ("side-by-side", show_several),
    ("character", show_character),
    ("notebook", show_notebook),
    ("likelihood-dark", show_likelihood),
    ("templates", show_templates),
    ("models", show_models),
    ("training", show_what_is_learned),
)


@pytest.fixture
def wanted() -> tuple[str, ...]:
    """Names of the pictures to take."""
    asked = os.environ.get("PADDOCK_SCREENSHOTS", "")
    names = tuple(name for name, _ in PICTURES if asked == "1" or name in asked.split(",") or not file(name).exists())
    if not names:
        pytest.skip("all pictures are there; PADDOCK_SCREENSHOTS=1 takes new ones")
    return names


def test_pictures(new_context: Callable[..., BrowserContext], wanted: tuple[str, ...], stage: Stage) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, show in PICTURES:
        if name not in wanted:
            continue
        options = {"viewport": PHONE, "is_mobile": True, "has_touch": True} if name == "phone" else {}
        page = new_context(color_scheme="dark" if name.endswith("-dark") else "light", reduced_motion="reduce", **options).new_page()
        show(page, stage)
        if name != "templates":
            page.mouse.move(0, 0)
        page.evaluate("document.fonts.ready")
        page.screenshot(path=file(name), animations="disabled", caret="hide")
        page.close()
        assert file(name).stat().st_size < LIMIT_BYTES
