"""The models as a collection, in the browser: rename, note, verify, delete, restore, what is newer at the hub; on a large and on a small screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ModelsScreen
from tests.foreign_folders import COMMIT, hub_cache, ollama
from tests.hub.hub_server import HubServer
from tests.loaders.test_other_folders import everything
from tests.paddock_server import STARTER, PaddockServer, wait_for

OWN = "own-pony.gguf"
NAME = "meadow__shelf-GGUF/pony-Q8_0.gguf"


class LibraryScreen(ModelsScreen):
    """The models area with the menus of its rows."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        super().__init__(page, server)
        self.bin = page.get_by_role("region", name="Bin", exact=True)
        self.jobs = page.get_by_role("region", name="Verifications")

    def choose(self, name: str, verb: str) -> None:
        """One of the things in a row's menu."""
        self.row(name).locator(".more-menu > summary").click()
        self.row(name).get_by_role("button", name=verb, exact=True).click()

    def row(self, name: str) -> Locator:
        """A model's row, or an adapter's."""
        return self.page.locator(f':is(.model-row, .adapter)[data-name="{name}"]')

    def field(self, name: str) -> Locator:
        return self.row(name).locator(".model-form").locator("input, textarea")


@pytest.fixture
def shelf(hub: HubServer, starter: PaddockServer, models_dir: Path, starter_gguf: Path) -> Iterator[HubServer]:
    """A model of one's own and one from the hub; afterwards no trace of either."""
    gguf = starter_gguf.read_bytes()
    hub.add("meadow/shelf-GGUF", {"pony-Q8_0.gguf": gguf}, info={"tags": ["gguf", "license:mit"]})
    hub.faults.clear()
    shutil.copyfile(starter_gguf, models_dir / OWN)
    wanted = {"repo": "meadow/shelf-GGUF", "revision": "a" * 40, "files": ["pony-Q8_0.gguf"], "kind": "gguf"}
    job = starter.ask("POST", "ui/hub/download", wanted)
    wait_for(lambda: starter.ask("GET", f"ui/jobs/{job['id']}")["status"] == "done", "the download is done")
    yield hub
    for row in starter.ask("GET", "ui/jobs")["jobs"]:
        wait_for(lambda row=row: starter.ask("GET", f"ui/jobs/{row['id']}")["status"] not in ("queued", "running"), "the job has ended")
        starter.ask("DELETE", f"ui/jobs/{row['id']}")
    starter.load()
    for path in (*models_dir.glob("own-*.gguf"), *models_dir.glob("renamed*.gguf")):
        path.unlink()
    for folder in (".bin", ".partial", *(path.name for path in models_dir.glob("meadow__shelf-GGUF*"))):
        shutil.rmtree(models_dir / folder, ignore_errors=True)


@pytest.fixture
def spare_adapter(loras_dir: Path) -> Iterator[str]:
    """A second adapter; afterwards no trace of it."""
    shutil.copytree(loras_dir / "odd-words", loras_dir / "own-words")
    yield "own-words"
    for path in (*loras_dir.glob("own-*"), *loras_dir.glob("renamed*"), loras_dir / ".bin"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def library(page: Page, starter: PaddockServer) -> LibraryScreen:
    return LibraryScreen(page, starter)


@pytest.mark.usefixtures("shelf")
def test_rename_and_note(library: LibraryScreen, page: Page, watch: ConsoleWatch, models_dir: Path) -> None:
    watch.allow("status of 40")
    library.open()
    expect(library.row(NAME)).to_contain_text("From meadow/shelf-GGUF at aaaaaaaaaaaa, downloaded 20")
    expect(library.row(NAME).locator(".facts")).to_contain_text("licence mit")
    expect(library.row(STARTER).locator(".facts")).to_contain_text(re.compile(r"last used 20\d\d-"))
    library.choose(OWN, "Note")
    library.field(OWN).fill("Fast, <b>small</b>\nand mine.")
    library.row(OWN).get_by_role("button", name="Keep").click()
    expect(library.row(OWN).locator(".model-note.own")).to_have_text("Fast, <b>small</b>\nand mine.")

    library.choose(OWN, "Rename")
    expect(library.field(OWN)).to_have_value(OWN)
    expect(library.field(OWN)).to_be_focused()
    library.field(OWN).fill("../evil")
    library.field(OWN).press("Enter")
    expect(library.row(OWN).get_by_role("alert").filter(visible=True)).to_contain_text("cannot be a name")
    expect(library.field(OWN)).to_have_value("../evil")
    library.field(OWN).fill("broken.gguf")
    library.field(OWN).press("Enter")
    expect(library.row(OWN).get_by_role("alert").filter(visible=True)).to_contain_text("There is “broken.gguf” already")
    library.field(OWN).fill("renamed pony")
    library.field(OWN).press("Enter")
    expect(library.row("renamed pony.gguf").locator(".model-note.own")).to_contain_text("and mine.")
    expect(library.row(OWN)).to_have_count(0)
    assert (models_dir / "renamed pony.gguf").is_file()
    page.reload()
    expect(library.row("renamed pony.gguf").locator(".model-note.own")).to_contain_text("and mine.")
    library.choose("renamed pony.gguf", "Note")
    library.field("renamed pony.gguf").fill("")
    library.row("renamed pony.gguf").get_by_role("button", name="Keep").click()
    expect(library.row("renamed pony.gguf").locator(".model-note.own")).to_have_count(0)


@pytest.mark.usefixtures("shelf")
def test_the_menu_works_with_the_keyboard(library: LibraryScreen, page: Page) -> None:
    summary = library.open().row(OWN).locator(".more-menu > summary")
    expect(library.row(NAME)).to_contain_text("From meadow/shelf-GGUF")  # all that is known has come
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(library.row(OWN).get_by_role("button", name="Rename", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(summary).to_be_focused()
    expect(library.row(OWN).get_by_role("button", name="Rename", exact=True)).to_be_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(library.field(OWN)).to_be_focused()
    page.keyboard.press("Escape")
    expect(library.field(OWN)).to_have_count(0)
    expect(library.row(OWN).locator(".more-menu > summary")).to_be_focused()
    expect(library.row(OWN).get_by_role("button", name="Check for an update")).to_have_count(0)  # nobody knows where it came from


@pytest.mark.usefixtures("shelf")
def test_verify_says_what_is_damaged(library: LibraryScreen, models_dir: Path, starter: PaddockServer) -> None:
    library.open().choose(NAME, "Verify")
    expect(library.row(NAME).locator(".facts")).to_contain_text(re.compile(r"verified 20\d\d-\d\d-\d\d"))
    expect(library.jobs).to_be_hidden()
    library.choose(OWN, "Verify")
    expect(library.row(OWN).locator(".facts")).to_contain_text("hashes kept 20")
    library.choose(OWN, "Verify")
    expect(library.row(OWN).locator(".facts")).to_contain_text("unchanged since 20")
    data = (models_dir / NAME).read_bytes()
    (models_dir / NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    library.page.get_by_role("button", name="Refresh").click()
    expect(library.row(NAME).locator(".facts")).to_contain_text(re.compile(r"changed since 20\d\d-"))
    library.choose(NAME, "Verify")
    expect(library.row(NAME)).to_contain_text(f"Damaged: {NAME}. Delete it, then download it again.")
    library.page.reload()
    expect(library.row(NAME)).to_contain_text(f"Damaged: {NAME}. Delete it, then download it again.")


@pytest.mark.usefixtures("shelf")
def test_delete_and_restore(library: LibraryScreen, watch: ConsoleWatch, models_dir: Path) -> None:
    watch.allow("status of 40")
    library.open().choose(STARTER, "Delete")
    library.row(STARTER).get_by_role("button", name="Delete", exact=True).click()
    expect(library.row(STARTER).get_by_role("alert")).to_contain_text("is loaded; unload it, then delete it")

    library.choose(NAME, "Delete")
    library.row(NAME).get_by_role("button", name="Cancel").click()
    library.choose(NAME, "Delete")
    expect(library.row(NAME)).to_contain_text(f"Put {NAME} into the bin?")
    library.row(NAME).get_by_role("button", name="Delete", exact=True).click()
    expect(library.row(NAME)).to_have_count(0)
    expect(library.bin).to_contain_text(NAME)
    expect(library.bin).to_contain_text("30 days left")
    assert not (models_dir / "meadow__shelf-GGUF").exists()
    library.page.reload()
    library.bin.get_by_role("button", name=f"Restore {NAME}").click()
    expect(library.row(NAME)).to_contain_text("From meadow/shelf-GGUF")
    expect(library.bin).to_be_hidden()

    library.choose(OWN, "Delete")
    library.row(OWN).get_by_role("button", name="Delete", exact=True).click()
    library.bin.get_by_role("button", name=f"Delete {OWN} for good").click()
    library.bin.get_by_role("button", name="Delete for good", exact=True).click()
    expect(library.bin).to_be_hidden()
    assert list((models_dir / ".bin").iterdir()) == []


def test_an_update_is_kept_beside_the_old_version(library: LibraryScreen, shelf: HubServer, starter_gguf: Path) -> None:
    library.open().choose(NAME, "Check for an update")
    expect(library.row(NAME)).to_contain_text("This is the newest version.")
    library.row(NAME).get_by_role("button", name="Dismiss").click()
    shelf.add("meadow/shelf-GGUF", {"pony-Q8_0.gguf": starter_gguf.read_bytes() + b"\0"}, commit="b" * 40)
    library.choose(NAME, "Check for an update")
    expect(library.row(NAME)).to_contain_text("meadow/shelf-GGUF has a newer commit, bbbbbbbbbbbb: these files changed: pony-Q8_0.gguf.")
    library.row(NAME).get_by_role("button", name="Download beside this one").click()
    expect(library.row(f"meadow__shelf-GGUF-{'b' * 12}/pony-Q8_0.gguf")).to_contain_text("at bbbbbbbbbbbb")
    expect(library.row(NAME)).to_contain_text("at aaaaaaaaaaaa")


def test_a_hub_that_is_away_is_a_sentence(library: LibraryScreen, watch: ConsoleWatch, shelf: HubServer) -> None:
    watch.allow("status of 40|status of 50")
    shelf.repos.pop("meadow/shelf-GGUF")
    library.open().choose(NAME, "Check for an update")
    expect(library.row(NAME).get_by_role("alert")).to_contain_text("meadow/shelf-GGUF")


@pytest.mark.usefixtures("shelf")
def test_on_a_phone(new_context: Callable[..., BrowserContext], starter: PaddockServer) -> None:
    page = new_context(viewport=PHONE, is_mobile=True, has_touch=True).new_page()
    library = LibraryScreen(page, starter)
    library.open()
    for name in (NAME, "broken.gguf"):
        library.row(name).locator(".more-menu > summary").tap()
        menu = library.row(name).locator(".menu")
        expect(menu.get_by_role("button", name="Delete", exact=True)).to_be_visible()
        box = menu.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        library.row(name).locator(".more-menu > summary").tap()
    library.row(NAME).locator(".more-menu > summary").tap()
    library.row(NAME).get_by_role("button", name="Note", exact=True).tap()
    library.field(NAME).fill("word" * 100)
    library.row(NAME).get_by_role("button", name="Keep").tap()
    expect(library.row(NAME).locator(".model-note.own")).to_contain_text("wordword")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    library.row(NAME).locator(".more-menu > summary").tap()
    library.row(NAME).get_by_role("button", name="Delete", exact=True).tap()
    library.row(NAME).get_by_role("button", name="Delete", exact=True).tap()
    library.bin.get_by_role("button", name=f"Restore {NAME}").tap()
    expect(library.row(NAME).locator(".model-note.own")).to_contain_text("wordword")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_an_adapter_has_the_same_menu_as_a_model(library: LibraryScreen, page: Page, watch: ConsoleWatch, loras_dir: Path, spare_adapter: str) -> None:
    watch.allow("status of 40")
    library.open().choose(spare_adapter, "Note")
    library.field(spare_adapter).fill("Answers in odd words.")
    library.row(spare_adapter).get_by_role("button", name="Keep").click()
    expect(library.row(spare_adapter).locator(".model-note.own")).to_have_text("Answers in odd words.")
    library.row(spare_adapter).locator(".more-menu > summary").click()
    expect(library.row(spare_adapter).get_by_role("button", name="Pin", exact=True)).to_have_count(0)
    page.keyboard.press("Escape")
    for found in ("hashes kept 20", "unchanged since 20"):
        library.choose(spare_adapter, "Verify")
        expect(library.row(spare_adapter)).to_contain_text(found)

    library.choose(spare_adapter, "Rename")
    library.field(spare_adapter).fill("odd-words")
    library.field(spare_adapter).press("Enter")
    expect(library.row(spare_adapter).get_by_role("alert").filter(visible=True)).to_contain_text("There is “odd-words” already")
    library.field(spare_adapter).fill("renamed words")
    library.field(spare_adapter).press("Enter")
    expect(library.row("renamed words").locator(".model-note.own")).to_have_text("Answers in odd words.")
    expect(library.row("renamed words")).to_contain_text("unchanged since 20")
    assert (loras_dir / "renamed words").is_dir()

    library.choose("renamed words", "Delete")
    library.row("renamed words").get_by_role("button", name="Delete", exact=True).click()
    bin_ = page.get_by_role("region", name="Bin of adapters")
    expect(bin_).to_contain_text("renamed words")
    expect(library.row("renamed words")).to_have_count(0)
    page.reload()
    bin_.get_by_role("button", name="Restore renamed words").click()
    expect(library.row("renamed words").locator(".model-note.own")).to_have_text("Answers in odd words.")
    expect(bin_).to_be_hidden()


def test_models_of_another_program_are_used_where_they_lie(
    library: LibraryScreen, page: Page, starter: PaddockServer, watch: ConsoleWatch, starter_gguf: Path, tmp_path: Path
) -> None:
    watch.allow("status of 40")
    cache = tmp_path / "hub"
    snapshot = hub_cache(cache, "meadow/pony", {"pony.gguf": starter_gguf, "cut.gguf": starter_gguf.read_bytes()[:9000]})
    before = everything(cache)
    name = f"hf:meadow/pony@{COMMIT[:12]}/pony.gguf"
    folders = library.open().page.get_by_role("region", name="Models of other programs")
    field = folders.get_by_role("textbox", name="Path of a folder with models")
    try:
        field.fill("no/path")
        folders.get_by_role("button", name="Add folder").click()
        expect(folders.get_by_role("alert")).to_contain_text("is not a whole path")
        expect(field).to_have_value("no/path")
        field.fill(str(tmp_path))  # the folder of the program; its models lie one further in
        field.press("Enter")
        expect(folders).to_contain_text(f"Hugging Face cache — {cache}")
        expect(library.row(name)).to_contain_text("Hugging Face cache · read only")
        expect(library.row(name.replace("pony.gguf", "cut.gguf"))).to_contain_text("Cannot be loaded")

        library.row(name).locator(".more-menu > summary").click()
        expect(library.row(name).locator(".menu")).to_contain_text("only read here; rename or delete it there")
        for verb in ("Rename", "Delete"):
            expect(library.row(name).get_by_role("button", name=verb, exact=True)).to_have_count(0)
        page.keyboard.press("Escape")
        library.choose(name, "Open folder")  # no desktop here
        expect(library.row(name).locator(".model-news")).to_contain_text(f"It lies in {snapshot}")
        library.row(name).get_by_role("button", name="Copy").click()
        assert page.evaluate("navigator.clipboard.readText()") == str(snapshot)
        library.row(name).get_by_role("button", name="Dismiss").click()
        library.load(name)
        assert starter.ask("POST", "v1/completions", {"model": name, "prompt": "Once", "max_tokens": 2})["model"] == name
        library.load(STARTER)
        assert everything(cache) == before
    finally:
        page.reload()
        library.show()
        folders.get_by_role("button", name=f"Remove: {cache}").click()
        folders.get_by_role("button", name="Remove", exact=True).click()
    expect(library.row(name)).to_have_count(0)


def test_a_folder_that_was_found_is_used_with_one_click(library: LibraryScreen, page: Page, starter: PaddockServer, starter_gguf: Path, tmp_path: Path) -> None:
    """What the server found in its own home is changed on the way: that home is not the test's."""
    ollama(tmp_path / "models", "pony:1b", starter_gguf)
    place = str(tmp_path / "models")

    def find(route: Route) -> None:
        rows = [row for row in route.fetch().json()["rows"] if row["tag"]]
        route.fulfill(json={"rows": rows or [{"tag": "", "title": "Ollama", "path": place, "is_setting": False, "problem": ""}]})

    page.route("**/ui/model-folders", find)
    folders = library.open().page.get_by_role("region", name="Models of other programs")
    expect(folders).to_contain_text("found on this machine, not in use")
    folders.get_by_role("button", name=f"Use its models: {place}").click()
    expect(library.row("ollama:pony:1b")).to_contain_text("Ollama · read only")
    expect(folders).to_contain_text("names begin with ollama:")
    folders.get_by_role("button", name=f"Remove: {place}").click()
    folders.get_by_role("button", name="Remove", exact=True).click()
    expect(library.row("ollama:pony:1b")).to_have_count(0)
    assert not [row for row in starter.ask("GET", "ui/model-folders")["rows"] if row["tag"]]


def test_doubts_about_a_template_stand_in_the_row_and_beside_the_message(
    library: LibraryScreen, page: Page, starter: PaddockServer, models_dir: Path, starter_gguf: Path
) -> None:
    begun = b"'<|im_start|>assistant\\n' }}{% endif"
    (models_dir / "own-odd.gguf").write_bytes(starter_gguf.read_bytes().replace(begun, begun.replace(b"assistant", b"secretary")))
    chip = page.locator(".model-chip")
    try:
        library.open().load("own-odd.gguf")
        count = re.compile(r"Template: \d doubt")  # on a machine so busy that a rendering took 2 s that is one more
        expect(library.row("own-odd.gguf")).to_contain_text(count)
        badge = library.row("own-odd.gguf").get_by_text(count)
        doubt = library.row("own-odd.gguf").locator(".doubts li").filter(has_text="begins a reply with “<|im_start|>secretary”")
        expect(doubt).to_be_hidden()
        badge.click()
        expect(doubt).to_be_visible()
        library.choose("own-odd.gguf", "Note")
        library.field("own-odd.gguf").fill("Odd.")
        library.row("own-odd.gguf").get_by_role("button", name="Keep").click()
        expect(library.row("own-odd.gguf").locator(".model-note.own")).to_have_text("Odd.")
        expect(doubt).to_be_visible()  # in a row that was drawn anew
        page.get_by_role("tab", name="Chat", exact=True).first.click()
        expect(chip).to_contain_text(count)
        expect(chip).to_have_attribute("title", re.compile("begins a reply with"))
        wide = page.viewport_size
        assert wide is not None
        page.set_viewport_size({"width": 390, "height": 844})
        tokens, send = page.locator(".composer-row > .count"), page.locator(".composer-row > .send-button")
        expect(tokens).to_have_text(re.compile(r"\d+ / [\d,]+ tokens"))
        edges = [place.evaluate(f"one => one.getBoundingClientRect().{side}") for place in (chip, tokens, send) for side in ("left", "right")]
        assert edges == sorted(edges)  # side by side
        assert tokens.evaluate("one => one.scrollWidth <= one.clientWidth")  # not cut
        page.set_viewport_size(wide)
        library.show().load(STARTER)
        expect(library.row(STARTER)).to_contain_text("Template fits")
        expect(badge).to_be_visible()  # also when it is not loaded
        expect(chip).not_to_contain_text("doubt")
    finally:
        starter.load()
        (models_dir / "own-odd.gguf").unlink()


def test_what_was_found_of_the_template_in_force_stands_in_the_row_and_beside_the_message(library: LibraryScreen, page: Page) -> None:
    """The server of these tests examines nothing in idle time: its findings are put in on the way."""
    found = {"name": "ChatML", "doubts": [], "notes": ["It did not end its reply."], "reply_ended": False}

    def examined(route: Route) -> None:
        told = route.fetch().json()
        route.fulfill(json={**told, "loaded": [{**card, "template_check": found} for card in told["loaded"]]})

    page.route("**/ui/models", examined)
    badge = library.open().row(STARTER).get_by_text("“ChatML”: the reply did not end")
    badge.click()
    expect(library.row(STARTER).get_by_text("It did not end its reply.")).to_be_visible()
    page.get_by_role("tab", name="Chat", exact=True).first.click()
    expect(page.locator(".model-chip .badge.amber")).to_have_text("“ChatML”: the reply did not end")
