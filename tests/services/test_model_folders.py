"""Folders of other programs in the services: added, named, loaded by name, and never changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.settings import Settings
from modules.services.app import App
from modules.services.model_folders import ModelFolders
from tests.foreign_folders import COMMIT, hub_cache, lm_studio, ollama
from tests.loaders.test_other_folders import everything
from tests.services.conftest import until
from tests.services.model_steps import OPTIONS, writes

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="links need rights there")]


def folders(tmp_path: Path, *given: Path) -> ModelFolders:
    own = {name: tmp_path / name for name in ("state_dir", "models_dir", "loras_dir")}
    for path in own.values():
        path.mkdir(exist_ok=True)
    return ModelFolders(Settings(**own, model_folders=given), {}, tmp_path / "home")


@pytest.fixture
def cache(tmp_path: Path, starter_gguf: Path) -> Path:
    hub_cache(tmp_path / "home" / ".cache" / "huggingface" / "hub", "meadow/pony", {"pony.gguf": starter_gguf})
    return tmp_path / "home" / ".cache" / "huggingface" / "hub"


async def test_offered_added_kept_and_removed(tmp_path: Path, cache: Path) -> None:
    service = folders(tmp_path)
    assert [(row.tag, row.title, row.path) for row in await service.rows()] == [("", "Hugging Face cache", str(cache))]
    assert service.all() == ()
    assert (await service.add(str(cache.parent))).tag == "hf"  # its own folder is one further in
    assert [(row.tag, row.path) for row in await service.rows()] == [("hf", str(cache))]
    with pytest.raises(Conflict, match="in the list already"):
        await service.add(str(cache))
    other = hub_cache(tmp_path / "second", "meadow/pony", {"pony.gguf": b"GGUF"}).parents[2]
    assert (await service.add(str(other))).tag == "hf-2"
    again = folders(tmp_path)
    assert again.all() == service.all()
    await again.remove("hf")
    assert [folder.tag for folder in folders(tmp_path).all()] == ["hf-2"]  # the other one keeps its name
    with pytest.raises(NotFound):
        await again.remove("hf")


async def test_folders_of_the_settings(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "Big Disk").mkdir()
    service = folders(tmp_path, cache, tmp_path / "Big Disk", tmp_path / "unplugged", tmp_path / "models_dir", cache)
    rows = {row.tag: row for row in await service.rows()}
    assert set(rows) == {"hf", "big-disk", "unplugged"}
    assert rows["unplugged"].problem.endswith("cannot be read; is its disk there?")
    assert all(row.is_setting for row in rows.values())
    with pytest.raises(InvalidRequest, match="take it out of --model-folder"):
        await service.remove("hf")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("models", "is not a whole path"), ("/no/such/folder", "There is no folder"), ("/" + "x" * 300, "There is no folder"), ("{own}/models_dir", "Paddock's own models_dir/"), ("{own}/loras_dir", "own loras_dir/"), ("/\0", "There is no folder"), ("~nobody-at-all/x", "whole path")],
)
async def test_what_cannot_be_added_is_a_sentence(tmp_path: Path, path: str, reason: str) -> None:
    service = folders(tmp_path)
    with pytest.raises(InvalidRequest, match=reason):
        await service.add(path.replace("{own}", str(tmp_path)))
    assert service.all() == ()


@pytest.mark.parametrize("text", ["folders: 3", "folders: [{tag: ../x, kind: hf, path: /tmp}]", "{", "folders: [{tag: hf, kind: hf, path: tmp}]"])
def test_a_file_that_somebody_else_wrote_is_no_harm(tmp_path: Path, text: str) -> None:
    (tmp_path / "state_dir").mkdir()
    (tmp_path / "state_dir" / "model_folders.yaml").write_text(text)
    assert folders(tmp_path).all() == ()


async def test_a_model_of_each_program_is_loaded_by_its_name_and_left_as_it_was(start_app: Callable[..., App], tmp_path: Path, starter_gguf: Path) -> None:
    places = tmp_path / "hub", tmp_path / "ollama", tmp_path / ".lmstudio" / "models"
    hub_cache(places[0], "meadow/pony", {"pony.gguf": starter_gguf})
    ollama(places[1], "pony:1b", starter_gguf)
    lm_studio(places[2], "meadow/pony/pony.gguf", starter_gguf)
    before = [everything(place) for place in places]
    app = start_app(model_folders=places)
    await app.jobs.start()
    for name in (f"hf:meadow/pony@{COMMIT[:12]}/pony.gguf", "ollama:pony:1b", "lmstudio:meadow/pony/pony.gguf"):
        client = await app.models.load(name, options=OPTIONS)
        assert client.card.name == name
        assert await writes(client)
        await app.models.unload(name)
        assert await app.library.set_note(name, "Theirs.") == "Theirs."
        job = await app.library.verify("me", name)
        async for snapshot in app.jobs.watch("me", job.id):
            job = snapshot
        assert job.status == "done", job.error
        row = next(row for row in await app.library.shelf() if row.name == name)
        assert (row.note, row.rename_part, row.deletes, row.verified_state) == ("Theirs.", "", (), "kept" if name.startswith("lmstudio") else "good")
        assert row.used_s > time.time() - 60
        assert "only read here; rename or delete it there" in row.read_only
        for verb, act in (("rename", app.library.rename(name, "mine")), ("delete", app.library.delete(name))):
            with pytest.raises(InvalidRequest, match=f"only read here; {verb} it there"):
                await act
    assert [everything(place) for place in places] == before


async def test_the_model_of_the_command_line_may_be_one_of_another_program(start_app: Callable[..., App], tmp_path: Path, starter_gguf: Path) -> None:
    ollama(tmp_path / "ollama", "pony:1b", starter_gguf)
    app = start_app(model_folders=(tmp_path / "ollama",), model="ollama:pony:1b", options=OPTIONS)
    app.models.start()
    await until(lambda: app.models.loaded_names() == ("ollama:pony:1b",))


async def test_a_whole_disk_is_not_looked_through_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = folders(tmp_path)
    (tmp_path / "disk" / "a" / "b" / "c").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "disk" / "a" / f"{number}.txt").touch()
    monkeypatch.setattr("modules.loaders.model_paths.ENTRY_LIMIT", 30)
    with pytest.raises(InvalidRequest, match="name the folder in it where the models lie"):
        await service.add(str(tmp_path / "disk"))
    assert (await service.add(str(tmp_path / "disk" / "a" / "b"))).tag == "b"
