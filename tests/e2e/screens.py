"""The three areas of the page as a person uses them: what to press, what to read. Waits, never sleeps."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.paddock_server import PaddockServer, wait_for


class ChatScreen:
    """The chat area with its sidebar."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.server = server
        self.log = page.get_by_role("log", name="Conversation")
        self.messages = self.log.locator(".message")
        self.replies = self.log.locator(".message.assistant")
        self.reply = self.replies.last
        self.asked = self.log.locator(".message.user")
        self.box = page.get_by_role("textbox", name="Message", exact=True)
        self.send_button = page.get_by_role("button", name="Send (Enter)")
        self.stop_button = page.get_by_role("button", name="Stop (Esc)")
        self.sidebar = page.get_by_role("navigation", name="Conversations")

    def open(self, conversation_id: str = "") -> ChatScreen:
        """Go to the page, at the new conversation or the one named, and wait until it is drawn."""
        self.page.goto(f"{self.server.url}?c={conversation_id}" if conversation_id else self.server.url)
        self.ready()
        return self

    def ready(self) -> None:
        expect(self.box).to_be_visible()
        expect(self.page.locator(".empty:visible, .messages > .message").first).to_be_visible()

    @property
    def id(self) -> str:
        """The open conversation, from the address."""
        found = re.search(r"[?&]c=([^&]+)", self.page.url)
        return found[1] if found else ""

    def send(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")
        expect(self.asked.last).to_contain_text(text.split("\n")[0])

    def done(self) -> str:
        """Wait for the end of the last reply; its text."""
        expect(self.reply).to_have_attribute("data-status", re.compile("complete|stopped|failed"))
        expect(self.send_button).to_be_visible()
        return self.words(self.reply)

    def say(self, text: str) -> str:
        """Send and wait for the whole reply."""
        before = self.replies.count()
        self.send(text)
        expect(self.replies).to_have_count(before + 1)
        return self.done()

    def begun(self, letters: int = 20) -> None:
        """Wait until the last reply has some text and is being written."""
        wait_for(lambda: len(self.words(self.reply)) >= letters, "the reply has begun")

    def words(self, message: Locator) -> str:
        """The text of a message; not `inner_text`, which leaves out what has not been on the screen yet."""
        return str(message.locator(".body").evaluate("body => [...body.children].map(block => block.textContent.trim()).join('\\n\\n')"))

    def press(self, message: Locator, name: str) -> None:
        """One of the small buttons below a message."""
        message.hover()
        message.get_by_role("button", name=name, exact=True).click()

    def same(self, shown: str, stored: str) -> bool:
        """Whether a reply on the screen is the stored one; line breaks are drawn, not written."""
        return "".join(shown.split()) == "".join(stored.split())

    def row(self, title: str) -> Locator:
        """A conversation in the sidebar."""
        return self.sidebar.locator("li").filter(has_text=title)

    def press_row(self, title: str, name: str) -> None:
        self.row(title).hover()
        self.row(title).get_by_label(name, exact=True).click()

    def stored_reply(self) -> str:
        """The text of the last message as the server keeps it."""
        return self.server.text(self.server.conversation(self.id)["messages"][-1]["id"]).strip()


class NotebookScreen:
    """The notebook area."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.server = server
        self.text = page.get_by_role("textbox", name="Notebook text")
        self.generate = page.get_by_role("button", name="Generate", exact=True)
        self.stop = page.get_by_role("button", name="Stop", exact=True)
        self.undo = page.get_by_role("button", name=re.compile("^Undo"))
        self.redo = page.get_by_role("button", name="Redo")
        self.regenerate = page.get_by_role("button", name=re.compile("^Regenerate: take"))

    def open(self) -> NotebookScreen:
        self.page.goto(self.server.url)
        return self.show()

    def open_held(self) -> NotebookScreen:
        """Open it while the engine is held, which cannot count tokens then."""
        self.page.goto(self.server.url)
        open_area(self.page, "Notebook")
        expect(self.text).not_to_have_value("")
        return self

    def show(self) -> NotebookScreen:
        open_area(self.page, "Notebook")
        expect(self.text).to_be_visible()
        expect(self.page.locator(".notebook-bar .count")).not_to_be_empty()  # the text has come from the server
        return self

    def fill(self, text: str) -> None:
        self.text.fill(text)
        self.saved(text)

    def saved(self, text: str) -> None:
        wait_for(lambda: self.server.ask("GET", "ui/notebook")["text"] == text, "the notebook is saved")

    def done(self) -> str:
        expect(self.generate).to_be_visible()
        return self.text.input_value()


class ModelsScreen:
    """The models area."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.server = server
        self.rows = page.locator(".model-row")

    def open(self) -> ModelsScreen:
        self.page.goto(self.server.url)
        return self.show()

    def show(self) -> ModelsScreen:
        open_area(self.page, "Models")
        expect(self.rows.first).to_be_visible()
        return self

    def row(self, name: str) -> Locator:
        return self.page.locator(f'.model-row[data-name="{name}"]')

    def press(self, name: str, button: str) -> None:
        self.row(name).get_by_role("button", name=button, exact=True).click()

    def load(self, name: str) -> None:
        self.press(name, "Load")
        self.loaded(name)

    def loaded(self, name: str) -> None:
        expect(self.row(name).get_by_text("Loaded", exact=True)).to_be_visible(timeout=90_000)

    def adapter(self, name: str) -> Locator:
        return self.page.locator(".adapter").filter(has_text=name)


def open_area(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()
    expect(page.locator("body")).to_have_attribute("data-area", name.lower())
