"""What a person types into the search box, as a condition on conversations.

Every term must occur in the title or in some message, in any version. Words match by their beginning, “quoted text” as it stands;
no character typed has a meaning of its own to SQLite.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, literal_column, or_, select

from modules.store.schema import conversations, message_search, messages, storable, title_search

TERM_LIMIT = 8
TERM_LENGTH_LIMIT = 100
# Scripts written without spaces: the index knows their sentences as one word, so they are looked for letter by letter.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
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


def matches(term: Term) -> ColumnElement[bool]:
    """The condition that a conversation has the term in its title or in one of its messages."""
    in_title = _condition(term, title_search, conversations.c.title, conversations.c.position)
    in_message = _condition(term, message_search, messages.c.content, messages.c.position)
    return or_(in_title, conversations.c.id.in_(select(messages.c.conversation_id).where(in_message)))


def _condition(term: Term, index: Any, text: ColumnElement[str], position: ColumnElement[int]) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if term.index_query:
        # The name of an FTS5 table stands for all its columns in MATCH.
        found = select(index.c.rowid).where(literal_column(index.name).op("MATCH")(term.index_query))
        parts.append(position.in_(found))
    if term.needs_reading:
        parts.append(text.contains(term.text, autoescape=True))
    return and_(*parts)
