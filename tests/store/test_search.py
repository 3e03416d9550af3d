"""Search: words by their beginning, quoted text, and nothing typed that SQLite would take for its own language."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.store.conversations import ConversationStore
from modules.store.database import Database
from modules.store.messages import MessageStore
from modules.store.records import NewConversation, NewMessage
from modules.store.search import terms_of

TEXTS = {
    "recipe": ("A recipe for plum cake with 250 g of flour", "Heat the oven. Don't open it."),
    "code": ("How do I sort in C++?", "Use std::sort(begin, end); it is 100% standard."),
    "chinese": ("今天的天气怎么样？", "今天天气很好。"),
    "german": ("Wie heißt der Bürgermeister von Wesel?", "Esel! Ein alter Scherz."),
    "operators": ("NEAR AND OR NOT \"quoted words\" here* col:umn", "snake_case {braces} ^caret"),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConversationStore]:
    database = Database(tmp_path_factory.mktemp("library"))
    messages = MessageStore(database)
    for title, texts in TEXTS.items():
        new = tuple(NewMessage("user", text, place - 1 if place else None, 1.0) for place, text in enumerate(texts))
        messages.insert_tree("ann", NewConversation(f"About {title}", {}, new))
    yield ConversationStore(database)
    database.close()


def found(store: ConversationStore, typed: str) -> set[str]:
    return {summary.title.removeprefix("About ") for summary in store.list("ann", typed)}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", set(TEXTS)),
        ("   ", set(TEXTS)),
        ("plum", {"recipe"}),
        ("PLU", {"recipe"}),  # beginning of a word, any case
        ("lum", set()),  # not its middle
        ("plum oven", {"recipe"}),  # words of different messages
        ("plum weather", set()),
        ("about", set(TEXTS)),  # the title
        ("about plum", {"recipe"}),  # title and message
        ("don't", {"recipe"}),
        ("burgermeister", {"german"}),  # accents do not matter
        ("bürgerm", {"german"}),
        ("C++", {"code"}),
        ("C#", set()),
        ("std::sort", {"code"}),
        ("100%", {"code"}),
        ("10%", set()),  # % is a percent sign, not “anything”
        ("snake_case", {"operators"}),
        ("snakeXcase", set()),
        ("天气", {"chinese"}),  # inside a sentence without spaces
        ("气天", set()),
        ("AND", {"operators"}),
        ("NEAR(", set()),
        ("here*", {"operators"}),
        ("col:umn", {"operators"}),
        ("{braces}", {"operators"}),
        ("^caret", {"operators"}),
        ('"quoted words"', {"operators"}),
        ('"words quoted"', set()),
        ('"quoted wor"', set()),  # quoted text does not stand for longer words
        ('"', set(TEXTS)),
        ('""', set(TEXTS)),
        ('plum"', {"recipe"}),
        ("'; DROP TABLE messages; --", set()),
        ("?", {"code", "german"}),
        ("\ud800", {"code", "german"}),  # half a pair is looked for as it is stored, as “?”
        ("plum\0", {"recipe"}),
        ("🙂", set()),
    ],
)
def test_what_is_found(library: ConversationStore, typed: str, expected: set[str]) -> None:
    assert found(library, typed) == expected


@settings(max_examples=100, deadline=None)
@given(typed=st.text(st.one_of(st.sampled_from('"*^:(){}[]-+~|&\\/%_\' \0abcANDORNOTNEAR'), st.characters()), max_size=40))
def test_nothing_typed_is_an_error(library: ConversationStore, typed: str) -> None:
    assert found(library, typed) <= set(TEXTS)


def test_a_long_search_is_cut() -> None:
    terms = terms_of("x" * 500 + " word" * 50)
    assert len(terms) == 8
    assert len(terms[0].text) == 100


def test_the_index_follows_every_change(conversations: ConversationStore, messages: MessageStore, say) -> None:
    conversation_id = conversations.create("ann", {})
    first, _ = messages.append("ann", conversation_id, None, say("alpha"), auto_title="omega")
    reply, _ = messages.append("ann", conversation_id, first.id, say("", "assistant", "streaming"))

    def finds(word: str) -> bool:
        return bool(conversations.list("ann", word))

    assert finds("alpha")
    assert finds("omega")
    messages.save("ann", reply.id, {"content": "beta", "status": "streaming"})
    assert not finds("beta"), "a text that still grows is not in the index"
    messages.save("ann", reply.id, {"content": "beta gamma", "status": "complete"})
    assert finds("gamma")
    messages.save("ann", reply.id, {"content": "delta", "status": "streaming"})
    assert not finds("gamma")
    messages.recover()
    assert finds("delta")
    conversations.rename("ann", conversation_id, "sigma")
    assert finds("sigma")
    assert not finds("omega")
    messages.delete("ann", reply.id)
    assert not finds("delta")
    conversations.delete("ann", conversation_id)
    assert not finds("alpha")


def test_a_search_of_many_messages_is_quick(conversations: ConversationStore, messages: MessageStore) -> None:
    chain = tuple(NewMessage("user", f"word{place} lorem ipsum dolor " * 5, place - 1 if place else None, 1.0) for place in range(2000))
    messages.insert_tree("ann", NewConversation("long", {}, chain))
    started = time.perf_counter()
    assert len(conversations.list("ann", "word1999")) == 1
    assert time.perf_counter() - started < 0.5
