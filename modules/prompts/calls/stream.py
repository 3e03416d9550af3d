"""Tells text and calls of tools apart in a reply that is still being written.

What could be the beginning of a call is held back until it is certain; what turns out to be none is text. Knows texts only.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from modules.core.generation import CallPiece
from modules.core.tools import call_id
from modules.prompts.calls import read_bare
from modules.prompts.calls.formats import CallFormat
from modules.prompts.calls.read import Tools
from modules.prompts.calls.tape import SPACE, Began, Event, More, NotACallError, Tape


class Read(NamedTuple):
    """What came since the last reading."""

    text: str
    calls: tuple[CallPiece, ...] = ()


class CallStream:
    """Splits a growing answer, each character once. `schemas` are those of the tools' arguments, by name."""

    def __init__(self, form: CallFormat, schemas: Mapping[str, Any], *, several: bool = True) -> None:
        self._tools = Tools(schemas)
        self._several = several
        self._readers = dict(form.readers())
        self._bare = dict.fromkeys(form.bare, read_bare.llama)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._readers, key=len, reverse=True))))
        self._longest = max(map(len, self._readers))
        self._firsts = frozenset(mark[0] for mark in self._readers)
        self._tape = Tape()
        self._opening = ""  # of the calls that are being read
        self._reading: Generator[Event | None, None, None] | None = None
        self._sure = False  # whether a call began behind that opening
        self._begun = False  # whether the reply has any text or call so far
        self._space: list[str] = []  # after text: what stands before a call is no part of the text
        self._count = 0  # of calls
        self._text: list[str] = []
        self._pieces: list[CallPiece] = []

    def feed(self, text: str, *, last: bool = False) -> Read:
        """What a piece of the answer adds."""
        tape = self._tape
        tape.feed(text, last=last)
        while self._read_calls() if self._reading else self._read_text():
            pass
        if last and not self._count:
            self._text += self._space
            self._space = []
        found = Read("".join(self._text), tuple(_joined(self._pieces)))
        self._text, self._pieces = [], []
        return found

    # ---- text ------------------------------------------------------------------------------------------------------

    def _read_text(self) -> bool:
        """Text up to the next opening; whether one was found."""
        tape, rest = self._tape, self._tape.rest
        if not self._begun and self._bare:
            begin = rest.lstrip(SPACE)
            if not begin and not tape.ended:
                return False
            if begin[:1] in self._bare and begin:
                return self._open(len(rest) - len(begin), begin[0])
        found = self._pattern.search(rest)
        if found:
            return self._open(found.start(), found[0])
        uncertain = self._uncertain(rest)
        self._say(tape.take(len(rest) - uncertain))
        if tape.ended and (self._begun or not self._count):
            self._say(tape.take(uncertain))  # at the end it is text, but right behind a call, where it is one that breaks off
        tape.settle()
        return False

    def _open(self, before: int, opening: str) -> bool:
        tape = self._tape
        self._say(tape.take(before))
        tape.settle()
        tape.take(len(opening))
        reader = self._bare.get(opening) or self._readers[opening]
        self._opening, self._sure = opening, False
        self._reading = reader(tape, self._tools, opening)
        return True

    def _say(self, text: str) -> None:
        """Text of the answer. Space at its end is kept until something follows it."""
        words = text.rstrip(SPACE)
        space = text[len(words) :]
        if not words:
            self._space.append(space)
        else:
            words, self._space = "".join(self._space) + words, [space]
            if self._count and not self._begun:
                words = words.lstrip(SPACE)
            self._text.append(words)
            self._begun = True

    def _uncertain(self, rest: str) -> int:
        """How many of the last characters may be the beginning of an opening."""
        tail = rest[-self._longest + 1 :]
        for place, char in enumerate(tail):
            if char in self._firsts and any(mark.startswith(tail[place:]) for mark in self._readers):
                return len(tail) - place
        return 0

    # ---- calls -----------------------------------------------------------------------------------------------------

    def _read_calls(self) -> bool:
        """Events of the calls behind an opening; whether they came to an end."""
        reading, tape = self._reading, self._tape
        assert reading is not None
        try:
            for event in reading:
                if event is None:
                    return False
                self._take(event)
                tape.settle()
        except NotACallError:
            if tape.broke_off and self._count:  # a part of a call behind calls is no text
                tape.take(len(tape.rest))
                tape.settle()
            tape.go_back()
        if not self._sure:  # nothing was called: the mark is text
            tape.go_back()
            self._say(tape.take(len(self._opening)))
            self._begun = True
        tape.settle()
        self._reading = None
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, Began):
            self._sure, self._begun, self._space = True, False, []
            self._count += 1
            if self._several or self._count == 1:
                self._pieces.append(CallPiece(self._count - 1, event.id or call_id(), event.name))
        elif isinstance(event, More) and event.text and (self._several or self._count == 1):
            self._pieces.append(CallPiece(self._count - 1, arguments=event.text))


def _joined(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """The same with neighbours of one call put together."""
    joined: list[CallPiece] = []
    for piece in pieces:
        if joined and joined[-1].index == piece.index:
            before = joined.pop()
            piece = CallPiece(before.index, before.id, before.name, before.arguments + piece.arguments)
        joined.append(piece)
    return joined
