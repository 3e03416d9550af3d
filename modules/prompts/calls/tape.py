"""The text of a reply as it comes, and steps that read it from front to back.

A step is a generator: it yields what it has found, or None where it needs more text, so that formats are written as if the whole text were there and each
character is looked at once. Knows no format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import NamedTuple, TypeVar

SPACE = " \t\r\n"
LONGEST_NAME = 256  # characters of anything that should be a name, before it is none
STRUCTURE, INSIDE = re.compile(r'["{}\[\]]'), re.compile(r'["\\]')
SCALAR = re.compile(r"[-+.\w]*")


class Began(NamedTuple):
    """A call began; its name is certain."""

    name: str
    id: str = ""  # where the model gives one


class More(NamedTuple):
    """More of the arguments' JSON text."""

    text: str


class Done(NamedTuple):
    """The call is complete."""


Event = Began | More | Done
T = TypeVar("T")
Steps = Generator[Event | None, None, T]


class NotACallError(Exception):
    """What stands here is no call of a tool."""


class Tape:
    """What has come and was not read yet."""

    __slots__ = ("_at", "_text", "broke_off", "ended", "safe")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self.safe = 0  # where to go on if what is being read turns out to be no call
        self.ended = False
        self.broke_off = False  # somebody wanted more than there is

    def feed(self, text: str, *, last: bool) -> None:
        """More text; `last` says that there will be none after it."""
        self._text = self._text[self.safe :] + text
        self._at -= self.safe
        self.safe, self.ended = 0, last

    @property
    def rest(self) -> str:
        """What is left, as far as it came."""
        return self._text[self._at :]

    def ahead(self, count: int) -> str:
        """Up to so many characters of what is left."""
        return self._text[self._at : self._at + count]

    def take(self, count: int) -> str:
        """Read so many characters."""
        begin = self._at
        self._at = min(len(self._text), begin + count)
        return self._text[begin : self._at]

    def back(self, count: int) -> None:
        """Read the last characters again."""
        self._at -= count

    def settle(self) -> None:
        """What was read so far is certain."""
        self.safe = self._at

    def go_back(self) -> None:
        """Read again from where it was certain."""
        self._at = self.safe


def wait(tape: Tape) -> Steps[None]:
    """Until more text is here.

    Raises:
        NotACallError: there is none.
    """
    if tape.ended:
        tape.broke_off = True
        raise NotACallError
    yield None


def peek(tape: Tape) -> Steps[str]:
    """The next character; empty at the end."""
    while not (text := tape.ahead(1)) and not tape.ended:
        yield None
    tape.broke_off |= not text
    return text


def skip(tape: Tape, chars: str = SPACE) -> Steps[str]:
    """Read over such characters; the next one."""
    while (char := (yield from peek(tape))) and char in chars:
        tape.take(1)
    return char


def literal(tape: Tape, *options: str) -> Steps[str]:
    """Read one of these texts, none of which begins another; empty where none stands here. The beginning of one that breaks off at the end is read too."""
    longest = max(map(len, options))
    while True:
        text = tape.ahead(longest)
        found = next((option for option in options if text.startswith(option)), "")
        if found:
            tape.take(len(found))
            return found
        if not any(option.startswith(text) for option in options):
            return ""
        if tape.ended:
            tape.broke_off = True
            tape.take(len(text))
            return ""
        yield None


def expect(tape: Tape, *options: str) -> Steps[str]:
    """Read one of these texts.

    Raises:
        NotACallError: something else stands here.
    """
    found = yield from literal(tape, *options)
    if not found:
        raise NotACallError
    return found


def until(tape: Tape, *marks: str, most: int = LONGEST_NAME) -> Steps[tuple[str, str]]:
    """What stands before the first of these marks, none of which begins another, and which it is; both are read. `most` characters may stand before it, 0 is any number.

    Raises:
        NotACallError: none comes.
    """
    pattern = re.compile("|".join(map(re.escape, marks)))
    looked, longest = 0, max(map(len, marks))
    while True:
        rest = tape.rest
        found = pattern.search(rest, looked)
        before = found.start() if found else len(rest) - longest
        if most and before > most:
            raise NotACallError
        if found:
            tape.take(found.end())
            return rest[: found.start()], found[0]
        looked = max(0, len(rest) - longest)
        yield from wait(tape)


def json_text(tape: Tape, *, told: bool = False) -> Steps[str]:
    """The text of one JSON value; `told` gives it out while it comes instead.

    Only brackets and strings are followed: whether the rest is JSON is for whoever reads the arguments to say.

    Raises:
        NotACallError: no value stands here, or it never ends.
    """
    first = yield from skip(tape)
    if first and first in '{["':
        return (yield from _structure(tape, told))
    text = ""
    while True:
        text += tape.take(len(SCALAR.match(tape.rest)[0]))  # type: ignore[index]  # it matches anything
        if (yield from peek(tape)) == "" or not SCALAR.match(tape.ahead(1))[0]:  # type: ignore[index]
            break
    if not text:
        raise NotACallError
    if told:
        yield More(text)
    return text


def _structure(tape: Tape, told: bool) -> Steps[str]:
    depth, quoted, escaped, read = 0, False, False, ""
    while True:
        rest, at = tape.rest, 0
        done = False
        if escaped and rest:
            at, escaped = 1, False
        while at < len(rest) and not done:
            found = (INSIDE if quoted else STRUCTURE).search(rest, at)
            if found is None:
                at = len(rest)
                break
            char, at = found[0], found.end()
            if char == '"':
                quoted = not quoted
            elif char == "\\":
                escaped = at == len(rest)
                at += not escaped
            else:
                depth += 1 if char in "{[" else -1
            done = depth == 0 and not quoted and char != "\\"
        piece = tape.take(at)
        if told and piece:
            yield More(piece)
        else:
            read += piece
        if done:
            return read
        yield from wait(tape)


def json_string(tape: Tape) -> Steps[str]:
    """What a JSON string says.

    Raises:
        NotACallError: none stands here.
    """
    if (yield from skip(tape)) != '"':
        raise NotACallError
    text = yield from json_text(tape)
    try:
        return str(json.loads(text))
    except ValueError:
        raise NotACallError from None
