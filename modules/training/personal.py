"""Personal data in a text: finding it, and putting marks in its place. What each kind looks like is in `personal_kinds.py`.

What is found is a guess by form: a person looks at it before anything is written. A mark has a number that tells one value from another,
so that a conversation still makes sense: “Write to [e-mail 1], not to [e-mail 2].”
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from modules.training.personal_kinds import (
    Span,
    cards,
    emails,
    has_any,
    ibans,
    ip_addresses,
    keys,
    logins,
    phones,
    streets,
)

Kind = Literal["login", "key", "e-mail", "iban", "card", "ip", "phone", "street", "name"]
# In the order in which they are looked for: what one has found the next ones leave alone.
FINDERS: Mapping[Kind, Callable[[str], Iterator[Span]]] = MappingProxyType({
    "login": logins, "key": keys, "e-mail": emails, "iban": ibans, "card": cards, "ip": ip_addresses, "phone": phones, "street": streets,
})  # fmt: skip
KIND_TITLES: Mapping[Kind, str] = MappingProxyType({
    "e-mail": "E-mail addresses", "phone": "Phone numbers", "name": "Names", "street": "Street addresses", "key": "Keys, tokens and passwords",
    "login": "Logins in addresses", "ip": "IP addresses", "card": "Card numbers", "iban": "Bank accounts (IBAN)",
})  # fmt: skip
MARKS: Mapping[Kind, str] = MappingProxyType({
    "e-mail": "e-mail", "phone": "phone number", "name": "name", "street": "street address", "key": "key",
    "login": "login", "ip": "IP address", "card": "card number", "iban": "IBAN",
})  # fmt: skip
NAMES_LIMIT = 50  # introduced in one text
NAME_PARTS_LIMIT = 6

_CUE = (
    r"my (?:full |first |last )?name(?:'s|’s| is)|i am called|i'm called|(?:you can |please )?call me|(?<![^\n])name:|mein name ist|ich hei(?:ß|ss)e|je m['’]appelle|"
    r"mon nom est|me llamo|mi nombre es|mi chiamo|il mio nome è|meu nome é|me chamo|mijn naam is|ik heet|nazywam się|jag heter"
)
INTRODUCTION = re.compile(rf"(?<!\w)(?P<cue>{_CUE})[ \t]{{1,3}}(?=[^\W\d_])", re.IGNORECASE)
INTRODUCTION_HINTS = ("name", "call", "hei", "appelle", "nom est", "llamo", "nombre", "chiamo", "nome", "chamo", "naam", "heet", "nazywam", "heter")
SIGNATURE = re.compile(
    r"(?:regards|sincerely|yours truly|cheers|best wishes|grüßen?|gruß|cordialement|saludos|saluti),?[ \t]*+\n\s{0,4}(?=[^\W\d_])", re.IGNORECASE
)
SIGNATURE_HINTS = ("regards", "sincerely", "truly", "cheers", "wishes", "grü", "gruß", "cordialement", "salu")
NAME_WORD = re.compile(r"[^\W\d_][^\W\d_'’-]{0,30}+(?:['’-][^\W\d_]{1,30}+){0,2}")
_PARTICLES = "van von de der den del della da di la le bin al el zu ter ten"
_NO_NAMES = (
    "a an the not no on in at of to it i my your asap back later tomorrow today monday tuesday wednesday thursday friday saturday sunday if when "
    "irrelevant unimportant unknown secret confidential long short hard important wrong correct different"
)
PARTICLES, NO_NAMES = frozenset(_PARTICLES.split()), frozenset(_NO_NAMES.split())


@dataclass(frozen=True, slots=True)
class Finding:
    """Something personal in a text."""

    kind: Kind
    start: int
    end: int


def find_personal(text: str, names: Iterable[str] = ()) -> tuple[Finding, ...]:
    """What looks personal, in its order and without overlaps; `names` are to be found besides those that the text introduces."""
    return _found(text, _Names((*names, *names_in(text))))


def _found(text: str, names: _Names) -> tuple[Finding, ...]:
    taken = bytearray(len(text))
    found: list[Finding] = []

    def take(kind: Kind, spans: Iterable[Span]) -> None:
        for start, end in spans:
            if taken.find(1, start, end) < 0:
                taken[start:end] = b"\1" * (end - start)
                found.append(Finding(kind, start, end))

    for kind, finder in FINDERS.items():
        take(kind, finder(text))
    take("name", names.spans(text))
    return tuple(sorted(found, key=lambda finding: finding.start))


def redacted(text: str, kinds: Collection[Kind], names: Iterable[str] = ()) -> str:
    """The text with marks in place of what is personal; the same value gets the same mark."""
    return Redactor(kinds, (*names, *names_in(text))).redacted(text)


class Redactor:
    """Puts marks into several texts that belong together: a value has the same mark in all of them.

    Of names it knows those it is given; `names_in` has those that a text introduces.
    """

    def __init__(self, kinds: Collection[Kind], names: Iterable[str] = ()) -> None:
        self._kinds = frozenset(kinds)
        self._names = _Names(names)
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._counts: dict[Kind, int] = {}

    def find(self, text: str) -> tuple[Finding, ...]:
        """What would be replaced."""
        return tuple(finding for finding in _found(text, self._names) if finding.kind in self._kinds)

    def redacted(self, text: str) -> str:
        """The text with marks."""
        parts: list[str] = []
        end = 0
        for finding in self.find(text):
            parts += [text[end : finding.start], self._mark(finding.kind, text[finding.start : finding.end])]
            end = finding.end
        return "".join((*parts, text[end:]))

    def _mark(self, kind: Kind, value: str) -> str:
        key = (kind, self._names.whole(value) if kind == "name" else "".join(sign for sign in value.casefold() if sign.isalnum()))
        if key not in self._numbers:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._numbers[key] = self._counts[kind]
        return f"[{MARKS[kind]} {self._numbers[key]}]"


# ---- names ---------------------------------------------------------------------------------------------------------


def names_in(text: str) -> tuple[str, ...]:
    """The names by which a text introduces or signs itself, each once."""
    found: dict[str, None] = {}
    small = text.lower()
    for form, hints in ((INTRODUCTION, INTRODUCTION_HINTS), (SIGNATURE, SIGNATURE_HINTS)):
        for match in form.finditer(text) if has_any(small, hints) else ():
            name = _name_at(text, match.end(), alone=form is SIGNATURE, is_said=form is INTRODUCTION and "call" not in match["cue"].lower())
            if name:
                found[name] = None
            if len(found) >= NAMES_LIMIT:
                return tuple(found)
    return tuple(found)


def _name_at(text: str, at: int, *, alone: bool, is_said: bool) -> str:
    """The name that stands here: words with capitals, or one small word that ends the sentence; `alone` asks for nothing else in the line."""
    words: list[str] = []
    begin = end = at
    while len(words) < NAME_PARTS_LIMIT and (match := NAME_WORD.match(text, at)):
        word = match[0]
        if word.lower() in NO_NAMES or not (word[0].isupper() or (words and word in PARTICLES)):
            break
        words.append(word)
        end = match.end()
        initial = len(word) == 1 and text[end : end + 1] == "."
        at = end + initial
        if text[at : at + 1] != " ":
            break
        at += 1
    while words and words[-1] in PARTICLES:
        end = text.rindex(words.pop(), begin, end) - 1
    line_end = text.find("\n", end, end + 40)
    if words and alone and text[end : line_end if line_end >= 0 else end + 40].strip(" .,\t\r"):
        return ""
    return text[begin:end] if words else _small_name(text, begin) if is_said else ""


def _small_name(text: str, at: int) -> str:
    match = NAME_WORD.match(text, at)
    if match is None or match[0].lower() in NO_NAMES or len(match[0]) < 2:
        return ""
    after = text[match.end() : match.end() + 5].lower()
    return match[0] if not after or after[0] in ".,;!?\n)" or after.startswith((" and ", " und ", " et ", " y ")) else ""


class _Names:
    """Names to be found: whole, and their longer parts, each as it is written, with a capital, and in capitals."""

    def __init__(self, names: Iterable[str]) -> None:
        self._wholes: dict[str, str] = {}
        for given in names:
            name = " ".join(given.split())
            parts = [part for part in name.split() if len(part) >= 3 and part.lower() not in PARTICLES | NO_NAMES]
            for word in (name, *parts) if any(sign.isalpha() for sign in name) else ():
                for spelling in (word, word.title(), word.upper()):
                    self._wholes.setdefault(spelling, name.casefold())
        longest_first = sorted(self._wholes, key=lambda spelling: (-len(spelling), spelling))
        words = "|".join(_as_pattern(spelling) for spelling in longest_first)
        self._pattern = re.compile(words) if words else None

    def spans(self, text: str) -> Iterator[Span]:
        """Where they stand."""
        if self._pattern is not None:
            yield from (match.span() for match in self._pattern.finditer(text))

    def whole(self, found: str) -> str:
        """Whose name it is: a part stands for the whole."""
        return self._wholes.get(" ".join(found.split()), found.casefold())


def _as_pattern(spelling: str) -> str:
    words = re.escape(spelling).replace(r"\ ", r"\s{1,3}")
    has_capitals = spelling.upper() != spelling.lower()  # scripts that have none mostly have no spaces either
    return rf"(?<!\w){words}(?!\w)" if has_capitals else words
