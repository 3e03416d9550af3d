"""The libraries of models and of adapters: facts, rename, notes, verify and updates, with real files and hostile names."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from modules.core.errors import HubError, InvalidRequest, NotFound
from modules.services.library_facts import Facts, FactStore, Learned, TemplateCheck
from modules.services.model_choices import LoadChoice, ModelChoices
from tests.hub.hub_server import HubServer
from tests.services.shelves import WEIGHTS, Shelf, downloaded

pytestmark = pytest.mark.processes

PARTS = tuple(f"big-{number:05d}-of-00003.gguf" for number in (1, 2, 3))
HOSTILE = (
    "../evil", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "a\x00b", "a\nb", "con", "x" * 101, "‮gguf", "~", "$(id)", "a.gguf/../../b",
)  # fmt: skip
of_models = pytest.mark.parametrize("shelf", ["model"], indirect=True)


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
    assert list(shelf.facts_dir.iterdir()) == []


async def test_a_file_is_renamed_with_all_that_is_known_of_it(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    await shelf.service.set_note(name, "mine")
    await shelf.verify(name)
    new = await shelf.service.rename(name, "Shetland pony")
    assert new == "meadow__pony/Shetland pony.gguf"
    row = await shelf.of(new)
    assert (row.repo, row.note, row.verified_state, row.rename_part) == ("meadow/pony", "mine", "good", "Shetland pony.gguf")
    assert (await shelf.verify(new)).verified_state == "good"
    assert await shelf.names() == [new]
    shelf.put(name)  # another one of the old name inherits nothing
    assert ((await shelf.of(name)).note, (await shelf.of(name)).repo, (await shelf.of(name)).verified) == ("", "", "")


@of_models
async def test_how_a_model_was_loaded_goes_along(shelf: Shelf) -> None:
    shelf.put("a.gguf")
    choices = ModelChoices(shelf.state_dir / "models.yaml")
    choices.remember(LoadChoice("a.gguf", "llama.cpp", {"context_length": 512}))
    await shelf.service.rename("a.gguf", "b")
    assert (choices.last(), choices.of("b.gguf").options, choices.of("a.gguf").options) == ("b.gguf", {"context_length": 512}, {})
    assert (await shelf.of("b.gguf")).used_s > time.time() - 60
    await shelf.service.delete("b.gguf")
    assert (choices.last(), choices.of("b.gguf").options) == ("", {"context_length": 512})


async def test_what_engines_told_goes_along_and_counts_until_the_file_changes(shelf: Shelf) -> None:
    path = shelf.put("a.gguf")
    facts, told_s = FactStore(shelf.facts_dir), time.time() + 1
    assert (await shelf.of("a.gguf")).template is None
    facts.learn(Learned(name="a.gguf", used_s=told_s, examined_s=told_s, template_doubts=("It does not fit.",)))
    await shelf.service.rename("a.gguf", "b")
    gone = await shelf.service.delete("b.gguf")
    assert facts.read("b.gguf") == Facts(name="b.gguf")
    await shelf.service.restore(gone.id)
    row = await shelf.of("b.gguf")
    assert (row.used_s, row.template) == (told_s, TemplateCheck(doubts=("It does not fit.",)))
    facts.learn(Learned(name="b.gguf", examined_s=told_s))
    assert (await shelf.of("b.gguf")).template == TemplateCheck()
    os.utime(path.with_name("b.gguf"), (told_s + 5, told_s + 5))
    assert (await shelf.of("b.gguf")).template is None


async def test_a_folder_is_renamed_with_the_models_in_it(shelf: Shelf) -> None:
    shelf.put_folder(shelf.folder / "pair")
    shelf.put("pair/x.gguf")
    await shelf.service.set_note("pair/x.gguf", "inside")
    assert await shelf.service.rename("pair", "couple") == "couple"
    assert await shelf.names() == ["couple", "couple/x.gguf"]
    assert (await shelf.of("couple/x.gguf")).note == "inside"
    assert (await shelf.of("couple")).deletes == ("couple/x.gguf",)


@of_models
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
    assert (shelf.folder / "b.gguf").read_bytes() == b"other"


async def test_verify_finds_damage_and_says_when_the_file_changed_since(shelf: Shelf) -> None:
    name = await downloaded(shelf)
    row = await shelf.verify(name)
    assert (row.verified[:2], row.verified_state, row.damaged, row.has_hashes_since) == ("20", "good", (), "")
    path = shelf.folder / name
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


async def test_what_is_newer_at_the_hub(shelf: Shelf, shelf_hub: HubServer) -> None:
    name = await downloaded(shelf)
    assert (await shelf.service.check_update(name)).commit == ""
    shelf_hub.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS}, commit="b" * 40)
    update = await shelf.service.check_update(name)
    assert (update.commit, update.changed, update.removed) == ("b" * 40, (), ())
    shelf_hub.add("meadow/pony", {"pony-Q8_0.gguf": WEIGHTS[::-1]}, commit="c" * 40)
    update = await shelf.service.check_update(name)
    assert (update.commit, update.changed, update.files) == ("c" * 40, ("pony-Q8_0.gguf",), ("pony-Q8_0.gguf",))
    wanted = {"repo": update.repo, "revision": update.commit, "files": update.files, "kind": update.kind}
    await shelf.ended(await shelf.hub.download("me", wanted))
    assert await shelf.names() == ["meadow__pony-cccccccccccc/pony-Q8_0.gguf", "meadow__pony/pony-Q8_0.gguf"]
    shelf_hub.add("meadow/pony", {"README.md": b""}, commit="d" * 40)
    assert (await shelf.service.check_update(name)).removed == ("pony-Q8_0.gguf",)
    shelf_hub.repos.clear()
    with pytest.raises(HubError):
        await shelf.service.check_update(name)
    shelf.put("own.gguf")
    with pytest.raises(InvalidRequest, match="not known where “own.gguf” came from"):
        await shelf.service.check_update("own.gguf")
