"""The notebook's text, its conflicts, and going back and forth."""

from __future__ import annotations

import inspect
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from modules.core.errors import Conflict, NotFound
from modules.store.database import FILE_NAME, Database
from modules.store.migrations import MIGRATIONS
from modules.store.notebook_steps import NOTEBOOK_STEPS
from modules.store.notebooks import SNAPSHOT_LIMIT, VERSION_LIMIT, NotebookStore


@pytest.fixture
def notebook(database: Database) -> NotebookStore:
    return NotebookStore(database)


def test_an_owner_without_a_notebook_has_an_empty_one(notebook: NotebookStore) -> None:
    now = notebook.read("ann")
    assert (now.text, now.rev, now.can_undo, now.can_redo) == ("", 0, False, False)
    assert notebook.undo("ann") == now
    assert notebook.redo("ann") == now


def test_a_second_window_gets_a_conflict_with_the_stored_text(notebook: NotebookStore) -> None:
    rev = notebook.save("ann", "one", 0)
    assert notebook.save("ann", "two", rev) == rev + 1
    with pytest.raises(Conflict) as caught:
        notebook.save("ann", "other two", rev)
    assert caught.value.details == {"text": "two", "rev": rev + 1}
    assert notebook.read("ann").text == "two"
    assert notebook.save("ann", "two", rev) == rev + 1, "the same text is no conflict"
    assert notebook.save("ann", "three") == rev + 2, "without a revision it is simply replaced"


def test_back_and_forth(notebook: NotebookStore) -> None:
    notebook.save("ann", "prompt")
    notebook.push_undo("ann")
    notebook.save("ann", "prompt and reply")
    notebook.push_undo("ann")
    notebook.save("ann", "prompt and reply and more")
    back = notebook.undo("ann")
    assert (back.text, back.can_undo, back.can_redo) == ("prompt and reply", True, True)
    back = notebook.undo("ann")
    assert (back.text, back.can_undo, back.can_redo) == ("prompt", False, True)
    assert notebook.undo("ann") == back
    assert notebook.redo("ann").text == "prompt and reply"
    forth = notebook.redo("ann")
    assert (forth.text, forth.can_redo) == ("prompt and reply and more", False)
    assert notebook.undo("ann").rev == forth.rev + 1, "other windows see the change"


def test_what_was_typed_after_the_reply_comes_back_with_redo(notebook: NotebookStore) -> None:
    notebook.save("ann", "prompt")
    notebook.push_undo("ann")
    notebook.save("ann", "prompt and reply, edited")
    assert notebook.undo("ann").text == "prompt"
    assert notebook.redo("ann").text == "prompt and reply, edited"


def test_a_new_generation_ends_what_could_be_redone(notebook: NotebookStore) -> None:
    notebook.save("ann", "prompt")
    notebook.push_undo("ann")
    notebook.save("ann", "first try")
    notebook.undo("ann")
    notebook.push_undo("ann")
    notebook.save("ann", "second try")
    now = notebook.read("ann")
    assert (now.can_undo, now.can_redo) == (True, False)
    assert notebook.undo("ann").text == "prompt"


def test_a_generation_that_wrote_nothing_is_passed_over_by_undo_but_not_by_its_repetition(notebook: NotebookStore) -> None:
    def two_generations() -> None:
        for kept, text in (("a", "ab"), ("ab", "ab")):
            notebook.save("ann", kept)
            notebook.push_undo("ann")
            notebook.save("ann", text)

    two_generations()
    assert notebook.undo("ann").text == "a"
    two_generations()
    assert notebook.undo("ann", exact=True).text == "ab"
    assert notebook.undo("ann", exact=True).text == "a"


def test_only_the_last_snapshots_are_kept(notebook: NotebookStore) -> None:
    for number in range(SNAPSHOT_LIMIT + 10):
        notebook.push_undo("ann")
        notebook.save("ann", f"text {number}")
    texts = []
    while (now := notebook.read("ann")).can_undo:
        texts.append(notebook.undo("ann").text)
        assert texts[-1] != now.text
    assert len(texts) == SNAPSHOT_LIMIT
    assert texts[-1] == "text 9"


# ---- several notebooks ---------------------------------------------------------------------------------------------


def names(notebook: NotebookStore, search: str = "", *, deleted: bool = False) -> list[str]:
    return [row.name for row in notebook.list("ann", search, deleted=deleted)]


def test_the_one_opened_last_is_meant_without_an_id(notebook: NotebookStore) -> None:
    first = notebook.open("ann")
    assert notebook.open("ann") == first, "an owner without one gets one, once"
    second = notebook.create("ann", "second", "its text", {"preset": "x"})
    assert (notebook.read("ann").id, notebook.read("ann").text) == (second, "its text")
    notebook.save("ann", "of the first", None, first)
    assert notebook.read("ann").text == "its text"
    assert notebook.open("ann", first) == first
    assert notebook.read("ann").text == "of the first"
    assert [row.id for row in notebook.list("ann")] == [first, second]
    assert notebook.read("ann", second).settings == {"preset": "x"}
    notebook.change_settings("ann", second, {"preset": "y"})
    assert notebook.read("ann", second).settings == {"preset": "y"}


def test_notebooks_are_found_by_every_word_in_letters_of_any_size(notebook: NotebookStore) -> None:
    notebook.create("ann", "Österreich", "Ein Text über Berge")
    notebook.create("ann", "Plan", "berge und 100 % Täler")
    assert names(notebook, "BERGE") == ["Plan", "Österreich"]
    assert names(notebook, "ÖSTERREICH über") == ["Österreich"]
    assert names(notebook, "100 %") == ["Plan"]
    assert names(notebook, "berge meer") == []
    notebook.rename("ann", notebook.list("ann", "plan")[0].id, "Reise")
    assert names(notebook, "reise") == ["Reise"]


def test_a_deleted_notebook_lies_in_the_bin_until_it_is_purged(notebook: NotebookStore) -> None:
    kept, gone = notebook.create("ann", "kept", "a"), notebook.create("ann", "gone", "b")
    notebook.delete("ann", gone)
    assert (names(notebook), names(notebook, deleted=True)) == (["kept"], ["gone"])
    assert notebook.read("ann").id == kept
    with pytest.raises(NotFound):
        notebook.read("ann", gone)
    notebook.restore("ann", gone)
    assert notebook.read("ann", gone).text == "b"
    notebook.delete("ann", gone)
    assert notebook.purge(time.time() - 60) == 0
    assert notebook.purge(time.time() + 60) == 1
    with pytest.raises(NotFound):
        notebook.restore("ann", gone)
    assert names(notebook) == ["kept"]


def test_where_a_generation_began_is_known_after_undo_and_redo(notebook: NotebookStore) -> None:
    notebook.save("ann", "one three")
    notebook.push_undo("ann", "", (4, 4))
    notebook.save("ann", "one two three")
    assert notebook.undo("ann").place == (4, 4)
    assert notebook.redo("ann").text == "one two three"
    assert notebook.undo("ann", exact=True).place == (4, 4)
    notebook.push_undo("ann")
    notebook.save("ann", "one three four")
    assert notebook.undo("ann").place is None


def test_versions_are_kept_apart_in_order_and_only_the_last(notebook: NotebookStore) -> None:
    notebook_id, other = notebook.create("ann"), notebook.create("ann")
    assert notebook.keep_version("ann", "typed", "a" * 500, notebook_id)
    assert not notebook.keep_version("ann", "written", "a" * 500, notebook_id), "the same text is no version"
    assert not notebook.keep_version("ann", "typed", "", notebook_id)
    assert not notebook.keep_version("ann", "typed", "b", notebook_id, after_s=60), "the newest is younger"
    assert notebook.keep_version("ann", "written", "b", notebook_id)
    rows = notebook.versions("ann", notebook_id)
    assert [(row.kind, row.characters, len(row.text)) for row in rows] == [("written", 1, 1), ("typed", 500, 200)]
    assert notebook.version("ann", rows[1].number, notebook_id).text == "a" * 500
    grown = notebook.grow_version("ann", None, "a" * 500 + " and", notebook_id)
    assert notebook.grow_version("ann", grown, "a" * 500 + " and more", notebook_id) == grown
    newest = notebook.versions("ann", notebook_id)[0]
    assert (newest.kind, newest.number, newest.characters) == ("alternative", grown, 509)
    assert not notebook.keep_version("ann", "typed", "b", notebook_id), "the text still is what it was before the alternative"
    assert notebook.grow_version("ann", 10**6, "b and more", notebook_id) > grown, "one that is no longer there is kept anew"
    assert notebook.versions("ann", other) == ()
    with pytest.raises(NotFound, match="list of versions"):
        notebook.version("ann", rows[0].number, other)
    for number in range(VERSION_LIMIT + 5):
        notebook.keep_version("ann", "typed", f"text {number}", other)
    assert [row.text for row in notebook.versions("ann", other)][-1] == "text 5"
    assert len(notebook.versions("ann", notebook_id)) == 4


def test_a_version_in_a_list_shows_what_is_new_in_it(notebook: NotebookStore) -> None:
    notebook.keep_version("ann", "typed", "x" * 1000)
    notebook.keep_version("ann", "written", "x" * 1000 + " and then")
    newest, oldest = notebook.versions("ann")
    assert (newest.text, newest.begin, newest.characters) == ("x" * 40 + " and then", 960, 1009)
    assert (oldest.text, oldest.begin) == ("x" * 200, 0)


STRANGE = {
    "open": (), "rename": ("mine",), "change_settings": ({},), "edit_settings": (dict,), "delete": (), "restore": (), "read": (), "undo": (), "redo": (), "push_undo": (),
    "versions": (),
}  # fmt: skip


def test_a_stranger_finds_no_notebook_whatever_the_verb(notebook: NotebookStore) -> None:
    hers = notebook.create("ann", "hers", "text")
    verbs = {name for name, _ in inspect.getmembers(NotebookStore, inspect.isfunction) if not name.startswith("_")}
    assert verbs - {"list", "create", "purge"} == STRANGE.keys() | {"save", "keep_version", "grow_version", "version"}
    for verb, arguments in STRANGE.items():
        with pytest.raises(NotFound):
            getattr(notebook, verb)("bob", hers, *arguments)
    for call in (
        lambda: notebook.save("bob", "x", None, hers),
        lambda: notebook.keep_version("bob", "typed", "x", hers),
        lambda: notebook.version("bob", 1, hers),
        lambda: notebook.grow_version("bob", 1, "x", hers),
    ):
        with pytest.raises(NotFound):
            call()
    assert notebook.list("bob") == ()
    assert notebook.read("ann", hers).text == "text"


def test_the_one_text_of_before_is_the_first_notebook(tmp_path: Path) -> None:
    before = MIGRATIONS[: MIGRATIONS.index(NOTEBOOK_STEPS)]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        for statement in (statement for steps in before for statement in steps):
            connection.execute(statement)
        connection.execute("INSERT INTO notebooks VALUES ('ann', 'her text', 7)")
        for text in ("older", "old"):
            connection.execute("INSERT INTO notebook_snapshots (owner, stack, text) VALUES ('ann', 'undo', ?)", (text,))
        connection.execute(f"PRAGMA user_version = {len(before)}")
        connection.commit()
    database = Database(tmp_path)
    store = NotebookStore(database)
    now = store.read("ann")
    assert (now.text, now.rev, now.can_undo, now.can_redo, len(now.id)) == ("her text", 7, True, False, 26)
    assert [row.id for row in store.list("ann")] == [now.id]
    assert store.undo("ann").text == "old"
    assert store.undo("ann").text == "older"
    database.close()
