"""The libraries of models and of adapters: delete and restore, with links, killed moves, and what is in use."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.errors import AppError, Conflict, InvalidRequest, NotFound
from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.model import AdapterChoice
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.library_bin import KEPT_S
from modules.services.library_facts import TemplateCheck
from tests.services.conftest import ONE, THREE, TWO, until
from tests.services.model_steps import OPTIONS, write_adapter
from tests.services.shelves import WEIGHTS, Shelf, downloaded

pytestmark = pytest.mark.processes

PARTS = tuple(f"big-{number:05d}-of-00003.gguf" for number in (1, 2, 3))
of_models = pytest.mark.parametrize("shelf", ["model"], indirect=True)


async def test_delete_and_restore(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    await shelf.service.set_note(name, "mine")
    before = shelf.outside()
    gone = await shelf.service.delete(name)
    assert (gone.name, gone.size_bytes, gone.days_left) == (name, len(WEIGHTS), 30)
    assert (shelf.outside(), await shelf.names(), await shelf.service.bin()) == ({}, [], (gone,))
    assert await shelf.service.restore(gone.id) == name
    assert shelf.outside() == before
    row = await shelf.of(name)
    assert (row.repo, row.note, await shelf.service.bin()) == ("meadow/pony", "mine", ())
    with pytest.raises(NotFound, match="no longer in the bin"):
        await shelf.service.restore(gone.id)


async def test_one_of_two_files_keeps_its_record_in_the_bin(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    shelf.put("meadow__pony/other.gguf")
    first = await shelf.service.delete(name)
    assert await shelf.names() == ["meadow__pony/other.gguf"]
    second = await shelf.service.delete("meadow__pony/other.gguf")
    assert shelf.outside() == {}
    await shelf.service.restore(first.id)
    assert (await shelf.of(name)).repo == "meadow/pony"
    with pytest.raises(InvalidRequest, match="There is another “meadow__pony”"):
        await shelf.service.restore(second.id)


async def test_restore_does_not_overwrite(shelf: Shelf) -> None:
    shelf.put("a.gguf")
    gone = await shelf.service.delete("a.gguf")
    shelf.put("a.gguf", b"newer")
    with pytest.raises(InvalidRequest, match=r"There is another “a\.gguf”.*rename or delete that one first"):
        await shelf.service.restore(gone.id)
    assert shelf.outside() == {"a.gguf": b"newer"}
    await shelf.service.rename("a.gguf", "b")
    await shelf.service.restore(gone.id)
    assert shelf.outside() == {"a.gguf": WEIGHTS, "b.gguf": b"newer"}


@of_models
async def test_all_parts_go_and_come_back(shelf: Shelf) -> None:
    for part in (*PARTS, "big-00001-of-00002.gguf", "bigger.gguf"):
        shelf.put(part)
    before = shelf.outside()
    gone = await shelf.service.delete(PARTS[0])
    assert set(shelf.outside()) == {"big-00001-of-00002.gguf", "bigger.gguf"}
    await shelf.service.restore(gone.id)
    assert shelf.outside() == before


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
async def test_of_a_link_only_the_link_goes(shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shelf.put_folder(elsewhere)
    (elsewhere / "real.gguf").write_bytes(WEIGHTS)
    before = sorted(path.name for path in elsewhere.iterdir())
    (shelf.folder / "linked.gguf").symlink_to(elsewhere / "real.gguf")
    (shelf.folder / "folder").symlink_to(elsewhere)
    gone = await shelf.service.delete("linked.gguf")
    await shelf.service.discard(gone.id)
    with pytest.raises(InvalidRequest, match="behind the link “folder”"):
        await shelf.service.delete("folder/real.gguf")
    with pytest.raises(InvalidRequest, match="behind the link “folder”"):
        await shelf.service.rename("folder/real.gguf", "x")
    assert await shelf.service.rename("folder", "place") == "place"
    gone = await shelf.service.delete("place")
    await shelf.service.restore(gone.id)
    assert (shelf.folder / "place").is_symlink()
    await shelf.service.discard((await shelf.service.delete("place")).id)
    assert sorted(path.name for path in elsewhere.iterdir()) == before
    assert await shelf.names() == []


async def test_the_bin_empties_itself_and_on_request(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("a.gguf")
    shelf.put("b.gguf")
    gone = await shelf.service.delete("a.gguf")
    await shelf.service.discard(gone.id)
    assert list((shelf.folder / ".bin").iterdir()) == []
    await shelf.service.delete("b.gguf")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S - 60)
    assert [row.days_left for row in await shelf.service.bin()] == [1]
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S + 60)
    await shelf.service.start()
    assert list((shelf.folder / ".bin").iterdir()) == []


async def test_a_bin_that_cannot_be_emptied_keeps_nobody_from_starting(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("a.gguf")
    gone = await shelf.service.delete("a.gguf")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(AppError, match=r"a\.gguf cannot be deleted: Read-only file system"):
        await shelf.service.discard(gone.id)
    later_s = time.time() + KEPT_S + 60
    monkeypatch.setattr(time, "time", lambda: later_s)
    await shelf.service.start()


async def test_an_entry_that_somebody_else_wrote_leads_nowhere(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a.gguf")
    gone = await shelf.service.delete("a.gguf")
    entry = shelf.folder / ".bin" / gone.id / "entry.json"
    for place in ("../evil.gguf", "/tmp/evil.gguf", ".bin/evil", "a/../../evil", ""):
        entry.write_text(json.dumps({**json.loads(entry.read_text(encoding="utf-8")), "places": [place]}), encoding="utf-8")
        assert await shelf.service.bin() == ()
        with pytest.raises(NotFound):
            await shelf.service.restore(gone.id)
    assert not (tmp_path / "evil.gguf").exists()


async def test_what_cannot_be_moved_is_a_sentence_and_stays(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("a.gguf")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        with pytest.raises(AppError, match=r"a\.gguf cannot be deleted: Permission denied"):
            await shelf.service.delete("a.gguf")
        with pytest.raises(AppError, match=r"a\.gguf cannot be renamed: Permission denied"):
            await shelf.service.rename("a.gguf", "b")
    assert (await shelf.names(), await shelf.service.bin()) == (["a.gguf"], ())


async def test_a_loaded_model_is_left_alone(start_app: Callable[..., App], tmp_path: Path, starter_gguf: Path) -> None:
    models_dir = tmp_path / "models"
    (models_dir / "starter").mkdir(parents=True)
    shutil.copy(starter_gguf, models_dir / "starter" / starter_gguf.name)
    app = start_app(models_dir=models_dir)
    name = f"starter/{starter_gguf.name}"
    await app.models.load(name, options={"context_length": 256, "slots": 1, "threads": 1})
    for verb, act in (("delete", app.library.delete(name)), ("rename", app.library.rename(name, "other"))):
        with pytest.raises(Conflict, match=f"is loaded; unload it, then {verb} it"):
            await act
    assert await app.library.bin() == ()
    used_s = (await app.library.shelf())[0].used_s
    assert used_s > time.time() - 60
    await app.models.unload(name)
    gone = await app.library.delete(name)  # the model that ships with Paddock is like any other
    assert app.models.remembered(name).options == {"context_length": 256, "slots": 1, "threads": 1}
    assert await app.library.restore(gone.id) == name
    assert (await app.library.shelf())[0].used_s == used_s


async def test_an_adapter_in_use_is_left_alone_and_its_use_is_kept(start_app: Callable[..., App], tmp_path: Path, starter_gguf: Path) -> None:
    write_adapter(tmp_path / "loras_dir" / "odd.gguf", starter_gguf)
    app = start_app()
    app.lessons.start()
    await app.models.load(ONE, options=OPTIONS)
    assert (await app.adapter_library.shelf())[0].used_s == 0
    await app.adapters.apply(ONE, [AdapterChoice(name="odd.gguf")])
    for verb, act in (("delete", app.adapter_library.delete("odd.gguf")), ("rename", app.adapter_library.rename("odd.gguf", "other"))):
        with pytest.raises(Conflict, match=f"“odd.gguf” is in use on “{ONE}”; take it off there, then {verb} it"):
            await act
    await app.lessons.close()
    assert (await app.adapter_library.shelf())[0].used_s > time.time() - 60
    assert {row.name: row.template for row in await app.library.shelf()} == {ONE: TemplateCheck(), TWO: None, THREE: None, "broken.gguf": None}
    await app.adapters.apply(ONE, [])
    assert await app.adapter_library.rename("odd.gguf", "other") == "other.gguf"
    used_s = (await app.adapter_library.shelf())[0].used_s
    assert used_s > time.time() - 60
    conversation = GenerationRequest(prompt=TextPrompt(text="Once"), params=GenerationParams(max_tokens=1))
    async for _ in await app.generation.submit(conversation, ONE, adapters=[AdapterChoice(name="other.gguf")]):
        pass
    await app.lessons.close()
    assert (await app.adapter_library.shelf())[0].used_s > used_s


async def test_an_adapter_that_a_sleeping_model_has_is_left_alone(start_app: Callable[..., App], tmp_path: Path, starter_gguf: Path) -> None:
    write_adapter(tmp_path / "loras_dir" / "odd.gguf", starter_gguf)
    app = start_app(idle_unload_s=0.3)
    app.models.start()
    await app.models.load(ONE, options=OPTIONS)
    await app.adapters.apply(ONE, [AdapterChoice(name="odd.gguf")])
    await until(lambda: app.models.status().asleep == (ONE,))
    with pytest.raises(Conflict, match=f"“odd.gguf” comes back with “{ONE}”, which is unloaded for now"):
        await app.adapter_library.delete("odd.gguf")
    await app.models.unload(ONE)  # forgets it
    await app.adapter_library.delete("odd.gguf")
