"""Perplexity as a person measures it: choose, follow, compare, comment; all is there after a reload, and on a phone."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import open_area
from tests.e2e.test_access import FAINT, NAMELESS, OVERFLOWING
from tests.hub.hub_server import HubServer
from tests.paddock_server import STARTER, PaddockServer, wait_for
from tests.parquet_file import parquet_bytes

TEXT = "The fox found a red ball under the old tree. She took it home and gave it to her brother.\n" * 5
FAINT_HERE = FAINT.replace("#side *, #areas *, #drawer *, #settings-button *", "#perplexity *")


@pytest.fixture
def text(starter: PaddockServer) -> Iterator[Path]:
    path = starter.datasets_dir / "fox.txt"
    path.write_text(TEXT)
    yield path
    path.unlink()
    for row in starter.ask("GET", "ui/perplexity")["rows"]:
        starter.ask("DELETE", f"ui/perplexity/rows/{row['id']}")


@pytest.fixture
def wiki(hub: HubServer, starter: PaddockServer) -> Iterator[HubServer]:
    """A hub that has no data set yet, and afterwards a server without traces of one."""
    yield hub
    hub.repos.pop("datasets/Salesforce/wikitext", None)
    for job in starter.ask("GET", "ui/jobs")["jobs"]:
        starter.ask("DELETE", f"ui/jobs/{job['id']}")
    for row in starter.ask("GET", "ui/perplexity")["rows"]:
        starter.ask("DELETE", f"ui/perplexity/rows/{row['id']}")
    for name in ("wikitext-2-test", ".partial"):
        shutil.rmtree(starter.datasets_dir / name, ignore_errors=True)


def rows_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Measured perplexities").locator("tbody tr")


def measure(page: Page) -> None:
    page.get_by_role("button", name="Measure", exact=True).click()


def test_measured_compared_and_kept(page: Page, starter: PaddockServer, text: Path, watch: ConsoleWatch) -> None:
    watch.allow("status of 400")
    page.goto(starter.url)
    open_area(page, "Training")
    page.locator("#perplexity summary").first.click()
    form = page.get_by_role("region", name="What is measured")
    expect(form.get_by_role("checkbox", name=STARTER)).to_be_checked()  # it is loaded
    form.get_by_label("Text").select_option("fox.txt")
    form.get_by_label("Window").fill("5")
    measure(page)
    expect(form.get_by_role("alert")).to_contain_text("window must be at least 16 tokens")
    form.get_by_label("Window").fill("64")
    form.get_by_label("Stride").fill("32")
    measure(page)
    rows = rows_of(page)
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("fox.txt")

    form.get_by_text("Adapters", exact=True).click()
    form.get_by_role("checkbox", name="odd-words").check()
    form.get_by_label("Scale of odd-words").fill("0.5")
    measure(page)
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("odd-words × 0.5")
    measure(page)
    known = page.locator("#perplexity").get_by_role("status")
    expect(known).to_contain_text(f"{STARTER} was measured in this way already")
    expect(rows.first).to_have_class("fresh")
    known.get_by_role("button", name="Run again anyway").click()
    expect(rows).to_have_count(3)

    comment = rows.first.get_by_label(f"Comment on {STARTER}")
    comment.fill("before training")
    with page.expect_response(lambda response: response.url.endswith("/comment")):
        comment.press("Enter")
    page.get_by_role("button", name="Perplexity", exact=True).click()
    expect(page.get_by_role("columnheader", name="Perplexity")).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).not_to_contain_text("odd-words")  # it does worse with it

    page.reload()
    expect(rows).to_have_count(3)
    assert {row["comment"] for row in starter.ask("GET", "ui/perplexity")["rows"]} == {"before training", ""}
    expect(form.get_by_label("Window")).to_have_value("64")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    assert [row["Text"] for row in table] == ["fox.txt"] * 3

    assert page.evaluate(NAMELESS) == []
    page.set_viewport_size(PHONE)
    assert page.evaluate(OVERFLOWING) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("html")).to_have_css("color-scheme", scheme)
        wait_for(lambda: page.evaluate(FAINT_HERE) == [], f"every text can be read, {scheme}", 5)  # colours pass over into each other
    rows.first.get_by_role("button", name=f"Delete the row of {STARTER}").click()
    rows.first.get_by_role("button", name="Delete", exact=True).click()
    expect(rows).to_have_count(2)


def test_a_well_known_text_is_fetched_and_measured(page: Page, starter: PaddockServer, wiki: HubServer) -> None:
    page.goto(starter.url)
    open_area(page, "Training")
    page.locator("#perplexity summary").first.click()
    text = page.get_by_label("Text", exact=True)
    text.select_option(label="WikiText-2, test part")
    way = page.get_by_role("group", name="To be fetched")
    expect(way).to_contain_text("Articles of Wikipedia")
    expect(way).to_contain_text("CC BY-SA 3.0")
    measure(page)
    expect(page.locator("#perplexity").get_by_role("alert")).to_contain_text("This text is not here yet. Fetch it first")
    way.get_by_role("button", name="Fetch from the hub: WikiText-2, test part").click()
    expect(way.get_by_role("alert")).to_contain_text("There is no data set Salesforce/wikitext on 127.0.0.1")
    wiki.add("datasets/Salesforce/wikitext", {"wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet_bytes("text", ["", *TEXT.splitlines()])})
    way.get_by_role("button", name="Try again: WikiText-2, test part").click()
    expect(way).to_be_hidden()
    expect(text).to_have_value("wikitext-2-test")
    expect(page.get_by_role("radio", name="wikitext-2-test")).to_be_visible()  # training has it too
    measure(page)
    expect(rows_of(page).first).to_contain_text("wikitext-2-test")
    assert page.evaluate(NAMELESS) == []
