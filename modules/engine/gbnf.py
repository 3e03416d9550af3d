"""Grammars as llama.cpp's users write them (GBNF), read into a tree.

A rule is `name ::= …`; the text is what `root` stands for. Inside: "text", [classes], . for any character, names, groups, | and the repeats * + ? {m,n}.
Every number and depth is bounded here, before anything native sees the grammar. Knows no tokens and nothing of how a grammar is followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modules.core.errors import InvalidRequest

LAST_CHARACTER = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
DEEPEST_GROUP = 32
MOST_REPEATS = 2_000
ESCAPES = MappingProxyType({"n": 10, "r": 13, "t": 9, "\\": 92, '"': 34, "[": 91, "]": 93, "-": 45, "^": 94})
HEX_DIGITS = MappingProxyType({"x": 2, "u": 4, "U": 8})
NAME = re.compile(r"[A-Za-z0-9_-]+")
SPACE = re.compile(r"[ \t]*+(?:#[^\r\n]*+)?")
SPACE_AND_LINES = re.compile(r"\s*+(?:#[^\r\n]*+\s*+)*")
NEXT_ALTERNATIVE = re.compile(r"\s*+(?:#[^\r\n]*+\s*+)*\|")
BRACES = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")


@dataclass(frozen=True, eq=False)
class Chars:
    """One character out of ranges of code points, ascending."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Ref:
    """What a rule stands for."""

    name: str


@dataclass(frozen=True, eq=False)
class Seq:
    """One after the other; none is the empty text."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Alt:
    """One of them; of none there is no text at all."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """So many times; `most` None: without end."""

    item: Node
    least: int
    most: int | None


@dataclass(frozen=True, eq=False)
class Piece:
    """A part that is read as one: never written by a person, found by `lexemes.py`."""

    inner: Node


Node = Chars | Ref | Seq | Alt | Repeat | Piece


def read_gbnf(text: str) -> Mapping[str, Node]:
    """The rules of a grammar by name; `root` is among them and every name that is used.

    Raises:
        InvalidRequest: it is not GBNF, or larger than a grammar may be; the sentence has the line.
    """
    rules = _Reader(text).rules()
    if "root" not in rules:
        raise InvalidRequest("The grammar has no rule “root”; the reply is what root stands for: root ::= …", field="grammar")
    return rules


def complement(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """All characters outside the ranges."""
    left, begin = [], 0
    for low, high in sorted([*ranges, SURROGATES]):
        if low > begin:
            left.append((begin, low - 1))
        begin = max(begin, high + 1)
    if begin <= LAST_CHARACTER:
        left.append((begin, LAST_CHARACTER))
    return tuple(left)


class _Reader:
    """Reads one grammar from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._depth = 0
        self._used: dict[str, int] = {}  # names and where they were first used

    def rules(self) -> dict[str, Node]:
        """All rules."""
        found: dict[str, Node] = {}
        self._skip(lines=True)
        while self._place < len(self._text):
            name = self._name("the name of a rule")
            self._skip()
            if not self._text.startswith("::=", self._place):
                raise self._wrong(f"“::=” is missing after “{name}”")
            self._place += 3
            self._skip(lines=True)
            found[name] = self._alternatives()
            self._skip()
            if self._place < len(self._text) and self._text[self._place] not in "\r\n":
                raise self._wrong(f"“{self._text[self._place]}” is not expected here")
            self._skip(lines=True)
        for name, place in self._used.items():
            if name not in found:
                self._place = place
                raise self._wrong(f"there is no rule “{name}”")
        return found

    def _alternatives(self) -> Node:
        items = [self._sequence()]
        while True:
            more = NEXT_ALTERNATIVE.match(self._text, self._place)
            if more is None:
                return items[0] if len(items) == 1 else Alt(tuple(items))
            self._place = more.end()
            self._skip(lines=True)
            items.append(self._sequence())

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._skip(lines=self._depth > 0)
            item = self._item()
            if item is None:
                return items[0] if len(items) == 1 else Seq(tuple(items))
            self._skip(lines=self._depth > 0)
            items.append(self._repeated(item))

    def _item(self) -> Node | None:
        """The next part of a sequence, None at its end."""
        sign = self._text[self._place : self._place + 1]
        if sign == '"':
            return self._literal()
        if sign == "[":
            return self._class()
        if sign == "(":
            return self._group()
        if sign == ".":
            self._place += 1
            return Chars(complement([]))
        if sign in ("<", "!"):
            raise self._wrong("tokens (<…>) cannot be named in a grammar here; write their text")
        if NAME.match(sign):
            place = self._place
            name = self._name("a name")
            self._used.setdefault(name, place)
            return Ref(name)
        return None

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST_GROUP:
            raise self._wrong(f"more than {DEEPEST_GROUP} groups in each other; give the inner ones names")
        self._place += 1
        self._skip(lines=True)
        inner = self._alternatives()
        self._skip(lines=True)
        if not self._text.startswith(")", self._place):
            raise self._wrong("a group is not closed")
        self._place += 1
        self._depth -= 1
        return inner

    def _literal(self) -> Node:
        self._place += 1
        items: list[Node] = []
        while not self._text.startswith('"', self._place):
            code = self._character("a text is not closed")
            items.append(Chars(((code, code),)))
        self._place += 1
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _class(self) -> Node:
        self._place += 1
        negated = self._text.startswith("^", self._place)
        self._place += negated
        ranges: list[tuple[int, int]] = []
        while not self._text.startswith("]", self._place):
            low = high = self._character("a class is not closed")
            if self._text.startswith("-", self._place) and not self._text.startswith("-]", self._place):
                self._place += 1
                high = self._character("a class is not closed")
                if high < low:
                    raise self._wrong("the range of a class ends before it begins")
            ranges.append((low, high))
        self._place += 1
        return Chars(complement(ranges) if negated else complement(list(complement(ranges))))

    def _character(self, unclosed: str) -> int:
        """The code of the next character of a text or class."""
        sign = self._text[self._place : self._place + 1]
        if not sign:
            raise self._wrong(unclosed)
        self._place += 1
        if sign != "\\":
            return ord(sign)
        kind = self._text[self._place : self._place + 1]
        self._place += 1
        if kind in HEX_DIGITS:
            digits = self._text[self._place : self._place + HEX_DIGITS[kind]]
            if re.fullmatch(r"[0-9A-Fa-f]+", digits) and len(digits) == HEX_DIGITS[kind] and int(digits, 16) <= LAST_CHARACTER:
                self._place += len(digits)
                return int(digits, 16)
        elif kind in ESCAPES:
            return ESCAPES[kind]
        raise self._wrong(f"“\\{kind}” is no escape; there are \\n \\r \\t \\\\ \\\" \\[ \\] \\x41 \\u0041 \\U00000041")

    def _repeated(self, item: Node) -> Node:
        """The part with its repeat, if one follows."""
        sign = self._text[self._place : self._place + 1]
        if sign in ("*", "+", "?"):
            self._place += 1
            return Repeat(item, int(sign == "+"), 1 if sign == "?" else None)
        if sign != "{":
            return item
        found = BRACES.match(self._text, self._place)
        if found is None:
            raise self._wrong("a repeat is {3}, {3,} or {3,5}")
        least = int(found[1])
        most = least if found[2] is None else None if found[3] is None else int(found[3])
        if max(least, most or 0) > MOST_REPEATS:
            raise self._wrong(f"at most {MOST_REPEATS} repeats")
        if most is not None and most < least:
            raise self._wrong("a repeat ends before it begins")
        self._place = found.end()
        return Repeat(item, least, most)

    def _name(self, what: str) -> str:
        found = NAME.match(self._text, self._place)
        if found is None:
            raise self._wrong(f"{what} is missing")
        self._place = found.end()
        return found[0]

    def _skip(self, lines: bool = False) -> None:
        """Over spaces and comments, and over ends of lines where they mean nothing."""
        found = (SPACE_AND_LINES if lines else SPACE).match(self._text, self._place)
        assert found is not None, "nothing is a match too"
        self._place = found.end()

    def _wrong(self, what: str) -> InvalidRequest:
        before = self._text[: self._place]
        column = self._place - (before.rfind("\n") + 1) + 1
        return InvalidRequest(f"The grammar is not right in line {before.count(chr(10)) + 1}, column {column}: {what}.", field="grammar")
