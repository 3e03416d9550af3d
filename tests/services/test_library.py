"""The library: facts of models, rename, bin, notes, verify and updates, with real files, hostile names, and links."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.core.errors import AppError, Conflict, HubError, InvalidRequest, NotFound
from modules.core.job import JobSnapshot
from modules.core.settings import Settings
from modules.loaders.model_info import ModelFolder
from modules.services.app import App
from modules.services.hub import HubService
from modules.services.jobs import JobService
from modules.services.library import LibraryService, Shelved
from modules.services.model_bin import KEPT_S
from modules.services.model_choices import LoadChoice, ModelChoices
from modules.services.models import ModelService
from tests.hub.hub_server import HubServer

pytestmark = pytest.mark.processes

WEIGHTS = bytes(range(256)) * 40
PARTS = tuple(f"big-{number:05d}-of-00003.gguf" for number in (1, 2, 3))
HOSTILE = (
    "../evil", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "a\x00b", "a\nb", "con", "x" * 101, "‮gguf", "~", "$(id)", "a.gguf/../../b",
)  # fmt: skip


@dataclass
class Shelf:
    """A library over a folder of the test's own."""

    models_dir: Path
    state_dir: Path
    service: LibraryService
    models: ModelService
    jobs: JobService
    hub: HubService

    def put(self, name: str, data: bytes = WEIGHTS) -> Path:
        path = self.models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def of(self, name: str) -> Shelved:
        return next(row for row in await self.service.shelf() if row.name == name)

    async def names(self) -> list[str]:
        return [row.name for row in await self.service.shelf()]

    async def ended(self, job: JobSnapshot) -> JobSnapshot:
        async for snapshot in self.jobs.watch("me", job.id):
            job = snapshot
        assert job.status == "done", job.error
        return job

    async def verify(self, name: str) -> Shelved:
        await self.ended(await self.service.verify("me", name))
        return await self.of(name)

    def outside(self) -> dict[str, bytes]:
        """Everything of the models folder as it is, without the bin and locks."""
        files = (path for path in self.models_dir.rglob("*") if path.is_file())
        return {str(path.relative_to(self.models_dir)): path.read_bytes() for path in files if not path.relative_to(self.models_dir).parts[0].startswith(".")}


@pytest.fixture
def hub() -> HubServer:
    running = HubServer().start()
    running.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS}, info={"tags": ["gguf", "license:mit"]})
    return running


@pytest.fixture
async def shelf(hub: HubServer, tmp_path: Path) -> AsyncIterator[Shelf]:
    folders = {name: tmp_path / name for name in ("state_dir", "models_dir", "loras_dir")}
    for folder in folders.values():
        folder.mkdir()
    settings = Settings(**folders, hub_endpoint=hub.endpoint)
    jobs = JobService(settings.state_dir)
    models = ModelService(settings, ModelFolder(settings.models_dir, settings.loras_dir))
    hub_service = HubService(settings, jobs)
    await jobs.start()
    yield Shelf(settings.models_dir, settings.state_dir, LibraryService(settings, models, jobs, hub_service), models, jobs, hub_service)
    await jobs.close()
    hub.stop()


async def downloaded(shelf: Shelf) -> str:
    """A model that came from the hub, in its folder with its record."""
    wanted = {"repo": "meadow/pony", "revision": "a" * 40, "files": ["pony-Q8_0.gguf"], "kind": "gguf"}
    done = await shelf.ended(await shelf.hub.download("me", wanted))
    assert done.result is not None
    return str(done.result["name"])


async def test_a_downloaded_model_says_where_it_came_from(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    row = await shelf.of(name)
    assert (row.repo, row.commit, row.licence, row.note, row.used_s, row.verified) == ("meadow/pony", "a" * 40, "mit", "", 0.0, "")
    assert row.fetched.startswith("20")
    shelf.put("own.gguf")
    assert (await shelf.of("own.gguf")).repo == ""


async def test_a_note_is_kept_by_the_exact_name(shelf: Shelf) -> None:
    shelf.put("a.gguf")
    shelf.put("b.gguf")
    assert await shelf.service.set_note("a.gguf", "  fast & <b>small</b>\n ") == "fast & <b>small</b>"
    assert [(await shelf.of(name)).note for name in ("a.gguf", "b.gguf")] == ["fast & <b>small</b>", ""]
    with pytest.raises(InvalidRequest, match="at most 2000 characters, this has 2001"):
        await shelf.service.set_note("a.gguf", "x" * 2001)
    with pytest.raises(NotFound):
        await shelf.service.set_note("../a.gguf", "x")
    await shelf.service.set_note("a.gguf", "")
    assert list((shelf.state_dir / "library").iterdir()) == []


async def test_a_file_is_renamed_with_all_that_is_known_of_it(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    choices = ModelChoices(shelf.state_dir / "models.yaml")
    choices.remember(LoadChoice(name, "llama.cpp", {"context_length": 512}))
    await shelf.service.set_note(name, "mine")
    await shelf.verify(name)
    new = await shelf.service.rename(name, "Shetland pony")
    assert new == "meadow__pony/Shetland pony.gguf"
    row = await shelf.of(new)
    assert (row.repo, row.note, row.verified_state, row.rename_part) == ("meadow/pony", "mine", "good", "Shetland pony.gguf")
    assert row.used_s > time.time() - 60
    assert (choices.last(), choices.of(new).options, choices.of(name).options) == (new, {"context_length": 512}, {})
    assert (await shelf.verify(new)).verified_state == "good"
    assert await shelf.names() == [new]
    shelf.put(name)  # another one of the old name inherits nothing
    assert ((await shelf.of(name)).note, (await shelf.of(name)).repo, (await shelf.of(name)).verified) == ("", "", "")


async def test_a_folder_is_renamed_with_the_models_in_it(shelf: Shelf) -> None:
    shelf.put("pair/config.json", b"{}")
    shelf.put("pair/model.safetensors")
    shelf.put("pair/x.gguf")
    await shelf.service.set_note("pair/x.gguf", "inside")
    assert await shelf.service.rename("pair", "couple") == "couple"
    assert await shelf.names() == ["couple", "couple/x.gguf"]
    assert (await shelf.of("couple/x.gguf")).note == "inside"
    assert (await shelf.of("couple")).deletes == ("couple/x.gguf",)


async def test_a_model_in_parts_is_renamed_with_its_folder(shelf: Shelf) -> None:
    for part in PARTS:
        shelf.put(f"big/{part}")
        shelf.put(part)
    assert await shelf.service.rename(f"big/{PARTS[0]}", "huge") == f"huge/{PARTS[0]}"
    with pytest.raises(InvalidRequest, match="in parts whose names belong together"):
        await shelf.service.rename(PARTS[0], "huge")
    shelf.put("a.gguf")
    with pytest.raises(InvalidRequest, match="how a part of a larger model is named"):
        await shelf.service.rename("a.gguf", PARTS[1])


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names_change_nothing(shelf: Shelf, name: str) -> None:
    shelf.put("a.gguf")
    shelf.put("sub/b.gguf")
    before = shelf.outside()
    for model in ("a.gguf", "sub/b.gguf"):
        with pytest.raises(InvalidRequest):
            await shelf.service.rename(model, name)
    for verb in (shelf.service.delete(name), shelf.service.rename(name, "c"), shelf.service.restore(name), shelf.service.discard(name)):
        with pytest.raises(NotFound):
            await verb
    with pytest.raises(NotFound):
        await shelf.service.verify("me", name)
    with pytest.raises(NotFound):
        await shelf.service.check_update(name)
    assert shelf.outside() == before


async def test_a_taken_name_is_refused(shelf: Shelf) -> None:
    shelf.put("a.gguf")
    shelf.put("b.gguf", b"other")
    with pytest.raises(InvalidRequest, match=r"There is “b\.gguf” already"):
        await shelf.service.rename("a.gguf", "b")
    assert await shelf.service.rename("a.gguf", "a.gguf") == "a.gguf"
    assert (shelf.models_dir / "b.gguf").read_bytes() == b"other"


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
    elsewhere.mkdir()
    (elsewhere / "real.gguf").write_bytes(WEIGHTS)
    (elsewhere / "config.json").write_bytes(b"{}")
    (elsewhere / "model.safetensors").write_bytes(WEIGHTS)
    (shelf.models_dir / "linked.gguf").symlink_to(elsewhere / "real.gguf")
    (shelf.models_dir / "folder").symlink_to(elsewhere)
    gone = await shelf.service.delete("linked.gguf")
    await shelf.service.discard(gone.id)
    with pytest.raises(InvalidRequest, match="behind the link “folder”"):
        await shelf.service.delete("folder/real.gguf")
    with pytest.raises(InvalidRequest, match="behind the link “folder”"):
        await shelf.service.rename("folder/real.gguf", "x")
    assert await shelf.service.rename("folder", "place") == "place"
    gone = await shelf.service.delete("place")
    await shelf.service.restore(gone.id)
    assert (shelf.models_dir / "place").is_symlink()
    await shelf.service.discard((await shelf.service.delete("place")).id)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["config.json", "model.safetensors", "real.gguf"]
    assert await shelf.names() == []


async def test_the_bin_empties_itself_and_on_request(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("a.gguf")
    shelf.put("b.gguf")
    gone = await shelf.service.delete("a.gguf")
    await shelf.service.discard(gone.id)
    assert list((shelf.models_dir / ".bin").iterdir()) == []
    await shelf.service.delete("b.gguf")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S - 60)
    assert [row.days_left for row in await shelf.service.bin()] == [1]
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S + 60)
    await shelf.service.start()
    assert list((shelf.models_dir / ".bin").iterdir()) == []


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
    entry = shelf.models_dir / ".bin" / gone.id / "entry.json"
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


async def test_verify_finds_damage_and_says_when_the_file_changed_since(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    row = await shelf.verify(name)
    assert (row.verified[:2], row.verified_state, row.damaged, row.has_hashes_since) == ("20", "good", (), "")
    path = shelf.models_dir / name
    path.write_bytes(WEIGHTS[:-1] + b"!")
    assert (await shelf.of(name)).verified_state == "changed"
    row = await shelf.verify(name)
    assert (row.verified_state, row.damaged) == ("damaged", (name,))
    shelf.put("own.gguf")
    row = await shelf.verify("own.gguf")
    assert (row.verified_state, row.has_hashes_since[:2]) == ("kept", "20")
    assert (await shelf.verify("own.gguf")).verified_state == "good"
    shelf.put("own.gguf", WEIGHTS[::-1])
    assert (await shelf.verify("own.gguf")).damaged == ("own.gguf",)


async def test_a_verification_that_runs_is_not_begun_twice(shelf: Shelf) -> None:
    shelf.put("a.gguf", bytes(50_000_000))
    first, second = await asyncio.gather(shelf.service.verify("me", "a.gguf"), shelf.service.verify("me", "a.gguf"))
    third = await shelf.service.verify("me", "a.gguf")
    assert third.id in (first.id, second.id)
    for job in {first.id: first, second.id: second}.values():
        await shelf.ended(job)


async def test_what_is_newer_at_the_hub(shelf: Shelf, hub: HubServer) -> None:
    name = await downloaded(shelf)
    assert (await shelf.service.check_update(name)).commit == ""
    hub.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS}, commit="b" * 40)
    update = await shelf.service.check_update(name)
    assert (update.commit, update.changed, update.removed) == ("b" * 40, (), ())
    hub.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS[::-1]}, commit="c" * 40)
    update = await shelf.service.check_update(name)
    assert (update.commit, update.changed, update.files) == ("c" * 40, ("pony-Q8_0.gguf",), ("pony-Q8_0.gguf",))
    wanted = {"repo": update.repo, "revision": update.commit, "files": update.files, "kind": update.kind}
    await shelf.ended(await shelf.hub.download("me", wanted))
    assert await shelf.names() == ["meadow__pony-cccccccccccc/pony-Q8_0.gguf", "meadow__pony/pony-Q8_0.gguf"]
    hub.add("meadow/pony", {"README.md": b""}, commit="d" * 40)
    assert (await shelf.service.check_update(name)).removed == ("pony-Q8_0.gguf",)
    hub.repos.clear()
    with pytest.raises(HubError):
        await shelf.service.check_update(name)
    shelf.put("own.gguf")
    with pytest.raises(InvalidRequest, match="not known where “own.gguf” came from"):
        await shelf.service.check_update("own.gguf")


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
