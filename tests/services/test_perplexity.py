"""Measurements through the services: real jobs, texts of every kind of data set, a table that keeps, and nothing measured twice."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from modules.core.errors import AppError, InvalidRequest, JobConflict, NotFound
from modules.core.settings import Settings
from modules.services.app import App, build_app
from modules.services.perplexity import Standing
from modules.services.perplexity_table import PerplexityRow, PerplexityTable, as_csv
from modules.services.perplexity_texts import GENERAL_NAME, PerplexityTexts, TextChoice
from tests.e2e.adapter_files import write_adapter
from tests.services.conftest import FOLDERS
from tests.services.reply_steps import ANN

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

GGUF, OTHER = "starter/starter-Q8_0.gguf", "copy.gguf"
STORY = "The fox found a red ball under the old tree. She took it home and gave it to her brother.\n"
CHAT = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}, {"messages": [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}]}]
PAIR = {"prompt": "Two?", "chosen": "Two.", "rejected": "Three."}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path) -> AsyncIterator[App]:
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(starter_dir, models / "starter")
    shutil.copy(models / GGUF, models / OTHER)
    folders = {name: tmp_path_factory.mktemp(name) for name in (*FOLDERS, "datasets_dir")}
    write_adapter(folders["loras_dir"] / "odd-words", starter_dir)
    data = folders["datasets_dir"]
    (data / "story.txt").write_text(STORY * 3)
    (data / "long.txt").write_text(STORY * 400)
    (data / "empty.txt").write_text("")
    (data / "chat.jsonl").write_text("\n".join(map(json.dumps, CHAT)))
    (data / "pairs.jsonl").write_text(json.dumps(PAIR))
    (data / "torn.jsonl").write_text(json.dumps(CHAT[0]) + "\n{")
    app = build_app(Settings(models_dir=models, model="none", **folders))
    await app.start()
    yield app
    await app.close()


async def until(app: App, condition: Callable[[Standing], Any]) -> Standing:
    async with asyncio.timeout(40):
        while not condition(standing := await app.perplexity.standing(ANN)):
            assert not (failed := [job.error for job in standing.jobs if job.status == "failed"]), failed
            await asyncio.sleep(0.05)
    return standing


async def measured(app: App, models: list[str], text: str = "story.txt", **more: Any) -> tuple[PerplexityRow, ...]:
    """What comes of a request that measures everything anew."""
    begun = await app.perplexity.begin(ANN, {"models": models, "text": {"name": text}, "window": 64, "stride": 32, **more})
    assert len(begun.jobs) == len(models)
    ids = {job.id for job in begun.jobs}
    rows = (await until(app, lambda standing: ids <= {row.id for row in standing.rows})).rows
    return tuple(row for row in rows if row.id in ids)


async def test_several_models_are_measured_in_turn_and_not_twice(app: App) -> None:
    rows = await measured(app, [GGUF, OTHER])
    by_model = {row.model: row for row in rows}
    assert [row.model for row in rows] == [OTHER, GGUF], "the newest first"
    assert {row.loader for row in rows} == {"llama.cpp"}
    assert by_model[GGUF].perplexity == by_model[OTHER].perplexity
    assert {(row.window, row.stride, row.text, row.bytes) for row in rows} == {(64, 32, "story.txt", len(STORY) * 3)}
    assert not (await app.perplexity.standing(ANN)).jobs, "what is in the table is no job any more"

    request = {"models": [GGUF, OTHER], "text": {"name": "story.txt"}, "window": 64, "stride": 32}
    again = await app.perplexity.begin(ANN, request)
    assert (again.jobs, {row.id for row in again.known}) == ((), {row.id for row in rows})
    assert (await app.perplexity.begin("bob", {**request, "models": [GGUF]})).jobs, "another's table is another's"
    anew = await measured(app, [GGUF], again=True)
    assert anew[0].perplexity == by_model[GGUF].perplexity
    assert (await app.perplexity.begin(ANN, request)).known[0].id == anew[0].id, "the newest is shown"


async def test_what_differs_is_measured(app: App) -> None:
    first = (await measured(app, [GGUF], again=True))[0]
    other = (await measured(app, [GGUF], stride=16, adapters=[{"name": "odd-words", "scale": 0.5}]))[0]
    assert [adapter.model_dump(exclude={"version"}) for adapter in other.adapters] == [{"name": "odd-words", "scale": 0.5}]
    assert other.perplexity != first.perplexity
    off = await app.perplexity.begin(ANN, {"models": [GGUF], "text": {"name": "story.txt"}, "window": 64, "stride": 32, "adapters": [{"name": "odd-words", "scale": 0}]})
    assert [row.id for row in off.known] == [first.id], "an adapter of scale 0 is none"
    text = app.settings.datasets_dir / "story.txt"
    text.write_text(STORY * 2)
    assert (await measured(app, [GGUF]))[0].bytes == len(STORY) * 2
    text.write_text(STORY * 3)
    os.utime(app.settings.models_dir / GGUF, (1, 1))
    assert (await measured(app, [GGUF]))[0].version != first.version


async def test_the_shipped_text_and_a_data_set(app: App) -> None:
    general = (await measured(app, [GGUF], "", window=0, stride=512))[0]
    assert (general.text, general.asked_window) == (GENERAL_NAME, 0)
    assert general.bytes > 5000
    chat = (await measured(app, [GGUF], "chat.jsonl"))[0]
    assert chat.bytes == len("Hi\n\nHello.\n\nBye\n\nSee you.")
    with pytest.raises(NotFound):
        await app.perplexity.begin(ANN, {"models": [GGUF], "text": {"name": "nothing.txt"}})
    assert not list((app.settings.state_dir / "perplexity-texts").rglob("*.*")), "texts that no job needs are gone"


@pytest.mark.parametrize(("name", "text"), [("chat.jsonl", "Hi\n\nHello.\n\nBye\n\nSee you."), ("pairs.jsonl", "Two?\n\nTwo."), ("story.txt", STORY * 3)])
async def test_texts_of_data_sets(app: App, tmp_path: Path, name: str, text: str) -> None:
    prepared = await PerplexityTexts(tmp_path, app.datasets).prepare(ANN, TextChoice(name=name))
    assert prepared.path.read_text() == text
    assert (prepared.path.parent == app.settings.datasets_dir) == name.endswith(".txt"), "a plain text is read where it lies"
    assert [path.suffix for path in tmp_path.rglob("*.*")] == [".txt"] * (not name.endswith(".txt"))


@pytest.mark.parametrize(("more", "sentence"), [
    ({"models": []}, "models"),
    ({"models": ["nothing"]}, "There is no model “nothing”"),
    ({"text": {"name": "nothing.txt"}}, "There is no data set “nothing.txt”"),
    ({"text": {"name": "../../etc/passwd"}}, "cannot be a data set"),
    ({"text": {"name": "empty.txt"}}, "empty"),
    ({"text": {"name": "torn.jsonl", "format": "messages"}}, "torn.jsonl, line 2"),
    ({"adapters": [{"name": "nothing"}]}, "There is no adapter “nothing” any more"),
    ({"window": 5}, "window must be at least 16 tokens, or 0 for the model's own context"),
    ({"stride": 0}, "stride"),
    ({"speed": 1}, "speed"),
])  # fmt: skip
async def test_what_cannot_be_is_a_sentence_before_a_job_begins(app: App, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError, match=sentence):
        await app.perplexity.begin(ANN, {"models": [GGUF], "text": {"name": "story.txt"}, **more})
    assert not (await app.perplexity.standing(ANN)).jobs


async def test_a_measurement_is_killed_resumed_and_cancelled(app: App) -> None:
    begun = await app.perplexity.begin(ANN, {"models": [GGUF], "text": {"name": "long.txt"}, "window": 64, "stride": 4})
    job = begun.jobs[0]
    assert job.title == f"Measure {GGUF}"
    same = await app.perplexity.begin(ANN, {"models": [GGUF], "text": {"name": "long.txt"}, "window": 64, "stride": 4})
    assert [other.id for other in same.jobs] == [job.id], "it is queued once"
    standing = await until(app, lambda standing: (standing.jobs[0].metrics or {}).get("perplexity"))
    assert (standing.jobs[0].unit, standing.jobs[0].status) == ("tokens", "running")
    with pytest.raises(JobConflict):
        await app.perplexity.forget(ANN, job.id)
    os.kill(worker_of(job.id), signal.SIGKILL)
    await until(app, lambda standing: standing.jobs[0].status == "interrupted")
    await app.perplexity.resume(ANN, job.id)
    await until(app, lambda standing: standing.jobs[0].status == "running")
    await app.perplexity.cancel(ANN, job.id)
    await until(app, lambda standing: standing.jobs[0].status == "cancelled")
    with pytest.raises(NotFound):
        await app.perplexity.cancel("bob", job.id)
    await app.perplexity.forget(ANN, job.id)
    assert not (await app.perplexity.standing(ANN)).jobs


def worker_of(job_id: str) -> int:
    return next(process.pid for process in psutil.Process().children(recursive=True) if job_id in " ".join(process.cmdline()))


async def test_comments_and_rows_can_be_changed(app: App) -> None:
    row = (await measured(app, [GGUF], again=True))[0]
    await app.perplexity.comment(ANN, row.id, "  before\ntraining ")
    assert next(other for other in (await app.perplexity.standing(ANN)).rows if other.id == row.id).comment == "before training"
    for owner, row_id in (("bob", row.id), (ANN, "nothing")):
        with pytest.raises(NotFound, match="There is no such row any more"):
            await app.perplexity.comment(owner, row_id, "mine")
    with pytest.raises(InvalidRequest, match="The comment has 501 characters; the limit is 500"):
        await app.perplexity.comment(ANN, row.id, "x" * 501)
    rows = list(csv.DictReader(io.StringIO(await app.perplexity.csv(ANN))))
    assert (rows[0]["Model"], rows[0]["Comment"], float(rows[0]["Perplexity"])) == (GGUF, "before training", row.perplexity)
    await app.perplexity.delete(ANN, row.id)
    assert row.id not in {other.id for other in (await app.perplexity.standing(ANN)).rows}


def row_of(row_id: str, **more: Any) -> PerplexityRow:
    values: dict[str, Any] = {"id": row_id, "owner": ANN, "created_s": 1.0, "model": "m", "text": "t", "text_sha256": "h", "window": 64, "stride": 32, "perplexity": 2.0}
    return PerplexityRow(**{**values, **more})


async def test_the_table_in_its_file(tmp_path: Path) -> None:
    table = PerplexityTable(tmp_path / "perplexity.json")
    assert table.rows(ANN) == ()
    for row in (row_of("a"), row_of("b", created_s=3.0), row_of("c", owner="bob"), row_of("a", model="other")):
        table.add(row)
    assert [row.id for row in table.rows(ANN)] == ["b", "a"]
    assert PerplexityTable(tmp_path / "perplexity.json").rows(ANN)[1].model == "m"
    (tmp_path / "perplexity.json").write_text('[{"id": ')
    assert table.rows(ANN) == ()
    table.add(row_of("d"))
    assert len(list(tmp_path.glob("perplexity.json.*.broken"))) == 1, "it is put aside, not lost"
    assert [row.id for row in table.rows(ANN)] == ["d"]


async def test_no_cell_is_computed_by_a_spreadsheet() -> None:
    text = as_csv([row_of("a", comment="=HYPERLINK(1)", model="-x", text='a "quoted", text')])
    row = next(csv.DictReader(io.StringIO(text)))
    assert (row["Comment"], row["Model"], row["Text"]) == ("'=HYPERLINK(1)", "'-x", 'a "quoted", text')
