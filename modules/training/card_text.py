"""Pieces of Markdown that cannot be broken by what is put into them: text on one line, tables, code blocks; and figures as people read them."""

from __future__ import annotations

import re

SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&]|(?<=[a-z]):(?=//)|(?<=www)\.)")  # also what would make a link of an address
LINE_START = re.compile(r"(#|[-+=](?=[\s=-]|$)|(?<=\d)[.)](?=\s|$))")  # a heading, a list, a rule: at the very start of a text only
BREAKS = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # controls, and marks that turn the direction of text


def inline(text: str) -> str:
    """Text for one line, with nothing in it that Markdown or HTML would take for markup."""
    line = SPECIAL.sub(r"\\\1", BREAKS.sub(" ", HIDDEN.sub("", text)).strip())
    start = re.match(r"\d{0,9}", line)
    at = start.end() if start else 0
    return line[:at] + "\\" + line[at:] if LINE_START.match(line, at) else line


def code_block(text: str, language: str = "") -> str:
    """A fenced block whose fence is longer than any in the text."""
    clean = HIDDEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language or 'text'}\n{clean}\n{fence}"


class Table:
    """A table of Markdown; rows whose second cell is empty are left out of one with two columns."""

    def __init__(self, *titles: str) -> None:
        self._titles = titles
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: object) -> None:
        """One row."""
        texts = tuple(inline(str(cell)) for cell in cells)
        if len(texts) != 2 or texts[1]:
            self._rows.append(texts)

    def __str__(self) -> str:
        lines = [self._titles, ("---",) * len(self._titles), *self._rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: float | None) -> str:
    """A loss."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
