"""The list of conversations: pages that fit together, tags, characters, and the words that a search found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.conversation_list import fill
from modules.core.errors import InvalidRequest
from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewMessage
from modules.store.search import Term, snippet_of


def store_talk(messages: MessageStore, *texts: str, title: str = "Talk", **values: object) -> str:
    rows = tuple(NewMessage("user", text, place - 1 if place else None, 1.0) for place, text in enumerate(texts))
    return messages.insert_tree("ann", NewConversation(title, values.pop("settings", {}), rows, **values))  # type: ignore[arg-type]


def pages(store: ConversationStore, limit: int, **question: str) -> list[list[str]]:
    found: list[list[str]] = []
    before = ""
    while rows := store.list("ann", before=before, limit=limit, **question):
        found.append([row.id for row in rows])
        before = rows[-1].key
    return found


def test_pages_are_the_whole_list_in_its_order(conversations: ConversationStore, messages: MessageStore) -> None:
    ids = [store_talk(messages, f"number {place}", title=f"{place}", pinned=place in (2, 5)) for place in range(9)]
    whole = [row.id for row in conversations.list("ann")]
    assert whole == [ids[place] for place in (5, 2, 8, 7, 6, 4, 3, 1, 0)]
    for limit in (1, 2, 4, 9, 20):
        found = pages(conversations, limit)
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
        assert [found_id for page in found for found_id in page] == whole
    assert [found_id for page in pages(conversations, 2, search="number") for found_id in page] == whole


def test_a_page_goes_on_where_the_one_before_ended_though_the_list_changed(conversations: ConversationStore, messages: MessageStore) -> None:
    ids = [store_talk(messages, "text") for _ in range(6)]
    first = conversations.list("ann", limit=2)
    conversations.pin("ann", ids[0], True)
    store_talk(messages, "newer")
    rest = conversations.list("ann", before=first[-1].key)
    assert [row.id for row in rest] == [ids[3], ids[2], ids[1]]


@pytest.mark.parametrize("key", ["x", "1_2", "1_2_3_4", "1_x_3", f"1_2_{10**30}", "é_1_1"])
def test_a_place_that_is_none_is_refused(conversations: ConversationStore, key: str) -> None:
    with pytest.raises(InvalidRequest, match="no place in the list"):
        conversations.list("ann", before=key)


def test_tags_and_characters_narrow_the_list(conversations: ConversationStore, messages: MessageStore) -> None:
    work = store_talk(messages, "budget", tags=("work", "50%"))
    both = store_talk(messages, "budget of the garden", tags=("work", "home"), settings={"character": "Ann"})
    store_talk(messages, "nothing")
    assert conversations.tags("ann") == {"work": 2, "50%": 1, "home": 1}
    assert [row.id for row in conversations.list("ann", tag="work")] == [both, work]
    assert [row.id for row in conversations.list("ann", "garden", tag="work")] == [both]
    assert conversations.list("ann", tag="wor") == conversations.list("ann", tag="%") == ()
    assert [row.id for row in conversations.list("ann", character="Ann")] == [both]
    assert conversations.characters("ann") == {"Ann": 1}
    assert conversations.summary("ann", work).tags == ("work", "50%")
    conversations.tag("ann", work, ["play"])
    assert conversations.tags("ann") == {"home": 1, "play": 1, "work": 1}


def test_a_search_shows_the_words_it_found(conversations: ConversationStore, messages: MessageStore) -> None:
    store_talk(messages, "Nothing here.", "Then we saw the Velocipedes\nof my aunt.", title="Vehicles")
    (row,) = conversations.list("ann", "velocipede")
    assert row.snippet is not None
    assert (row.snippet.before, row.snippet.found, row.snippet.after) == ("Then we saw the ", "Velocipede", "s of my aunt.")
    (by_title,) = conversations.list("ann", "vehicles")
    assert by_title.snippet is None
    (plain,) = conversations.list("ann")
    assert plain.snippet is None


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("Wie heißt der Bürgermeister?", Term("burgermeister", True), ("Wie heißt der ", "Bürgermeister", "?")),
        ("one cart, a car", Term("car", True), ("one ", "car", "t, a car")),
        ("scar and car", Term("car", True), ("scar and ", "car", "")),
        ("write C++ or c", Term("C++", True), ("write ", "C++", " or c")),
        ("so plum,\n cake", Term("plum cake", False), ("so ", "plum,\n cake", "")),
        ("今天的天气怎么样", Term("天气", True), ("今天的", "天气", "怎么样")),
        ("not there", Term("else", True), ("", "", "not there")),
        ("a" * 60 + " " + "b" * 30 + " word " + "c " * 70, Term("word", True), ("…" + "b" * 30 + " ", "word", " " + "c " * 38 + "c…")),
    ],
)
def test_snippets(text: str, term: Term, expected: tuple[str, str, str]) -> None:
    found = snippet_of(text, term)
    assert (found.before, found.found, found.after) == expected


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConversationStore]:
    """Ten thousand conversations of two messages: some words are in all of them, some in one."""
    database = Database(tmp_path_factory.mktemp("many"))
    fill(database)
    yield ConversationStore(database)
    database.close()


@pytest.mark.parametrize(
    ("question", "count"),
    [
        ({}, 60),
        ({"search": "word7777"}, 1),
        ({"search": "meadow"}, 60),
        ({"search": "the of"}, 60),
        ({"search": "m"}, 60),
        ({"search": "word777"}, 11),
        ({"search": "meadow word7777"}, 1),
        ({"search": "nowhere"}, 0),
        ({"search": "about lantern 5"}, 60),
    ],
    ids=str,
)
def test_one_of_ten_thousand_conversations_is_found(library: ConversationStore, question: dict[str, str], count: int) -> None:
    """How long it takes: `benchmarks/conversation_list.py`."""
    rows = library.list("ann", limit=60, **question)
    assert len(rows) == count
    assert all(row.messages == 2 for row in rows)


def test_the_last_page_of_ten_thousand(library: ConversationStore) -> None:
    assert library.list("ann", before="0_60.0_61", limit=60)[0].id == "c59"
