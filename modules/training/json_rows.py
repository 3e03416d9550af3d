"""Rows out of JSON: a list read element by element, objects one after the other, an object that holds one list.

Knows text and lines, no files' names but to tell them, and no meaning of a column.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from modules.core.errors import InvalidRequest

CHUNK_BYTES = 1 << 20
VALUE_LIMIT_CHARS = 64 << 20  # one row, or a file that is one object
LITERAL_CHARS = 16  # a fault nearer to the end than this may be a word that goes on behind it
SPACES = re.compile(r"\s+")
NUMBER_GOES_ON = ".eE"
OWN_LISTS = frozenset({"messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "chosen", "rejected", "prompt", "completion", "tools"})
CURE = "Correct it there or take it out."


def line_row(line: str, where: str) -> dict[str, Any]:
    """The columns of one line of JSONL.

    Raises:
        InvalidRequest: it is not JSON, or no row.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequest(_not_json(where, error, line)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(_too_much(where)) from error
    return columns_of(value, where)


def columns_of(value: Any, where: str) -> dict[str, Any]:
    """A row as columns: an object as it is, a bare text or list of messages under its usual name.

    Raises:
        InvalidRequest: it is something else.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {"messages": value}
    kind = {list: "a list of other things than messages", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    raise InvalidRequest(f"{where}: a row must be an object with named columns, a text or a list of messages; this one is {kind}. {CURE}")


def json_rows(file: BinaryIO, name: str, *, unfold: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Places and columns of all rows of a JSON file; without `unfold` an object that holds one list is a row itself.

    Raises:
        InvalidRequest: naming file and line.
    """
    source = JsonSource(file, name)
    if source.next_char() == "[":
        yield from _list_rows(source, name)
    elif source.next_char():
        yield from _object_rows(source, name, unfold)


def _list_rows(source: JsonSource, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in source.elements():
        where = f"{name}, row {number} (line {source.line})"
        yield where, columns_of(source.value(), where)
    if source.next_char():
        raise InvalidRequest(f"{name}, line {source.line}: something follows the end of the list. {CURE}")


def _object_rows(source: JsonSource, name: str, unfold: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    line = source.line
    first = source.value()
    if not source.next_char():
        held = _held_list(first) if unfold else None
        rows = [(f"{name}, row {number}", item) for number, item in enumerate(held, 1)] if held is not None else [(f"{name}, line {line}", first)]
        for where, item in rows:
            yield where, columns_of(item, where)
        return
    yield f"{name}, line {line}", columns_of(first, f"{name}, line {line}")
    while source.next_char():  # JSONL under another name
        where = f"{name}, line {source.line}"
        yield where, columns_of(source.value(), where)


def _held_list(value: Any) -> list[Any] | None:
    """The rows of an object that holds one list of objects, like {"version": 1, "data": […]}; None for an object that is a row itself."""
    lists = [(key, inner) for key, inner in value.items() if isinstance(inner, list)] if isinstance(value, dict) else []
    if len(lists) != 1 or lists[0][0].lower() in OWN_LISTS:
        return None
    return lists[0][1] if all(isinstance(item, dict) for item in lists[0][1]) else None


def _not_json(where: str, error: json.JSONDecodeError, text: str = "") -> str:
    if text.strip() == "[":
        return f"{where} begins a JSON list, but the file's name says one object a line; let the name end in .json."
    return f"{where} is not JSON: {error.msg[:100]} (column {error.colno}). {CURE}"


def _too_much(where: str) -> str:
    return f"{where} is nested too deeply or holds a number too long to be read. {CURE}"


class JsonSource:
    """The JSON text of a file, of which only the value that is being read is in memory."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False
        self.line = 1  # of the next character
        self.passed = 0  # characters before it

    def next_char(self) -> str:
        """The next character that is no space, which stays; empty at the end."""
        while True:
            spaces = SPACES.match(self._text, self._at)
            self._move(spaces.end() if spaces else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill()

    def elements(self) -> Iterator[int]:
        """The numbers of the values in the list that comes next; each value is to be read before the next number is asked for.

        Raises:
            InvalidRequest: it is no list, or one that does not end as lists do.
        """
        self._expect("[", "list", "a list")
        number = 0
        while self.next_char() != "]":
            if number:
                self._expect(",", "list", "“,” or the end of the list")
            self.next_char()
            number += 1
            yield number
        self._skip()

    def members(self) -> Iterator[str]:
        """The names in the object that comes next; the value of each is to be read before the next name is asked for.

        Raises:
            InvalidRequest: it is no object, or one that does not end as objects do.
        """
        self._expect("{", "object", "an object")
        first = True
        while self.next_char() != "}":
            if not first:
                self._expect(",", "object", "“,” or the end of the object")
            if self.next_char() != '"':
                self._unexpected("object", "a name")
            name = str(self.value())
            self._expect(":", "object", f"“:” behind the name “{name[:40]}”")
            self.next_char()
            first = False
            yield name
        self._skip()

    def _expect(self, char: str, inside: str, what: str) -> None:
        """Go over a character that must be next."""
        if self.next_char() != char:
            self._unexpected(inside, what)
        self._skip()

    def _unexpected(self, inside: str, what: str) -> NoReturn:
        found = self.next_char()
        told = f"“{found}” stands where {what} was expected" if found else f"the file ends before its {inside} does"
        raise InvalidRequest(f"{self._name}, line {self.line}: {told}. {CURE}")

    def _skip(self) -> None:
        self._move(self._at + 1)

    def value(self, limit_chars: int | None = None) -> Any:
        """The next value, a text or one of at most `limit_chars`; more of the file is read until it is whole."""
        limit = VALUE_LIMIT_CHARS if limit_chars is None or self.next_char() == '"' else min(limit_chars, VALUE_LIMIT_CHARS)
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or self._is_certain(error):
                    raise InvalidRequest(self._told(error)) from error
            except (ValueError, RecursionError) as error:
                raise InvalidRequest(_too_much(f"{self._name}, line {self.line}")) from error
            else:
                if self._ended or self._is_whole(end):
                    self._move(end)
                    return value
            if len(self._text) - self._at > limit:
                raise InvalidRequest(
                    f"{self._name}, line {self.line}: one value is longer than {limit >> 20} MiB, the most that is read at once; write the rows as a list, or one a line (.jsonl)."
                )
            self._fill()

    def _is_whole(self, end: int) -> bool:
        """Whether the value that ends here cannot go on behind the text that was read, as a number can."""
        left = len(self._text) - end
        return left > LITERAL_CHARS or (left > 0 and self._text[end] not in NUMBER_GOES_ON)

    def _is_certain(self, error: json.JSONDecodeError) -> bool:
        """Whether more text would not help."""
        return error.pos < len(self._text) - LITERAL_CHARS and not error.msg.startswith("Unterminated string")

    def _told(self, error: json.JSONDecodeError) -> str:
        line = self.line + self._text.count("\n", self._at, error.pos)
        return _not_json(f"{self._name}, line {line}", error)

    def _move(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self.passed += at - self._at
        self._at = at

    def _fill(self) -> None:
        raw = self._file.read(max(CHUNK_BYTES, len(self._text) - self._at))  # doubled for a long value, so that it is not begun again too often
        self._ended = not raw
        try:
            more = self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n", self._at) + raw.count(b"\n", 0, error.start)
            raise InvalidRequest(f"{self._name}, line {line} is not UTF-8 text; save the file as UTF-8.") from error
        self._text, self._at = self._text[self._at :] + more, 0
