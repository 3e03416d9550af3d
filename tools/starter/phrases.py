"""A small pattern language for questions: expand a pattern at random, or test whether it can produce a text.

Knows ``(a|b|)`` choices, ``<name>`` word classes and ``{x}`` slots. Knows nothing of topics, answers or models.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CLASS = re.compile(r"<([a-z]+)>")
_SPACES = re.compile(r"\s+")
_BEFORE_MARK = re.compile(r"\s+([,.!?])")
_NOT_WORD = re.compile(r"[^a-z0-9]+")

Node = str | tuple[tuple["Node", ...], ...]
"""A literal text, or a choice between sequences of nodes."""


class PatternError(ValueError):
    """A pattern that cannot be read."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One parsed pattern."""

    source: str
    nodes: tuple[Node, ...]

    def sample(self, rng: random.Random) -> str:
        """Return one text of this pattern, with clean spaces."""
        return tidy(_sample(self.nodes, rng))

    def regex(self) -> re.Pattern[str]:
        """Return an expression that matches every normalised text of this pattern (and a few more)."""
        return re.compile(r"\s*" + _regex(self.nodes) + r"\s*")


def tidy(text: str) -> str:
    """Collapse spaces and remove those before punctuation."""
    return _BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", text)).strip(" ,")


def normalise(text: str) -> str:
    """Reduce a question to its words: lower case, no punctuation. Two equal results count as one question."""
    return _NOT_WORD.sub(" ", text.lower().replace("'", "")).strip()


def parse(source: str, classes: Mapping[str, Sequence[str]]) -> Pattern:
    """Parse ``source`` after replacing its word classes.

    Raises:
        PatternError: on unbalanced brackets or an unknown word class.
    """
    text = source
    while match := _CLASS.search(text):
        name = match.group(1)
        if name not in classes:
            raise PatternError(f"unknown word class <{name}> in {source!r}; add it to lexicon.yaml")
        text = text[: match.start()] + "(" + "|".join(classes[name]) + ")" + text[match.end() :]
    branches, rest = _branches(text, 0, source)
    if rest != len(text) or len(branches) != 1:
        raise PatternError(f"unbalanced brackets in {source!r}")
    return Pattern(source, branches[0])


def _branches(text: str, at: int, source: str) -> tuple[tuple[tuple[Node, ...], ...], int]:
    """Read alternatives from ``at`` to the closing bracket or the end."""
    done: list[tuple[Node, ...]] = []
    nodes: list[Node] = []
    literal = ""
    while at < len(text) and text[at] != ")":
        sign = text[at]
        at += 1
        if sign not in "(|":
            literal += sign
            continue
        if literal:
            nodes.append(literal)
            literal = ""
        if sign == "|":
            done.append(tuple(nodes))
            nodes = []
            continue
        inner, at = _branches(text, at, source)
        if at >= len(text):
            raise PatternError(f"missing closing bracket in {source!r}")
        at += 1
        nodes.append(inner)
    if literal:
        nodes.append(literal)
    done.append(tuple(nodes))
    return tuple(done), at


def _sample(nodes: tuple[Node, ...], rng: random.Random) -> str:
    return "".join(node if isinstance(node, str) else _sample(rng.choice(node), rng) for node in nodes)


def _regex(nodes: tuple[Node, ...]) -> str:
    parts = []
    for node in nodes:
        if isinstance(node, str):
            words = node.lower().replace("'", "")
            parts.append(re.sub(r"[^a-z0-9]+", lambda _: r"\s*", words))
        else:
            parts.append("(?:" + "|".join(_regex(branch) for branch in node) + ")")
    return "".join(parts)
