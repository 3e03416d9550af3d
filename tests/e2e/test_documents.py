"""Documents, long pastes and the context in the chat page: attached, kept over a reload, sent, opened; counted, pinned, refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.document_files import PAGE_HTML, docx, paragraph, pdf, table
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer, wait_for

SHORT = {"preset": "Deterministic", "params": {"max_tokens": 12}}
LONG_TURN = "The lamp is on and it is warm. " * 9
PASTE_TEXT = """([text]) => {
  const data = new DataTransfer();
  data.setData("text/plain", text);
  const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  const box = document.querySelector("#message-text");
  if (box.dispatchEvent(event)) { box.value += text; box.dispatchEvent(new Event("input", { bubbles: true })); }
}"""
DROP = """(target) => {
  const data = new DataTransfer();
  data.items.add(new File(["The lamp is on."], "lamp.txt", { type: "text/plain" }));
  return ["dragover", "drop"].map((name) => target.dispatchEvent(new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true })));
}"""
DOCUMENTS = (
    ("lamp.py", "text/x-python", b"def lamp(on: bool) -> str:\n    return 'on' if on else 'off'\n"),
    ("lamps.csv", "text/csv", b"name,watt\nA,40\nB,60\n"),
    ("lamps.html", "text/html", PAGE_HTML.encode()),
    ("lamps.pdf", "application/pdf", pdf(["The lamp is on.", "It is warm."])),
    ("lamps.docx", "application/zip", docx(paragraph("Lamps", "Heading1") + table(("name", "watt"), ("A", "40")))),
)


class Files:
    """What is attached below the box, and what messages have."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.waiting = page.locator(".composer").get_by_role("list", name="Attached files")
        self.chips = self.waiting.get_by_role("listitem")
        self.sent = page.get_by_role("log").get_by_role("list", name="Attached files")
        self.shown = page.locator("dialog[open]")

    def choose(self, *rows: tuple[str, str, bytes]) -> None:
        payloads: list[FilePayload] = [{"name": name, "mimeType": kind, "buffer": data} for name, kind, data in rows]
        self.page.get_by_label("Files", exact=True).set_input_files(payloads)

    def picture(self, name: str) -> None:
        """A look at the page, into the folder that PADDOCK_LOOK names."""
        if folder := os.environ.get("PADDOCK_LOOK"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def files(page: Page) -> Files:
    return Files(page)


def test_documents_of_every_kind_are_read_kept_sent_and_opened(chat: ChatScreen, files: Files, starter: PaddockServer, page: Page) -> None:
    chat.open(starter.make_conversation(title="Documents", settings=SHORT))
    expect(page.get_by_role("button", name="Attach files")).to_be_visible()
    files.choose(*DOCUMENTS)
    expect(files.chips).to_have_count(5)
    for text in ("lamp.py", "lamps.csvCSV · 3 rows, 2 columns", "lamps.htmlHTML", "lamps.pdfPDF · 2 pages", "lamps.docxDOCX"):
        expect(files.waiting).to_contain_text(text)
    names = files.waiting.locator(".file-name")
    expect(names).to_have_text([name for name, _, _ in DOCUMENTS])  # in the order in which they were chosen
    files.picture("documents-attached")
    chat.open(chat.id)  # a reload keeps them
    expect(names).to_have_text([name for name, _, _ in DOCUMENTS])
    page.get_by_role("button", name="Remove lamps.html").click()
    expect(files.chips).to_have_count(4)
    files.waiting.get_by_role("button", name="lamps.pdf").filter(has_text="2 pages").click()
    expect(files.shown).to_contain_text("this is what the model reads")
    expect(files.shown.locator("pre")).to_have_text("[Page 1]\nThe lamp is on.\n\n[Page 2]\nIt is warm.")
    files.picture("documents-opened")
    page.keyboard.press("Escape")
    expect(files.shown).to_have_count(0)
    chat.say("What is it?")
    expect(files.waiting).to_be_hidden()
    expect(files.sent.get_by_role("listitem")).to_have_count(4)
    files.picture("documents-sent")
    assert starter.conversation(chat.id)["messages"][-1]["receipt"]["prompt_tokens"] > 100
    chat.open(chat.id)
    files.sent.get_by_role("button", name="lamps.docx").click()
    expect(files.shown.locator("pre")).to_have_text("# Lamps\n\n| name | watt |\n| A | 40 |")
    files.shown.get_by_role("button", name="Close").click()
    chat.press(chat.asked.last, "Edit")
    page.get_by_role("textbox", name="Edit message").fill("What else is it?")
    page.get_by_role("button", name="Save and send").click()
    expect(chat.asked.last).to_contain_text("What else")
    chat.done()
    expect(files.sent.get_by_role("listitem")).to_have_count(4)  # the new version has them too


def test_what_cannot_be_read_is_told_and_a_document_alone_is_a_message(
    chat: ChatScreen, files: Files, starter: PaddockServer, page: Page, watch: ConsoleWatch
) -> None:
    watch.allow("status of 400")
    chat.open(starter.make_conversation(title="Told", settings=SHORT))
    problem = page.get_by_role("alert").filter(visible=True)
    files.choose(("song.mp3", "audio/mpeg", bytes(range(256)) * 9))
    expect(problem).to_contain_text("song.mp3 cannot be attached: it is no text")
    files.choose(("big.log", "text/plain", b"x" * (9 << 20)))
    expect(problem).to_contain_text("big.log cannot be attached: it has 9,437,184 characters, and at most 2,000,000 are read")
    expect(chat.send_button).to_be_disabled()
    files.choose(("notes.md", "text/markdown", b"# Lamps"))
    expect(files.chips).to_have_count(1)
    chat.send_button.click()
    expect(chat.replies).to_have_count(1)
    chat.done()
    expect(files.sent.get_by_role("listitem")).to_have_count(1)


def test_a_long_paste_becomes_an_attachment_and_can_be_put_back(chat: ChatScreen, files: Files, starter: PaddockServer, page: Page) -> None:
    chat.open(starter.make_conversation(title="Pasted", settings=SHORT))
    page.evaluate(PASTE_TEXT, ["a short text"])
    expect(chat.box).to_have_value("a short text")
    long = "The lamp is on.\n" * 200
    page.evaluate(PASTE_TEXT, [long])
    expect(files.chips).to_have_count(1)
    expect(files.waiting).to_contain_text("Pasted text 1.txt201 lines · 3,200 characters")
    expect(chat.box).to_have_value("a short text")
    page.get_by_role("button", name="Put Pasted text 1.txt into the message").click()
    expect(files.waiting).to_be_hidden()
    expect(chat.box).to_have_value(re.compile(r"^a short text\n\nThe lamp is on\."))
    page.locator(".context-count").click()
    page.get_by_label("Pasted text becomes an attachment from").fill("0")
    page.get_by_label("Pasted text becomes an attachment from").blur()
    chat.box.fill("")
    page.evaluate(PASTE_TEXT, [long])
    expect(chat.box).to_have_value(long)


def test_the_meter_says_what_of_and_what_will_be_left_out(chat: ChatScreen, files: Files, starter: PaddockServer, page: Page) -> None:
    turns = tuple(("assistant" if number % 2 else "user", f"Number {number}. {LONG_TURN}") for number in range(16))
    chat.open(starter.make_conversation(turns, title="Too long", settings={**SHORT, "system_prompt": "You speak of lamps."}))
    note, panel = page.locator(".context-note"), page.get_by_role("region", name="Context")
    expect(note).to_contain_text(re.compile(r"^\d+ earlier messages will be left out"))
    note.click()
    gone = panel.get_by_role("list", name="Messages left out").get_by_role("listitem")
    expect(gone.first).to_contain_text("You: Number 0. The lamp is on")
    for title in ("System text", "Earlier messages", "Attached files", "This message", "Too many", "Kept free for the reply"):
        expect(panel).to_contain_text(title)
    files.picture("context-left-out")
    before = gone.count()
    gone.first.get_by_role("button").click()
    expect(gone.first).to_contain_text("You: Number 2.")
    expect(chat.asked.first.get_by_role("button", name="Pin: stays")).to_have_attribute("aria-pressed", "true")
    assert gone.count() >= before
    panel.get_by_role("button", name="Summarise them").click()
    summary = panel.get_by_label("Summary that stands for the oldest messages")
    expect(summary).not_to_be_empty()
    expect(gone).to_have_count(0)
    files.picture("context-summary")
    summary.fill("We spoke of lamps.")
    summary.blur()
    wait_for(lambda: starter.conversation(chat.id)["settings"]["summary"] == "We spoke of lamps.", "the summary is saved")
    panel.get_by_role("button", name="Remove the summary").click()
    expect(summary).to_have_count(0)
    expect(gone.first).to_contain_text("You: Number 2.")
    panel.get_by_label("When it is too long").select_option("have the model summarise the oldest")
    wait_for(lambda: starter.conversation(chat.id)["settings"]["overflow"] == "summarise_oldest", "the policy is saved")
    panel.get_by_role("button", name="Close").click()
    expect(note).to_contain_text("earlier messages will be summarised")
    chat.say("Is it on?")
    expect(chat.reply).to_contain_text("oldest messages summarised before")
    page.locator(".context-count").click()
    expect(summary).not_to_be_empty()
    panel.get_by_role("button", name="Remove the summary").click()
    expect(gone.first).to_contain_text("You: Number 2.")
    panel.get_by_label("When it is too long").select_option("refuse to send")
    expect(panel.get_by_role("status")).to_contain_text("allow the oldest messages to be left out")
    files.picture("context-refused")
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()
    expect(note).to_contain_text("The conversation needs")
    chat.say("And now?")
    expect(chat.reply).to_contain_text("The conversation needs")
    expect(chat.reply).to_have_attribute("data-status", "failed")
    chat.open(chat.id)
    expect(chat.asked.first.get_by_role("button", name="Pin: stays")).to_have_attribute("aria-pressed", "true")


def test_the_meter_counts_while_somebody_types(chat: ChatScreen, starter: PaddockServer, page: Page) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hello there.")), title="Counted", settings=SHORT))
    count = page.locator(".context-count")
    expect(count).to_have_text(re.compile(r"^\d+ / 1,024 tokens$"))
    before = int(count.inner_text().split()[0])
    count.click()
    typed = page.locator(".context-legend div").filter(has_text="This message").locator("dd")
    expect(typed).to_have_text("0")
    chat.box.fill("Tell me about lamps and what they are for.")
    expect(typed).not_to_have_text("0")
    assert int(count.inner_text().split()[0]) == before + int(typed.inner_text())
    chat.box.press("Escape")
    page.locator(".context-panel").get_by_role("button", name="Close").press("Escape")
    expect(page.locator(".context-panel")).to_be_hidden()
    expect(count).to_be_focused()


def test_a_file_dropped_anywhere_is_attached_and_never_opened(chat: ChatScreen, page: Page) -> None:
    chat.open()
    for place, count in ((page.locator(".scroller"), 1), (page.get_by_role("tab", name="Models", exact=True), 2)):
        assert place.evaluate(DROP) == [False, False]  # the browser does nothing of its own
        expect(Files(page).waiting.get_by_role("listitem")).to_have_count(count)
