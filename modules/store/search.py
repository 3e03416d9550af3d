"""What a person types into the search box, as a condition on conversations.

Every term must occur in the title or in some message, in any version. Words match by their beginning, “quoted text” as it stands;
no character typed has a meaning of its own to SQLite.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal_column, or_, select

from modules.store.records import Snippet
from modules.store.schema import conversations, message_search, messages, storable, title_search

TERM_LIMIT = 8
TERM_LENGTH_LIMIT = 100
RARE_LIMIT = 2000  # messages with a word, above which it is a frequent one
SNIPPET_LIMIT = 100  # conversations of one list that get one
TEXT_READ, FOLD_LIMIT = 200_000, 20_000  # characters of a message that are looked at for it; without accents, which is slower
AROUND = 40  # characters before it, and half of those after it
# Scripts written without spaces: the index knows their sentences as one word, so they are looked for letter by letter.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SPACES = re.compile(r"\s+")
_TERM = re.compile(r'"([^"]*)"|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class Term:
    """One thing to be found; a word also matches longer words that begin with it."""

    text: str
    is_word: bool

    @property
    def index_query(self) -> str:
        """As a query of the full-text index; empty when the index cannot answer it."""
        if _UNSPACED.search(self.text) or not any(character.isalnum() for character in self.text):
            return ""
        return f'"{self.text}"' + ("*" if self.is_word else "")

    @property
    def needs_reading(self) -> bool:
        """Whether the texts must be looked at: the index sees letters and digits only (C++ is “c” to it)."""
        return not self.text.isalnum() or not self.index_query


def terms_of(typed: str) -> tuple[Term, ...]:
    """The terms of a search text, at most `TERM_LIMIT`."""
    cleaned = unicodedata.normalize("NFC", storable(typed)).replace("\0", " ")
    found = []
    for quoted, word in _TERM.findall(cleaned):
        text = " ".join((quoted or word).split())[:TERM_LENGTH_LIMIT]
        if text:
            found.append(Term(text, bool(word)))
    return tuple(found[:TERM_LIMIT])


def matches(connection: Connection, term: Term) -> ColumnElement[bool]:
    """The condition that a conversation has the term in its title or in one of its messages.

    A rare word is asked for its messages, and those for their conversations; of a frequent one that would be most of the database, so the
    conversations are gone through in the order of the list instead, which ends as soon as there are enough.
    """
    in_title = _condition(term, title_search, conversations.c.title, conversations.c.position)
    if _is_rare(connection, term):
        in_message = _condition(term, message_search, messages.c.content, messages.c.position)
        return or_(in_title, conversations.c.id.in_(select(messages.c.conversation_id).where(in_message, messages.c.bin_id.is_(None))))
    return or_(in_title, select(messages.c.position).where(messages.c.conversation_id == conversations.c.id, *_in_message(term)).exists())


def snippets(connection: Connection, ids: Sequence[str], terms: Sequence[Term]) -> dict[str, Snippet]:
    """Where the first terms stand that are in messages of these conversations, by the ids of the conversations."""
    positions: dict[str, tuple[int, Term]] = {}
    for term in terms:
        missing = [conversation_id for conversation_id in ids if conversation_id not in positions][:SNIPPET_LIMIT]
        query = select(messages.c.conversation_id, func.min(messages.c.position)).where(messages.c.conversation_id.in_(missing), *_in_message(term))
        for conversation_id, position in connection.execute(query.group_by(messages.c.conversation_id)):
            positions[conversation_id] = (position, term)
    texts = select(messages.c.conversation_id, func.substr(messages.c.content, 1, TEXT_READ)).where(
        messages.c.position.in_([position for position, _ in positions.values()])
    )
    return {key: snippet_of(text, positions[key][1]) for key, text in connection.execute(texts)} if positions else {}


def snippet_of(text: str, term: Term) -> Snippet:
    """A term with the words around it; the beginning of the text where it cannot be shown."""
    hit = _pattern(term, term.text).search(text) or _pattern(term, _without_accents(term.text)).search(_without_accents(text[:FOLD_LIMIT]))
    start, end = hit.span() if hit else (0, 0)
    before = _SPACES.sub(" ", text[max(0, start - AROUND) : start]).lstrip()
    after = _SPACES.sub(" ", text[end : end + 2 * AROUND]).rstrip()
    if start > AROUND:
        before = "…" + (before.partition(" ")[2] or before)
    if len(text) > end + 2 * AROUND:
        after = (after.rpartition(" ")[0] or after) + "…"
    return Snippet(before, text[start:end], after)


def _pattern(term: Term, text: str) -> re.Pattern[str]:
    words = r"\W+".join(re.escape(word) for word in text.split())
    return re.compile(words if term.needs_reading else rf"(?<!\w){words}", re.IGNORECASE)


def _without_accents(text: str) -> str:
    """Letters without their marks, one for one, so that places stay."""
    return "".join(unicodedata.normalize("NFD", letter)[0] for letter in text)


def _is_rare(connection: Connection, term: Term) -> bool:
    if not term.index_query:
        return False
    first = _hits(term, message_search).limit(RARE_LIMIT + 1).subquery()
    return connection.execute(select(func.count()).select_from(first)).scalar_one() <= RARE_LIMIT


def _hits(term: Term, index: Any) -> Select[tuple[int]]:
    # The name of an FTS5 table stands for all its columns in MATCH.
    return select(index.c.rowid).where(literal_column(index.name).op("MATCH")(term.index_query))


def _in_message(term: Term) -> tuple[ColumnElement[bool], ...]:
    """The conditions on a message of conversations that are named already; the sum keeps SQLite from beginning with the index of words."""
    return messages.c.bin_id.is_(None), _condition(term, message_search, messages.c.content, messages.c.position + 0)


def _condition(term: Term, index: Any, text: ColumnElement[str], position: ColumnElement[int]) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if term.index_query:
        parts.append(position.in_(_hits(term, index)))
    if term.needs_reading:
        parts.append(text.contains(term.text, autoescape=True))
    return and_(*parts)
