"""Data sets of the hub through the services: well-known texts fetched, interrupted, measured; files that people name; what is refused and why."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.core.errors import Conflict, HubError, InvalidRequest, NotFound
from modules.core.job import JobSnapshot
from modules.core.settings import Settings
from modules.hub.inventory import damaged_files, installed
from modules.services.app import App, build_app
from modules.services.dataset_fetching import TextRow
from modules.services.perplexity_texts import PerplexityTexts, TextChoice
from tests.hub.hub_server import HubServer
from tests.parquet_file import parquet_bytes
from tests.services.conftest import FOLDERS
from tests.services.reply_steps import ANN

pytestmark = pytest.mark.processes

ROWS = ["", " = Fox = \n", "", " The fox found a red ball under the old tree .\n", " She took it home and gave it to her brother .\n"] * 3
STORY = "Once there was a fox.\r\n<|endoftext|>\r\nOnce there was a ball.\r\n"
WIKI, PTB = "Salesforce/wikitext", "ptb-text-only/ptb_text_only"


@dataclass
class Desk:
    """The services of one server over a hub of the test's own."""

    hub: HubServer
    app: App

    @property
    def datasets(self) -> Path:
        return self.app.settings.datasets_dir

    async def row(self, text_id: str) -> TextRow:
        return next(row for row in await self.app.dataset_fetching.texts(ANN) if row.text.id == text_id)

    async def ended(self, job: JobSnapshot) -> JobSnapshot:
        async with asyncio.timeout(30):
            async for snapshot in self.app.jobs.watch(ANN, job.id):
                job = snapshot
        return job


@pytest.fixture
def hub() -> Iterator[HubServer]:
    running = HubServer().start()
    running.add(f"datasets/{WIKI}", {"README.md": b"# Wiki", "wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet_bytes("text", ROWS)}, info={"tags": ["license:cc-by-sa-3.0"]})
    long = random.Random(3).randbytes(150_000).hex()
    files = {f"penn_treebank/{part}/0000.parquet": parquet_bytes("sentence", rows) for part, rows in (("validation", ["no it was n't", "a <unk> N"]), ("test", [long, "end"]))}
    running.add(f"datasets/{PTB}", files, branches=("refs/convert/parquet",))
    running.add("datasets/roneneldan/TinyStories", {"TinyStories-valid.txt": STORY.encode()})
    running.add("datasets/me/talks", {"README.md": b"# Talks", "one/0.jsonl": b'{"text": "One."}\n', "two/0.jsonl": b'{"text": "Two."}\n', "two/run.py": b"print()", "dataset_infos.json": b"{}"}, branches=("main", "refs/convert/parquet"))
    running.add("datasets/me/single", {"data/all.csv": b"text\nHello\n", "notes.md": b"notes"})
    running.add("me/model", {"a.jsonl": b"{}"})
    yield running
    running.stop()


@pytest.fixture
async def desk(hub: HubServer, tmp_path: Path, starter_gguf: Path) -> AsyncIterator[Desk]:
    folders = {name: tmp_path / name for name in (*FOLDERS, "datasets_dir", "models_dir")}
    app = build_app(Settings(model="none", hub_endpoint=hub.endpoint, **folders))
    shutil.copy(starter_gguf, folders["models_dir"] / "starter.gguf")
    await app.start()
    yield Desk(hub, app)
    await app.close()


def other(desk: Desk, **changes: object) -> App:
    """Services with other settings over the same folders; they start nothing."""
    return build_app(desk.app.settings.model_copy(update=changes))


# ---- well-known texts


async def test_fetched_then_measured(desk: Desk) -> None:
    """From a click to a number: the text is all rows as they stand, empty ones too, and training has it as a data set."""
    rows = await desk.app.dataset_fetching.texts(ANN)
    assert [(row.name, row.job) for row in rows] == [("", None)] * len(rows)
    assert desk.hub.seen == [], "nothing is asked of the hub before somebody asks"
    done = await desk.ended(await desk.app.dataset_fetching.fetch_text(ANN, "wikitext-2-test"))
    assert (done.status, done.title) == ("done", f"Download {WIKI}"), done.error
    row = await desk.row("wikitext-2-test")
    assert (row.name, row.job) == ("wikitext-2-test", None)
    item = installed(desk.datasets)[0]
    assert (item.provenance.repo, item.provenance.licence, list(damaged_files(item))) == (WIKI, "cc-by-sa-3.0", [])
    assert [(known.name, known.format, known.problem) for known in await desk.app.datasets.rows()] == [("wikitext-2-test", "text", "")]
    with pytest.raises(Conflict, match="is there already, as the data set “wikitext-2-test”"):
        await desk.app.dataset_fetching.fetch_text(ANN, "wikitext-2-test")

    begun = await desk.app.perplexity.begin(ANN, {"models": ["starter.gguf"], "text": {"name": row.name}, "window": 64, "stride": 32})
    assert (await desk.ended(begun.jobs[0])).status == "done"
    measured = (await desk.app.perplexity.standing(ANN)).rows[0]
    assert (measured.text, measured.bytes) == ("wikitext-2-test", len("\n\n".join(ROWS)))
    assert measured.perplexity > 1


async def test_rows_become_the_text_that_others_measure_and_a_name_that_is_taken_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    texts = PerplexityTexts(tmp_path / "texts", desk.app.datasets)
    mine = desk.datasets / "ptb-validation" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("My own.")
    wanted = (("ptb-validation", "ptb-validation-2", "no it was n't\n\na <unk> N"), ("tinystories-valid", "tinystories-valid", STORY.replace("\r\n", "\n")))
    jobs = [await desk.app.dataset_fetching.fetch_text(ANN, text_id) for text_id, _, _ in wanted]
    assert [(await desk.ended(job)).status for job in jobs] == ["done", "done"]
    for text_id, name, text in wanted:
        assert (await desk.row(text_id)).name == name
        prepared = await texts.prepare(ANN, TextChoice(name=name))
        assert (prepared.name, prepared.path.read_text()) == (name, text)
    assert prepared.path.is_relative_to(desk.datasets), "a text file is read where it lies"
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]
    await desk.app.datasets.delete("ptb-validation-2")
    assert (await desk.row("ptb-validation")).name == "", "deleted, it can be fetched again"


async def test_an_interrupted_fetch_goes_on_where_it_ended(desk: Desk) -> None:
    desk.hub.fault("slow", "^/lfs/", count=-1, value=60_000)
    job, second = await asyncio.gather(*(desk.app.dataset_fetching.fetch_text(ANN, "ptb-test") for _ in range(2)))
    assert second.id == job.id, "it is fetched once"
    assert [running.id for running in await desk.app.dataset_fetching.fetching(ANN)] == [job.id]
    async with asyncio.timeout(20):
        while not (row := await desk.row("ptb-test")).job or not row.job.done:
            await asyncio.sleep(0.05)
    await desk.app.jobs.pause(ANN, job.id)
    async with asyncio.timeout(20):
        while (row := await desk.row("ptb-test")).job is None or row.job.status != "interrupted":
            await asyncio.sleep(0.05)
    assert not (desk.datasets / "ptb-test").exists(), "half of it is not there under its name"
    assert await desk.app.datasets.rows() == ()
    desk.hub.faults.clear()
    again = await desk.app.dataset_fetching.fetch_text(ANN, "ptb-test")
    assert again.id == job.id
    done = await desk.ended(again)
    assert done.status == "done", done.error
    assert desk.hub.gets("cdn", "/test/")[-1].start > 0
    prepared = await PerplexityTexts(desk.app.settings.state_dir / "texts", desk.app.datasets).prepare(ANN, TextChoice(name="ptb-test"))
    assert prepared.path.read_text().endswith(" end"), "rows are joined by a space"


async def test_offline_and_away_are_sentences_with_the_cure(desk: Desk) -> None:
    away = other(desk, offline=True)
    for asked in (away.dataset_fetching.fetch_text(ANN, "ptb-test"), away.dataset_fetching.fetch(ANN, "me/single")):
        with pytest.raises(HubError, match="Offline mode is on"):
            await asked
    desk.hub.stop()
    failed = await desk.ended(await desk.app.dataset_fetching.fetch_text(ANN, "ptb-test"))
    assert (failed.status, "cannot be reached; check the network" in failed.error) == ("failed", True)
    assert (await desk.row("ptb-test")).job == failed, "the list says why"
    again = await desk.app.dataset_fetching.fetch_text(ANN, "ptb-test")
    assert [job.id for job in await desk.app.jobs.list(ANN)] == [again.id], "the failed one is gone from the list"
    with pytest.raises(NotFound, match="no text “moby-dick” in the list"):
        await desk.app.dataset_fetching.fetch_text(ANN, "moby-dick")
    with pytest.raises(NotFound, match="There is no data set"):
        await desk.app.perplexity.begin(ANN, {"models": ["starter.gguf"], "text": {"name": "ptb-test"}})


# ---- any file


async def test_a_named_file_becomes_a_data_set(desk: Desk) -> None:
    fetching, address = desk.app.dataset_fetching, f"{desk.hub.endpoint}/datasets/me/talks/blob/main/two/0.jsonl"
    assert (await desk.ended(await fetching.fetch(ANN, address))).status == "done"
    assert [row.name for row in await desk.app.datasets.rows()] == ["me__talks"]
    with pytest.raises(Conflict, match="two/0.jsonl of me/talks is there already, as the data set “me__talks”"):
        await fetching.fetch(ANN, "me/talks/two/0.jsonl")
    other_branch = f"{desk.hub.endpoint}/datasets/me/talks/blob/refs%2Fconvert%2Fparquet/one/0.jsonl"  # a file of the same name
    jobs = [await fetching.fetch(ANN, other_branch), await fetching.fetch(ANN, "me/single")]
    assert [(await desk.ended(job)).status for job in jobs] == ["done", "done"]
    assert sorted(path.name for path in desk.datasets.glob("[!.]*")) == ["me__single", "me__talks", "me__talks-refs-convert"]
    assert sorted(path.read_text() for path in desk.datasets.rglob("*.jsonl")) == ['{"text": "One."}\n', '{"text": "Two."}\n']
    assert [row.format for row in await desk.app.datasets.rows() if row.name == "me__single"] == ["text"]


async def test_what_cannot_be_fetched_is_told(desk: Desk) -> None:
    for reference, words in (
        ("me/talks", r"me/talks has 2 files: one/0.jsonl, two/0.jsonl. Name one: me/talks/one/0.jsonl"),
        ("me/talks/two/run.py", "“two/run.py” is of no kind that can be read"),
        ("me/talks/three", "me/talks/three holds no file that can be read"),
        ("me/absent/a.csv", "There is no data set me/absent"),
        ("me/model/a.jsonl", "There is no data set me/model"),
        ("wikitext", "is no data set of the hub"),
        ("", "Paste a data set's name"),
    ):
        with pytest.raises((InvalidRequest, HubError), match=words):
            await desk.app.dataset_fetching.fetch(ANN, reference)
    assert await desk.app.jobs.list(ANN) == ()
