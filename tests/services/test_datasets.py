"""The folder of data sets: uploads come whole or not at all, looks and previews tell what is there, deletes take the named thing alone, no name leads out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections import namedtuple
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from modules.api.errors import install_error_handlers
from modules.api.guard import DATASET_LIMIT_BYTES, Guard
from modules.api.view_datasets import datasets_router
from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.services import dataset_views, datasets
from modules.services.app import App
from modules.services.dataset_views import ShownMessage
from modules.services.datasets import DatasetService, format_choices
from modules.training.formats import read_samples

ROW = {"question": "6 × 7?", "answer": "42"}
BAD_NAMES = ("", ".", "..", "../other.jsonl", "/etc/passwd", "a/../../b.jsonl", ".hidden.jsonl", "a\x00.jsonl", "con.jsonl", "a\\..\\b.jsonl", "\ud83d.jsonl", "x" * 101 + ".jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


@pytest.fixture
def service(folder: Path) -> DatasetService:
    return DatasetService(folder)


def lines(*content: Any) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in content).encode()


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


async def put(service: DatasetService, name: str, content: bytes = lines(ROW), limit: int = 1 << 20) -> str:
    return await service.upload(name, pieces(content[:10], content[10:]), limit_bytes=limit, length=len(content))


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


async def test_an_upload_arrives_as_it_was_sent(service: DatasetService, folder: Path) -> None:
    content = os.urandom(3 << 20)
    name = await service.upload("Über (1).parquet", pieces(*(content[place : place + 300_001] for place in range(0, len(content), 300_001))), limit_bytes=4 << 20)
    assert name == "Über (1).parquet"
    assert (folder / name).read_bytes() == content
    assert everything(folder) == [name]


async def test_a_name_that_is_taken_is_refused_and_its_file_left_alone(service: DatasetService, folder: Path) -> None:
    await put(service, "a.jsonl")
    for name in ("a.jsonl", "A.JSONL"):
        with pytest.raises(Conflict, match="already; delete it first, or give the file another name"):
            await put(service, name, lines({"other": 1}))
    assert (folder / "a.jsonl").read_bytes() == lines(ROW)
    assert everything(folder) == ["a.jsonl"]


async def test_two_uploads_of_one_name_at_the_same_time_are_one(service: DatasetService, folder: Path) -> None:
    gate = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield lines(ROW)
        await gate.wait()

    first = asyncio.create_task(service.upload("a.jsonl", slowly(), limit_bytes=1000))
    while not list(folder.glob(".*.part")):
        await asyncio.sleep(0.01)
    with pytest.raises(Conflict):
        await put(service, "a.jsonl")
    assert await service.rows() == ()  # what is arriving is not there yet
    gate.set()
    assert await first == "a.jsonl"
    assert everything(folder) == ["a.jsonl"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a.exe", "a", "folder/a.jsonl"])
async def test_bad_names_are_refused_in_a_sentence(service: DatasetService, folder: Path, name: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        await put(service, name)
    assert told.value.message.endswith(".")
    assert everything(folder.parent) == ["datasets"]


@pytest.mark.parametrize(("content", "limit", "said"), [(b"", 100, "The file is empty"), (b"x" * 101, 100, "larger than 0.0 GB")])
async def test_what_is_empty_or_too_large_leaves_nothing(service: DatasetService, folder: Path, content: bytes, limit: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        await put(service, "a.jsonl", content, limit)
    assert everything(folder) == []


async def test_an_upload_that_breaks_off_leaves_nothing(service: DatasetService, folder: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        raise InvalidRequest("The upload broke off.")

    with pytest.raises(InvalidRequest):
        await service.upload("a.jsonl", broken(), limit_bytes=1 << 30)
    assert everything(folder) == []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (1 << 20)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(service.upload("a.jsonl", endless(), limit_bytes=1 << 30))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert everything(folder) == []
    await put(service, "a.jsonl")  # and its name is free


async def test_a_disk_that_is_too_full_is_told_before_and_on_the_way(service: DatasetService, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    free = [10_000_000_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free[0]))
    monkeypatch.setattr(datasets, "LOOK_EVERY_BYTES", 100)
    with pytest.raises(InvalidRequest, match=r"has 10\.0 GB free, of which 1\.1 GB are kept back; the file needs 9\.5 GB"):
        await service.upload("a.jsonl", pieces(b"x"), limit_bytes=1 << 40, length=9_500_000_000)

    async def filling() -> AsyncIterator[bytes]:
        yield b"x" * 200
        free[0] = 1000
        yield b"x" * 200

    with pytest.raises(InvalidRequest, match="Free some space"):
        await service.upload("a.jsonl", filling(), limit_bytes=1 << 40)
    assert everything(folder) == []


async def test_what_an_old_server_left_half_is_cleared_away(service: DatasetService, folder: Path) -> None:
    for name, age_s in ((".old.part", 2 * datasets.STALE_S), (".young.part", 60)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    await put(service, "a.jsonl")
    assert everything(folder) == [".young.part", "a.jsonl"]


async def test_the_list_has_files_folders_and_what_is_wrong_with_them(service: DatasetService, folder: Path, tmp_path: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "test.jsonl").write_bytes(lines(ROW))
    (folder / "set" / "train.jsonl").write_bytes(lines(ROW, ROW))
    (folder / "b.json").write_text("[\n5]")
    (folder / "C.csv").write_text("x\ny\n")
    (folder / "odd, name.txt").write_text("x")
    (folder / "sheet.xlsx").write_bytes(b"x")
    (folder / "README.md").write_text("about")
    (folder / ".hidden").write_text("x")
    (folder / "many").mkdir()
    for number in range(datasets.PARTS_LISTED + 1):
        (folder / "many" / f"{number}.txt").write_text(f"text {number}")
    (tmp_path / "secret.jsonl").write_bytes(lines(ROW))
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    rows = {row.name: row for row in await service.rows()}
    assert list(rows) == ["b.json", "C.csv", "link.jsonl", "many", "odd, name.txt", "set", "set/test.jsonl", "set/train.jsonl", "sheet.xlsx"]
    size = len(lines(ROW))
    assert [(rows[name].format, rows[name].files, rows[name].bytes, rows[name].problem) for name in ("set", "set/train.jsonl")] == [("instruction", 2, 3 * size, ""), ("instruction", 1, 2 * size, "")]
    assert (rows["many"].format, rows["many"].files) == ("text", datasets.PARTS_LISTED + 1)
    said = {"b.json": "b.json, row 1 (line 2): a row must be", "C.csv": "", "link.jsonl": "a link that leads elsewhere", "odd, name.txt": "cannot be a data set", "sheet.xlsx": "of no kind that can be read"}
    for name, words in said.items():
        assert words in rows[name].problem
    assert rows["C.csv"].format == "text"  # its only column
    assert abs(rows["set"].changed_s - time.time()) < 60


async def test_the_list_looks_again_at_what_has_changed(service: DatasetService, folder: Path) -> None:
    path = folder / "a.jsonl"
    path.write_bytes(lines(ROW))
    assert [row.format for row in await service.rows()] == ["instruction"]
    path.write_bytes(lines({"text": "a longer one than before"}))
    assert [row.format for row in await service.rows()] == ["text"]


async def test_a_list_with_much_that_is_new_does_not_wait_for_all_of_it(service: DatasetService, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.jsonl").write_bytes(lines(ROW))
    monkeypatch.setattr(datasets, "RECOGNISE_S", -1.0)
    assert [(row.name, row.bytes, row.format, row.problem) for row in await service.rows()] == [("a.jsonl", len(lines(ROW)), "", "")]
    monkeypatch.undo()
    assert [row.format for row in await service.rows()] == ["instruction"]


async def test_parquet_is_looked_at_in_a_process_of_its_own(service: DatasetService, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{**ROW, "n": 1}] * 30 + [{"question": "x", "answer": None, "n": None}]), folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"PAR1 nothing PAR1")
    look = await service.look("a.parquet")
    assert (look.format, look.columns, look.problem, len(look.rows)) == ("instruction", {"instruction": "question", "output": "answer"}, "", dataset_views.ROWS_SHOWN)
    preview = await service.preview("a.parquet", "instruction", {})
    assert (preview.count, preview.empty, preview.is_whole) == (30, 1, True)
    assert preview.samples[0].messages == (ShownMessage("user", "6 × 7?"), ShownMessage("assistant", "42"))
    assert (await service.look("b.parquet")).problem.startswith("b.parquet cannot be read as Parquet")
    assert "“gone” is missing" in (await service.preview("a.parquet", "text", {"text": "gone"})).problem
    monkeypatch.setattr(dataset_views, "COMMAND", (sys.executable, "-c", "import os; os.abort()"))
    with pytest.raises(InvalidRequest, match="a.parquet could not be read: "):
        await service.look("a.parquet")
    assert next(row for row in await service.rows() if row.name == "a.parquet").problem.endswith("Fetch or write the file again.")
    monkeypatch.setattr(dataset_views, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(dataset_views, "CHILD_LIMIT_S", 0.2)
    with pytest.raises(InvalidRequest, match="could not be looked at within 0 s"):
        await service.look("a.parquet")


async def test_no_folder_is_no_data_set(tmp_path: Path) -> None:
    service = DatasetService(tmp_path / "datasets")
    assert await service.rows() == ()
    await put(service, "a.jsonl")
    assert [row.name for row in await service.rows()] == ["a.jsonl"]


async def test_delete_takes_what_was_named_alone(service: DatasetService, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.jsonl").write_bytes(lines(ROW))
    for name in ("a.jsonl", "b.jsonl", "set/x.jsonl", "set/y.jsonl", "other/x.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(lines(ROW))
    (folder / "set" / "link").symlink_to(outside)
    (folder / "linked").symlink_to(outside)
    await service.delete("a.jsonl")
    await service.delete("set/y.jsonl")
    assert everything(folder) == ["b.jsonl", "linked", "other", "other/x.jsonl", "set", "set/link", "set/x.jsonl"]
    for name in (*BAD_NAMES, "linked", "linked/keep.jsonl", "set/link", "set/link/keep.jsonl"):
        with pytest.raises(AppError):
            await service.delete(name)
    with pytest.raises(NotFound):
        await service.delete("a.jsonl")
    await service.delete("set")
    assert everything(folder) == ["b.jsonl", "linked", "other", "other/x.jsonl"]
    assert (outside / "keep.jsonl").exists()


async def test_look_shortens_what_is_long_and_can_always_be_sent(service: DatasetService, folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(lines(*[{"text": "x" * 1000, "n": [1, {"a": None}], "none": None, "\ud83d": "\ud83d"}] * 30))
    look = await service.look("a.jsonl")
    assert (look.format, look.columns, look.found) == ("text", {"text": "text"}, ("text", "n", "none", "?"))
    assert len(look.rows) == dataset_views.ROWS_SHOWN
    assert look.rows[1].where == "a.jsonl, line 2"
    assert look.rows[1].values == {"text": "x" * (dataset_views.VALUE_CHARS - 1) + "…", "n": '[1, {"a": null}]', "none": "", "?": "?"}
    assert json.dumps(asdict(look), ensure_ascii=False).encode()
    with pytest.raises(NotFound):
        await service.look("gone.jsonl")


async def test_preview_shows_samples_counts_all_and_names_the_first_fault(service: DatasetService, folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(lines(*[ROW] * 40, {"question": "", "answer": ""}))
    whole = await service.preview("a.jsonl", "instruction", {"instruction": "question", "output": "answer"})
    assert (whole.count, whole.empty, whole.is_whole, whole.problem, len(whole.samples)) == (40, 1, True, "", dataset_views.SAMPLES_SHOWN)
    assert whole.samples[0].messages == (ShownMessage("user", "6 × 7?"), ShownMessage("assistant", "42"))
    (folder / "a.jsonl").write_bytes(lines(ROW, {"question": 5, "answer": {}}))
    broken = await service.preview("a.jsonl", "instruction", {})
    assert (broken.count, broken.is_whole) == (1, False)
    assert broken.problem.startswith("a.jsonl, line 2: column “answer”: a text was expected")
    with pytest.raises(InvalidRequest, match="choose the column that is “output”"):
        await service.preview("a.jsonl", "instruction", {"instruction": "question"})


async def test_a_preview_of_very_much_ends_in_time(service: DatasetService, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_views, "COUNT_S", 0.0)
    (folder / "a.jsonl").write_bytes(lines(*[ROW] * 100))
    preview = await service.preview("a.jsonl", "instruction", {})
    assert not preview.is_whole
    assert dataset_views.SAMPLES_SHOWN < preview.count < 100


async def test_every_kind_of_sample_is_shown(service: DatasetService, folder: Path) -> None:
    ask, reply = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day", "tool_calls": [{"name": "look", "arguments": {}}]}
    for number, row in enumerate(({"messages": [ask, reply]}, {"text": "Once"}, {"prompt": "Hello", "chosen": "Good", "rejected": "Bad"}, {"messages": [ask, reply], "label": False})):
        (folder / f"{number}.jsonl").write_bytes(lines(row))
    shown = [(await service.preview(f"{number}.jsonl", (await service.look(f"{number}.jsonl")).format, {})).samples[0] for number in range(4)]
    assert [sample.kind for sample in shown] == ["chat", "text", "pair", "feedback"]
    assert shown[0].messages[1].text == 'Good day\n{"name": "look", "arguments": {}}'
    assert (shown[1].text, shown[2].chosen, shown[2].rejected, shown[3].is_good) == ("Once", "Good", "Bad", False)
    assert [message.role for message in shown[3].messages] == ["user", "assistant"]


async def test_a_spec_is_what_a_job_reads(service: DatasetService, folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "a.jsonl").write_bytes(lines({"q": "Hello", "a": "Good day"}))
    spec = service.spec("set/a.jsonl", "instruction", {"instruction": "q", "output": "a", "system": ""})
    assert (spec.name, spec.columns) == ("set/a.jsonl", {"instruction": "q", "output": "a"})
    assert len(list(read_samples(spec))) == 1
    for name, format, columns, error in (("gone", "text", {}, NotFound), ("../x", "text", {}, InvalidRequest), ("set", "poem", {}, InvalidRequest), ("set", "text", {"colour": "q"}, InvalidRequest)):
        with pytest.raises(error):
            service.spec(name, format, columns)


def test_the_choices_of_a_format_say_what_is_needed() -> None:
    for choice in format_choices():
        assert set(choice.needed) <= set(choice.meanings)
        assert choice.needed
        assert choice.title


async def test_the_routes_answer_and_refuse_in_sentences(service: DatasetService, folder: Path) -> None:
    api = FastAPI()
    install_error_handlers(api)
    api.include_router(datasets_router(cast("App", SimpleNamespace(datasets=service))))
    transport = httpx.ASGITransport(app=Guard(api))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
        assert (await client.post("/ui/datasets/upload", params={"name": "a.jsonl"}, content=lines(ROW))).json() == {"name": "a.jsonl"}
        again = await client.post("/ui/datasets/upload", params={"name": "a.jsonl"}, content=lines(ROW))
        assert (again.status_code, again.json()["error"]["param"]) == (409, "name")
        too_long = await client.post("/ui/datasets/upload", params={"name": "b.jsonl"}, content=b"x", headers={"content-length": str(DATASET_LIMIT_BYTES + 1)})
        assert too_long.status_code == 413
        (listed,) = (await client.get("/ui/datasets")).json()["datasets"]
        assert set(listed) == {"name", "bytes", "files", "changed_s", "format", "problem"}
        look = (await client.get("/ui/datasets/look", params={"name": "a.jsonl"})).json()
        assert look["columns"] == {"instruction": "question", "output": "answer"}
        assert look["rows"] == [{"where": "a.jsonl, line 1", "values": ROW}]
        assert next(each for each in look["formats"] if each["value"] == "text") == {"value": "text", "title": "Plain text", "meanings": ["text"], "needed": ["text"]}
        preview = (await client.post("/ui/datasets/preview", json={"name": "a.jsonl", "format": look["format"], "columns": look["columns"]})).json()
        assert (preview["count"], preview["samples"][0]["messages"][1]) == (1, {"role": "assistant", "text": "42"})
        assert (await client.post("/ui/datasets/delete", json={"name": "a.jsonl"})).json() == {"ok": True}
        gone = await client.get("/ui/datasets/look", params={"name": "a.jsonl"})
        assert (gone.status_code, gone.json()["error"]["message"]) == (404, "There is no data set “a.jsonl”. Choose one from the list or put it into datasets/.")
    assert everything(folder) == []
