"""The page in a real browser against a real server: one of each for all tests, a fresh or emptied browser profile for every test.

Every test also fails when the page asked anything of another machine, or wrote an error to its console; the last one when the server did. What a failed test saw lies in
`artifacts/` (never committed): a screenshot, the console, the server's log.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.e2e.adapter_files import write_adapter, write_broken_model
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen
from tests.hub.hub_server import HubServer
from tests.measured_machine import write_measured
from tests.paddock_server import ROOT, PaddockServer
from tests.security.network_log import NetworkLog

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
TIMEOUT_MS = 30_000
WINDOW = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
OPTIONAL_MODELS = ("tinytalk3m-chat-f16.gguf", "stories260K")
STORED = "cookies,file_systems,indexeddb,local_storage,service_workers"  # all but the cache
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: the browser's driver keeps an event loop running, which asyncio tests cannot share."""
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    for item in mine:
        item.add_marker("e2e")
    items[:] = [item for item in items if not item.path.is_relative_to(HERE)] + mine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember failures for the screenshot."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path) -> Path:
    """Copies of the starter model, of the optional models if they are here, and one broken file."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(starter_dir, folder / "starter")
    write_broken_model(folder / "broken.gguf", starter_dir / "starter-Q8_0.gguf")
    optional = ROOT.parent / "shared" / "testdata" / "models"
    for name in OPTIONAL_MODELS:
        if (optional / name).is_dir():
            shutil.copytree(optional / name, folder / name, copy_function=shutil.copyfile)
        elif (optional / name).is_file():
            shutil.copyfile(optional / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def loras_dir(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_adapter(folder / "odd-words", starter_dir)
    return folder


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """A model hub on this machine."""
    running = HubServer().start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, loras_dir: Path, hub: HubServer) -> Iterator[PaddockServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "state").mkdir(mode=0o700)
    write_measured(folder / "state")
    network = NetworkLog(folder / "watch")
    running = PaddockServer(folder, models_dir, loras_dir, "--hub-endpoint", hub.endpoint, environ=network.environ)
    running.ask("PATCH", "ui/chat-preferences", {"begin_as_last": False, "title_from_exchange": False})  # no test begins with what another one chose
    yield running
    running.close()
    assert network.foreign() == [], "the server or a child of it spoke to another machine"


@pytest.fixture(scope="session")
def browser(chromium_path: str) -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_profile(browser: Browser, server: PaddockServer, **options: object) -> BrowserContext:
    """A fresh browser profile."""
    context = browser.new_context(**{"viewport": WINDOW, "locale": "en-US", "color_scheme": "light", **options})  # type: ignore[arg-type]
    context.set_default_timeout(TIMEOUT_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    return context


class KeptProfile:
    """The profile of most tests, emptied after each. Its first window stays open and its cache filled: anew, both cost more than the page itself.

    A driver's clock is no use in it: nothing takes it off again, and all tests that follow would live in its time.
    """

    def __init__(self, browser: Browser, server: PaddockServer) -> None:
        self.context = open_profile(browser, server)
        self._origin = server.url.rstrip("/")
        self._devtools = self.context.new_cdp_session(self.context.new_page())

    def empty(self) -> None:
        """Close the pages of a test and forget what they stored."""
        for page in self.context.pages[1:]:
            page.close()
        self.context.unroute_all()
        self.context.set_offline(False)
        self.context.clear_cookies()
        self._devtools.send("Storage.clearDataForOrigin", {"origin": self._origin, "storageTypes": STORED})


@pytest.fixture(scope="session")
def kept_profile(browser: Browser, server: PaddockServer) -> KeptProfile:
    return KeptProfile(browser, server)


@pytest.fixture
def starter(server: PaddockServer) -> PaddockServer:
    """The server with the starter model loaded, whatever the test before did."""
    server.load()
    return server


@pytest.fixture
def hurry(starter: PaddockServer) -> Iterator[Callable[[], None]]:
    """Replies take seconds instead of an instant, until this is called."""
    with starter.slowed() as hurry:
        yield hurry


@pytest.fixture
def unhurried(hurry: Callable[[], None]) -> None:
    """Replies take seconds instead of an instant."""


@pytest.fixture
def watch(server: PaddockServer) -> ConsoleWatch:
    """What must not happen; a test about errors allows those it causes."""
    return ConsoleWatch(f"localhost:{server.port}")


@pytest.fixture
def new_context(
    browser: Browser, server: PaddockServer, watch: ConsoleWatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser profiles; at the end of the test all must have been quiet."""
    made: list[BrowserContext] = []

    def make(**options: object) -> BrowserContext:
        made.append(open_profile(browser, server, **options))
        watch.follow(made[-1])
        return made[-1]

    yield make
    complaints = watch.unexpected()
    if request.node.stash.get(FAILED, False) or complaints:
        save_artifacts(request.node.name, [page for context in made for page in context.pages], server, complaints)
    for context in made:
        context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def context(kept_profile: KeptProfile, server: PaddockServer, watch: ConsoleWatch, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """The profile of most tests; it must have been quiet too."""
    watch.follow(kept_profile.context)
    yield kept_profile.context
    complaints = watch.unexpected()
    if request.node.stash.get(FAILED, False) or complaints:
        save_artifacts(request.node.name, kept_profile.context.pages[1:], server, complaints)
    watch.leave(kept_profile.context)
    kept_profile.empty()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def chat(page: Page, starter: PaddockServer) -> ChatScreen:
    return ChatScreen(page, starter)


@pytest.fixture
def notebook(page: Page, starter: PaddockServer) -> NotebookScreen:
    starter.ask("PUT", "ui/notebook", {"text": "", "rev": None})
    starter.ask("PUT", "ui/notebook/settings", {})
    return NotebookScreen(page, starter)


@pytest.fixture
def models(page: Page, starter: PaddockServer) -> ModelsScreen:
    return ModelsScreen(page, starter)


def save_artifacts(name: str, pages: list[Page], server: PaddockServer, complaints: list[str]) -> None:
    """What a failed test saw."""
    folder = ARTIFACTS / re.sub(r"[^\w.-]+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(pages):
        page.screenshot(path=folder / f"page-{number}.png", timeout=5000)
    (folder / "complaints.txt").write_text("\n".join(complaints), encoding="utf-8")
    shutil.copyfile(server.log_path, folder / "server.log")
