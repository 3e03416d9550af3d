"""A regular expression as people send it, bounded and in the notation that the engine follows.

The whole reply has to fit it, so that anchors at both ends and lazy repeats say nothing and are left out. What native code would need too long for
is refused by its size with every repeat written out. Knows no tokens.
"""

from __future__ import annotations

import re

from modules.core.errors import InvalidRequest

DEEPEST_GROUP = 64
MOST_EXPANDED = 20_000  # characters and classes when every repeat is written out
TOKEN = re.compile(
    r"(?P<escape>\\(?:[pPx]\{[^}]*\}|.))|(?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*+\])|(?P<open>\()|(?P<close>\))|"
    r"(?P<repeat>(?:[*+?]|\{\d*,?\d*\})[?+]?)|(?P<other>.)",
    re.DOTALL,
)
REPEAT = re.compile(r"\{(\d*)(,?)(\d*)\}")


def bounded_regex(text: str) -> str:
    """The expression without anchors at its ends and lazy marks.

    Raises:
        InvalidRequest: groups too deep, or repeats too large.
    """
    sizes, last, kept = [0], 0, []  # of the groups that are open now; of what a repeat would repeat
    for found in TOKEN.finditer(_without_anchors(text)):
        kind, part = found.lastgroup, found[0]
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
