"""Moving in with the files of other programs, and taking a conversation along."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer

SAMPLES = Path(__file__).parents[1] / "samples"
DROP = """([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name, { type: 'application/json' }));
  const side = document.querySelector('#side'); side.dispatchEvent(new DragEvent('dragover', { dataTransfer: data, bubbles: true, cancelable: true }));
  side.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); }"""


def choose(page: Page, *files: Path) -> None:
    with page.expect_file_chooser() as waiting:
        page.get_by_role("button", name="Import conversations").click()
    waiting.value.set_files(files)


def test_an_archive_moves_in_with_a_report(chat: ChatScreen, page: Page, tmp_path: Path) -> None:
    archive = tmp_path / "chatgpt-export.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.write(SAMPLES / "chatgpt.json", "conversations.json")
        made.writestr("user.json", "{}")
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps([{"messages": [{"role": "robot", "content": "beep"}]}]), encoding="utf-8")
    chat.open()
    choose(page, archive, broken)
    report = page.get_by_role("dialog", name="Import conversations")
    expect(report).to_contain_text("2 conversations imported from ChatGPT")
    expect(report).to_contain_text("0 conversations imported, 1 refused")
    expect(report.get_by_role("list", name="Refused")).to_contain_text("robot")
    report.get_by_role("button", name="Open the first").click()
    expect(chat.reply).to_contain_text("Yes, that is the summit.")
    expect(chat.row("Boiling on Everest")).to_be_visible()


def test_a_dropped_chat_of_sillytavern_keeps_its_swipes(chat: ChatScreen, page: Page) -> None:
    chat.open()
    page.evaluate(DROP, ["reed.jsonl", (SAMPLES / "sillytavern.jsonl").read_text(encoding="utf-8")])
    report = page.get_by_role("dialog", name="Import conversations")
    expect(report).to_contain_text("1 conversation imported from SillyTavern")
    report.get_by_role("button", name="Open it").click()
    expect(chat.messages).to_have_count(3)
    expect(chat.reply.locator(".versions")).to_contain_text("1/2")
    chat.press(chat.reply, "Later version")
    expect(chat.reply).to_contain_text("South.")


def test_a_conversation_is_taken_along(chat: ChatScreen, page: Page, starter: PaddockServer, tmp_path: Path) -> None:
    chat.open(starter.make_conversation((("user", "keep me"), ("assistant", "Kept.")), title="Taken along"))
    for form, ending in (("Markdown", ".md"), ("OpenAI messages (JSONL)", ".jsonl"), ("ShareGPT (JSON)", ".json")):
        chat.press_row("Taken along", "Export")
        with page.expect_download() as waiting:
            page.get_by_role("menuitem", name=f"Export as {form}").click()
        assert waiting.value.suggested_filename.endswith(ending)
        file = tmp_path / f"taken{ending}"
        waiting.value.save_as(file)
        assert "Kept." in file.read_text(encoding="utf-8")
    choose(page, tmp_path / "taken.md")
    report = page.get_by_role("dialog", name="Import conversations")
    expect(report).to_contain_text("1 conversation imported from Markdown")
    before = chat.id
    report.get_by_role("button", name="Open it").click()
    page.wait_for_url(lambda url: before not in url)
    expect(chat.asked).to_contain_text("keep me")
    expect(chat.reply).to_contain_text("Kept.")
