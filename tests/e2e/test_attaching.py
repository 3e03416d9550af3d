"""Images in the chat page: attached, pasted, sent, shown again, looked at; and refused where the model does not see."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.e2e.test_characters import menu
from tests.paddock_server import PaddockServer
from tests.tiny_image_text import image_text_folder
from tests.tiny_vision import picture, vision_files

SEER = "seer/llava.gguf"
SETTINGS = {"preset": "Deterministic", "params": {"max_tokens": 12, "ban_eos": True}}
PASTE = """async ([text]) => {
  const file = new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], "shot.png", { type: "image/png" });
  const data = new DataTransfer();
  data.items.add(file);
  document.querySelector("#message-text").dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture
def seeing(server: PaddockServer, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaddockServer]:
    files = vision_files(tmp_path_factory.getbasetemp(), "llava")
    (models_dir / "seer").mkdir()
    shutil.copy(files.model, models_dir / SEER)
    shutil.copy(files.projector, models_dir / "seer" / "mmproj-seer.gguf")
    server.load(SEER)
    yield server
    server.load()
    shutil.rmtree(models_dir / "seer")


def file_of(name: str, seed: int, size: tuple[int, int] = (300, 200), form: str = "PNG") -> dict:
    return {"name": name, "mimeType": f"image/{form.lower()}", "buffer": picture(seed, size, form)}


def sizes(chat: ChatScreen) -> list[tuple[int, int]]:
    """Width and height of the pictures shown in messages, once they are there."""
    images = chat.log.locator(".pictures img")
    for image in images.all():
        expect(image).to_have_js_property("complete", True)
    return [tuple(image.evaluate("image => [image.naturalWidth, image.naturalHeight]")) for image in images.all()]


def test_images_are_attached_sent_looked_at_and_still_there(seeing: PaddockServer, page: Page) -> None:
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Pictures", settings=SETTINGS))
    attached = page.get_by_role("list", name="Attached images")
    chooser = page.get_by_label("Files", exact=True)
    expect(page.get_by_role("button", name="Attach files")).to_be_visible()
    chooser.set_input_files([file_of("a.png", 1), file_of("b.jpg", 2, (4000, 1000), "JPEG")])
    expect(attached.get_by_role("listitem")).to_have_count(2)
    page.evaluate(PASTE, [base64.b64encode(picture(3)).decode()])
    expect(attached.get_by_role("listitem")).to_have_count(3)
    chat.open(chat.id)  # a reload keeps them
    expect(attached.get_by_role("listitem")).to_have_count(3)
    page.get_by_role("button", name="Remove image 3").click()
    expect(attached.get_by_role("listitem")).to_have_count(2)
    first = chat.say("What is it?")
    expect(attached).to_be_hidden()
    chat.open(chat.id)
    expect(attached).to_be_hidden()
    assert sizes(chat) == [(300, 200), (2048, 512)]  # what is larger than any model looks at was made smaller
    receipt = seeing.ask("GET", f"/ui/conversations/{chat.id}")["messages"][-1]["receipt"]
    assert receipt["prompt_tokens"] > 2 * 25
    chat.open(chat.id)
    assert sizes(chat) == [(300, 200), (2048, 512)]
    chat.press(chat.reply, "Regenerate: another version")
    expect(chat.reply.get_by_text("2/2")).to_be_visible()
    assert chat.done() == first
    chooser.set_input_files([file_of("c.webp", 5, form="WEBP")])
    expect(attached.get_by_role("listitem")).to_have_count(1)
    page.get_by_role("button", name="Send (Enter)").click()  # an image alone is a message too
    expect(chat.replies).to_have_count(2)
    chat.done()
    assert sizes(chat) == [(300, 200), (2048, 512), (300, 200)]


def test_images_that_wait_are_counted_and_a_bmp_becomes_a_png(seeing: PaddockServer, page: Page) -> None:
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Counted", settings=SETTINGS))
    page.locator(".context-count").click()
    rows = page.locator(".context-legend div")
    counted = rows.filter(has_text="Attached images").locator("dd")
    expect(counted).to_have_text("0")
    page.get_by_label("Files", exact=True).set_input_files([file_of("a.bmp", 1, form="BMP")])
    expect(page.get_by_role("list", name="Attached images").get_by_role("img")).to_have_attribute("src", re.compile("^data:image/png;"))
    expect(counted).not_to_have_text("0")
    chat.box.fill("What is it?")
    expect(rows.filter(has_text="This message").locator("dd")).not_to_have_text("0")
    shown = page.locator(".context-count").inner_text().split()[0]
    page.get_by_role("button", name="Send (Enter)").click()
    chat.done()
    assert seeing.ask("GET", f"/ui/conversations/{chat.id}")["messages"][-1]["receipt"]["prompt_tokens"] == int(shown)


def test_an_edited_message_and_a_branch_keep_their_images(seeing: PaddockServer, page: Page) -> None:
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Kept", settings=SETTINGS))
    page.get_by_label("Files", exact=True).set_input_files([file_of("a.png", 1)])
    chat.say("What is it?")
    chat.press(chat.asked.last, "Edit")
    page.get_by_role("textbox", name="Edit message").fill("And what colour is it?")
    page.get_by_role("button", name="Save and send").click()
    expect(chat.asked.last).to_contain_text("And what colour")
    chat.done()
    assert sizes(chat) == [(300, 200)]
    before = chat.id
    chat.press(chat.reply, "Branch: a new conversation up to here")
    page.wait_for_url(lambda url: before not in url)
    expect(chat.asked).to_have_count(1)
    assert sizes(chat) == [(300, 200)]


def test_a_message_that_is_taken_back_brings_its_images(seeing: PaddockServer, page: Page) -> None:
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Taken back", settings=SETTINGS))
    attached = page.get_by_role("list", name="Attached images").get_by_role("listitem")
    page.get_by_label("Files", exact=True).set_input_files([file_of("a.png", 1), file_of("b.png", 2)])
    chat.say("What is it?")
    expect(attached).to_have_count(0)
    menu(page, "Take back my last message")
    expect(chat.messages).to_have_count(0)
    expect(attached).to_have_count(2)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(chat.messages).to_have_count(2)
    expect(attached).to_have_count(0)
    menu(page, "Take back my last message")
    expect(attached).to_have_count(2)
    expect(chat.messages).to_have_count(0)
    chat.say("What are they?")
    assert sizes(chat) == [(300, 200), (300, 200)]


def test_an_image_for_a_model_that_sleeps_is_taken(seeing: PaddockServer, page: Page) -> None:
    page.route("**/ui/models", lambda route: route.fulfill(json={**route.fetch().json(), "loaded": [], "asleep": [SEER]}))  # as while it sleeps
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Asleep", settings=SETTINGS))
    expect(page.locator(".model-chip")).to_contain_text("(asleep)")
    page.get_by_label("Files", exact=True).set_input_files([file_of("a.png", 1)])
    expect(page.get_by_role("list", name="Attached images").get_by_role("listitem")).to_have_count(1)
    chat.say("What is it?")
    chat.done()
    assert sizes(chat) == [(300, 200)]


def test_what_cannot_be_attached_is_told(seeing: PaddockServer, page: Page) -> None:
    chat = ChatScreen(page, seeing).open(seeing.make_conversation(title="Refused", settings=SETTINGS))
    problem = page.get_by_role("alert").filter(visible=True)
    chooser = page.get_by_label("Files", exact=True)
    chooser.set_input_files([{"name": "drawing.bmp", "mimeType": "image/bmp", "buffer": b"BM"}])
    expect(problem).to_contain_text("drawing.bmp cannot be read: this browser shows no such image, or it is damaged. Save it as PNG, JPEG, WebP or GIF.")
    chooser.set_input_files([{"name": "bad.png", "mimeType": "image/png", "buffer": picture(1)[:50]}])
    expect(problem).to_contain_text("bad.png cannot be read")
    seeing.load()  # the starter model does not see
    expect(page.locator(".model-chip")).to_contain_text("starter-Q8_0")
    page.evaluate(PASTE, [base64.b64encode(picture(3)).decode()])
    expect(problem).to_contain_text("The loaded model does not see images")
    expect(chat.messages).to_have_count(0)


def test_a_folder_of_transformers_is_marked_and_looks_at_pictures(server: PaddockServer, models_dir: Path, page: Page) -> None:
    folder = image_text_folder(models_dir / "seer-folder", "smolvlm")
    try:
        models = ModelsScreen(page, server).open()
        expect(models.row("seer-folder").locator(".facts")).to_contain_text("sees images")
        models.load("seer-folder")
        expect(models.row("seer-folder").locator(".facts")).to_contain_text("sees images")
        chat = ChatScreen(page, server).open(server.make_conversation(title="Folder", settings=SETTINGS))
        page.get_by_label("Files", exact=True).set_input_files([file_of("a.png", 1)])
        chat.say("What is it?")
        chat.done()
        assert sizes(chat) == [(300, 200)]
        receipt = server.ask("GET", f"/ui/conversations/{chat.id}")["messages"][-1]["receipt"]
        assert receipt["prompt_tokens"] > 60  # the words, and what stands for the image
    finally:
        server.load()
        shutil.rmtree(folder)
