"""Another server's model from the first look to a reply: the empty state, a test, adding, loading, the mark, a chat, removing."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen, open_area
from tests.paddock_server import STARTER, PaddockServer, wait_for

KEY = "sk-canary-9012"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, loras_dir: Path) -> Iterator[PaddockServer]:
    """A second Paddock without a page, whose models are used from the first."""
    models_dir = tmp_path_factory.mktemp("other-models")
    shutil.copytree(starter_dir, models_dir / "starter")
    running = PaddockServer(tmp_path_factory.mktemp("other"), models_dir, loras_dir, "--no-ui")
    yield running
    running.close()


@pytest.fixture(autouse=True)
def as_before(starter: PaddockServer) -> Iterator[None]:
    """No server is kept after a test, and the starter model answers again."""
    yield
    for row in starter.ask("GET", "ui/remote")["servers"]:
        starter.ask("POST", "ui/remote/remove", {"name": row["name"]})
    starter.load()


@contextlib.contextmanager
def hung(server: PaddockServer) -> Iterator[None]:
    """The server takes connections and says nothing meanwhile."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


class Servers:
    """The part of the models area about other servers."""

    def __init__(self, page: Page) -> None:
        self.section = page.get_by_role("region", name="Other servers")
        self.name = self.section.get_by_label("Name", exact=True)
        self.urls = self.section.get_by_label("Addresses, one a line")
        self.key = self.section.get_by_label("Key")
        self.problem = self.section.get_by_role("alert")

    def press(self, name: str) -> None:
        self.section.get_by_role("button", name=name, exact=True).click()

    def fill(self, urls: str, name: str = "other", key: str = "") -> None:
        if not self.name.is_visible():
            self.section.get_by_text("Add a server", exact=True).click()
        self.name.fill(name)
        self.urls.fill(urls)
        self.key.fill(key)


def test_from_an_address_to_a_reply(page: Page, starter: PaddockServer, other: PaddockServer, watch: ConsoleWatch) -> None:
    watch.allow("400")
    models = ModelsScreen(page, starter).open()
    servers = Servers(page)
    expect(servers.section.get_by_text("No server is added yet. Add one by its address")).to_be_visible()
    servers.fill("gpu-box")
    servers.press("Test connection")
    expect(servers.problem).to_contain_text("give it like http://192.168.0.10:8000")
    servers.fill(f"{other.url}v1\nhttp://127.0.0.1:9", key=KEY)
    servers.press("Test connection")
    expect(servers.problem).to_be_hidden()
    lines = servers.section.locator(".remote-form .remote-address")
    expect(lines.nth(0)).to_contain_text(re.compile(r"answers · Paddock · 2 models · \d+ ms"))
    expect(lines.nth(1)).to_contain_text("does not answer · it cannot be reached")
    servers.press("Add")
    row = models.row("other")
    expect(row.get_by_text("Remote · another program here")).to_be_visible()
    expect(row.get_by_text("Key kept")).to_be_visible()
    expect(page.locator("body")).not_to_contain_text(KEY)
    expect(servers.key).to_have_value("")
    servers.press(f"Load {STARTER} of other")
    name = f"remote/other/{STARTER}"
    models.loaded(name)
    expect(models.row(name).get_by_text("Remote · another program here")).to_be_visible()
    expect(models.row(name).get_by_text("What you send goes to another program on this machine")).to_be_visible()

    open_area(page, "Notebook")
    expect(NotebookScreen(page, starter).text).to_be_visible()
    expect(page.get_by_role("tabpanel").get_by_text("Remote · another program here")).to_be_visible()
    open_area(page, "Chat")
    chat = ChatScreen(page, starter)
    chat.ready()
    expect(page.get_by_text(f"What you send goes to another program here, localhost:{other.port}, 127.0.0.1:9.")).to_be_visible()
    before = other.counters()["decode_tokens"]
    assert "LoRA" in chat.say("What is a LoRA?")
    expect(chat.reply).to_contain_text("starter-Q8_0 at other")
    assert other.counters()["decode_tokens"] > before

    models.show()
    models.press(STARTER, "Use")
    wait_for(lambda: starter.loaded() == STARTER, "the model of this machine answers again")
    expect(models.row(name).get_by_role("button", name="Use")).to_be_visible()
    models.press("other", "Remove other")
    row.get_by_role("group", name="Remove other and its key?").get_by_role("button", name="Remove", exact=True).click()
    expect(models.row("other")).to_have_count(0)
    expect(models.row(name)).to_have_count(0)
    assert starter.ask("GET", "health")["loaded"] == [STARTER]


def test_parameters_that_a_server_does_not_take_are_grey_and_say_why(page: Page, starter: PaddockServer, other: PaddockServer) -> None:
    starter.ask("POST", "ui/remote/add", {"name": "other", "urls": [other.url], "kind": "openai"})
    starter.load(f"remote/other/{STARTER}")
    ChatScreen(page, starter).open(starter.make_conversation((("user", "Hello"),)))
    page.get_by_role("button", name="Settings", exact=True).click()
    drawer = page.locator("#drawer")
    expect(drawer.get_by_text("OpenAI-compatible does not take this. Grey:")).to_contain_text("Top k")
    refused, taken = drawer.locator(".field-top_k"), drawer.locator(".field-temperature")
    expect(refused).to_have_attribute("title", "OpenAI-compatible does not take this.")
    is_inert = "block => [...block.children].every((part) => part.inert)"
    assert refused.evaluate(is_inert)
    assert float(refused.evaluate("block => getComputedStyle(block).opacity")) < 1
    assert not taken.evaluate(is_inert)
    head = drawer.get_by_role("button", name="Mirostat")
    head.click()
    expect(head.locator("+ div")).to_have_js_property("inert", False)
    later = drawer.locator(".field-mirostat_tau")
    later.get_by_role("spinbutton").focus()
    expect(later.get_by_role("spinbutton")).not_to_be_focused()
    assert later.evaluate(is_inert), "a group that is opened later is as grey"
    starter.load()
    expect(refused).to_have_attribute("title", re.compile("^Differs from neutral"))  # and nothing else
    assert not refused.evaluate(is_inert)
    expect(drawer.get_by_text("OpenAI-compatible does not take this.")).to_be_hidden()


def test_an_address_is_seen_to_come_and_go(page: Page, starter: PaddockServer, other: PaddockServer) -> None:
    starter.ask("POST", "ui/remote/add", {"name": "other", "urls": [other.url]})
    models = ModelsScreen(page, starter).open()
    line = models.row("other").locator(".remote-address")
    expect(line).to_have_attribute("data-state", "up")
    with hung(other):
        expect(line).to_have_attribute("data-state", "down")
        expect(line).to_contain_text("nothing came in time")
    expect(line).to_have_attribute("data-state", "up")


def test_on_a_phone(new_context: Callable[..., BrowserContext], starter: PaddockServer, other: PaddockServer) -> None:
    page = new_context(viewport=PHONE, has_touch=True, is_mobile=True).new_page()
    models = ModelsScreen(page, starter).open()
    servers = Servers(page)
    servers.fill(other.url)
    servers.press("Add")
    servers.press(f"Load {STARTER} of other")
    models.loaded(f"remote/other/{STARTER}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    open_area(page, "Chat")
    chat = ChatScreen(page, starter)
    chat.ready()
    expect(page.locator(".model-chip")).to_contain_text("another program here")
    assert "LoRA" in chat.say("What is a LoRA?")
