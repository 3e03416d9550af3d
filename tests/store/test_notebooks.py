"""The notebook's text, its conflicts, and going back and forth."""

from __future__ import annotations

import pytest

from modules.core.errors import Conflict
from modules.store.database import Database
from modules.store.notebooks import SNAPSHOT_LIMIT, NotebookStore


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
