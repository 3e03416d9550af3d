"""A regular expression as people send it, bounded and in the notation that the engine follows.

The whole reply has to fit it, so that anchors at both ends and lazy repeats say nothing and are left out. What native code would need too long for
is refused by its size with every repeat written out. Knows no tokens.
"""

from __future__ import annotations

import re

from modules.core.errors import InvalidRequest

DEEPEST_GROUP = 64
MOST_EXPANDED = 20_000  # characters and classes when every repeat is written out
MOST_AHEAD = 32  # looks ahead at the beginning
TOKEN = re.compile(
    r"(?P<escape>\\(?:[pPx]\{[^}]*\}|.))|(?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|(?!\[:\^?\w+:\])[^\]\\])*\])|(?P<open>\()|(?P<close>\))|"
    r"(?P<repeat>(?:[*+?]|\{\d*,?\d*\})[?+]?)|(?P<other>.)",
    re.DOTALL,
)
REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}")
AROUND = re.compile(r"\?<?[=!]")  # behind an opening parenthesis
BACK = re.compile(r"\\[1-9k]")


def bounded_regex(text: str) -> str:
    """The expression without anchors at its ends and lazy marks.

    Raises:
        InvalidRequest: groups too deep, repeats too large, or it looks around or back.
    """
    sizes, last, kept = [0], 0, []  # of the groups that are open now; of what a repeat would repeat
    for found in TOKEN.finditer(_without_anchors(text)):
        kind, part = found.lastgroup, found[0]
        _check_direction(found)
        if kind == "open":
            sizes.append(0)
            if len(sizes) > DEEPEST_GROUP + 1:
                raise _refused(f"has more than {DEEPEST_GROUP} groups in each other; put fewer into each other")
        elif kind == "close" and len(sizes) > 1:
            last = max(1, sizes.pop())
            sizes[-1] += last
        elif kind == "repeat":
            part = part[0] if part[0] in "*+?" else part[: part.index("}") + 1]
            times = _times(part)
            sizes[-1] += last * (times - 1)
            last *= times
        elif part != "|":
            last = 1
            sizes[-1] += 1
        if sizes[-1] > MOST_EXPANDED:
            raise _refused(f"is too large when its repeats are written out: the limit is {MOST_EXPANDED} characters. Lower the numbers in {{…}}, or write *")
        kept.append(part)
    return "".join(kept)


def split_ahead(text: str) -> list[str]:
    """Expressions all of which have to be found, for one that looks ahead at its beginning (`^(?=.*[a-z])(?=.*[0-9]).{8,}$`); for others none."""
    parts: list[str] = []
    rest = text.removeprefix("^")
    while text.startswith("^") and rest.startswith("(?=") and len(parts) < MOST_AHEAD and (end := _closing(rest)):
        looked, rest = rest[3:end], rest[end + 1 :]
        if _has_choice(looked):
            looked = f"(?:{looked})"
        parts.append(f"^{looked}")
    return [] if not parts or _has_choice(rest) else [*parts, f"^{rest}"]


def _closing(text: str) -> int:
    """Where the group ends with which a text begins; 0 if nowhere."""
    depth = 0
    for found in TOKEN.finditer(text):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        if depth == 0:
            return found.start()
    return 0


def _has_choice(text: str) -> bool:
    """Whether there is a `|` outside of all groups."""
    depth = 0
    for found in TOKEN.finditer(text):
        depth += (found.lastgroup == "open") - (found.lastgroup == "close")
        if depth <= 0 and found[0] == "|":
            return True
    return False


def _check_direction(found: re.Match[str]) -> None:
    """A text is written from its beginning to its end: what comes later cannot be asked for, nor what an earlier part became."""
    if (found.lastgroup == "open" and AROUND.match(found.string, found.end())) or found[0] in ("\\b", "\\B"):
        raise _refused("has look-around ((?=…), (?!…), \\b), which cannot be followed while a text is written. Write what may come as one expression without it")
    if found.lastgroup == "escape" and BACK.match(found[0]):
        raise _refused("refers back (\\1) to what one of its parts became, which cannot be followed while a text is written. Write out what may come")


def _times(repeat: str) -> int:
    """How often a part is written out for a repeat."""
    found = REPEAT.fullmatch(repeat)
    if found is None:
        return 1
    numbers = [int(digits) for digits in (found[1], found[3]) if digits and len(digits) < 7]
    return MOST_EXPANDED + 1 if any(len(digits) > 6 for digits in (found[1], found[3])) else max((1, *numbers))


def _without_anchors(text: str) -> str:
    text = text.removeprefix("^")
    slashes = len(text) - 1 - len(text[:-1].rstrip("\\")) if text.endswith("$") else 1
    return text[:-1] if slashes % 2 == 0 else text


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"The regular expression {what}.", field="regex")
