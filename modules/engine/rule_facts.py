"""What can be known of the rules of a grammar before it is followed: sizes, which rules are regular, which have a text, how texts begin.

All of it is found by going round until nothing changes, never by following names down, so that no chain of rules can exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from modules.core.errors import InvalidRequest
from modules.engine.gbnf import Alt, Chars, Node, Piece, Ref, Repeat, Seq

MOST_RULES = 1_000
MOST_PARTS = 20_000  # characters, classes and names
MOST_EXPANDED = 200_000  # characters, classes and names when every repeat and every regular rule is written out
DEEPEST = 150  # groups, repeats and names in each other; what comes back to itself is not followed

Value = TypeVar("Value")


def parts(node: Node) -> Iterator[Node]:
    """The node and all below it, names not followed."""
    yield node
    if isinstance(node, Seq | Alt):
        for item in node.items:
            yield from parts(item)
    elif isinstance(node, Repeat):
        yield from parts(node.item)


def settle(rules: Mapping[str, Node], start: Value, judge: Callable[[Node, Mapping[str, Value]], Value]) -> dict[str, Value]:
    """What `judge` says of each rule when what it says of the others no longer changes; it may only ever grow."""
    found = dict.fromkeys(rules, start)
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, node in rules.items():
        for used in {part.name for part in parts(node) if isinstance(part, Ref)}:
            users[used].append(name)
    waiting = dict.fromkeys(rules)
    while waiting:
        name = next(iter(waiting))
        del waiting[name]
        value = judge(rules[name], found)
        if value != found[name]:
            found[name] = value
            waiting.update(dict.fromkeys(users[name]))
    return found


def regular_rules(rules: Mapping[str, Node]) -> frozenset[str]:
    """Rules that do not come back to themselves by any way: a regular expression says the same."""

    def judge(node: Node, known: Mapping[str, bool]) -> bool:
        return all(known[part.name] for part in parts(node) if isinstance(part, Ref))

    found = settle(rules, False, judge)
    return frozenset(name for name, regular in found.items() if regular)


def rules_with_text(rules: Mapping[str, Node]) -> frozenset[str]:
    """Rules that some text of finite length fits."""
    found = settle(rules, False, has_text)
    return frozenset(name for name, fits in found.items() if fits)


def has_text(node: Node, known: Mapping[str, bool]) -> bool:
    """Whether some text fits a node, with what is known of rules."""
    if isinstance(node, Chars):
        return bool(node.ranges)
    if isinstance(node, Ref):
        return known[node.name]
    if isinstance(node, Repeat):
        return node.least == 0 or has_text(node.item, known)
    if isinstance(node, Piece):
        return has_text(node.inner, known)
    return (all if isinstance(node, Seq) else any)(has_text(item, known) for item in node.items)


def without_dead_ends(rules: Mapping[str, Node]) -> dict[str, Node]:
    """The same texts in rules, alternatives and repeats that can all come to an end: no beginning is left that no text has."""
    fits = dict.fromkeys(rules, False) | dict.fromkeys(rules_with_text(rules), True)

    def cut(node: Node) -> Node:
        if isinstance(node, Alt):
            return Alt(tuple(cut(item) for item in node.items if has_text(item, fits)))
        if isinstance(node, Seq):
            return Seq(tuple(map(cut, node.items)))
        if isinstance(node, Repeat):
            return Repeat(cut(node.item), node.least, node.most) if node.most != 0 and has_text(node.item, fits) else Seq(())
        return node

    return {name: cut(node) for name, node in rules.items() if fits[name]}


def can_be_empty(node: Node, known: Mapping[str, bool]) -> bool:
    """Whether the empty text fits a node."""
    if isinstance(node, Chars):
        return False
    if isinstance(node, Ref):
        return known[node.name]
    if isinstance(node, Repeat):
        return node.least == 0 or can_be_empty(node.item, known)
    if isinstance(node, Piece):
        return can_be_empty(node.inner, known)
    return (all if isinstance(node, Seq) else any)(can_be_empty(item, known) for item in node.items)


def check_size(rules: Mapping[str, Node]) -> None:
    """Refuse what is too large.

    Raises:
        InvalidRequest: more rules, parts or repeats than can be followed quickly.
    """
    count = sum(len(part.ranges) if isinstance(part, Chars) else 1 for node in rules.values() for part in parts(node))
    if len(rules) > MOST_RULES or count > MOST_PARTS:
        raise InvalidRequest(
            f"The grammar has {len(rules)} rules and {count} characters, classes and names; the limits are {MOST_RULES} and {MOST_PARTS}. "
            "Make it smaller.",
            field="grammar",
        )
    regular = regular_rules(rules)

    def expanded(node: Node, known: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Size with every repeat written out, and depth; what comes back to itself counts as one."""
        if isinstance(node, Ref):
            size, depth = known[node.name] if node.name in regular else (1, 0)
            return max(1, size), depth + 1
        if isinstance(node, Repeat):
            size, depth = expanded(node.item, known)
            return min(MOST_EXPANDED + 1, size * max(1, node.least, node.most or 0)), depth + 1
        if isinstance(node, Seq | Alt):
            found = [expanded(item, known) for item in node.items]
            return min(MOST_EXPANDED + 1, 1 + sum(size for size, _ in found)), 1 + max((depth for _, depth in found), default=0)
        return 1, 0

    sizes = settle(rules, (0, 0), expanded)
    if max(size for size, _ in sizes.values()) > MOST_EXPANDED:
        raise InvalidRequest(
            f"The grammar is too large when its repeats are written out: the limit is {MOST_EXPANDED} characters, classes and names. "
            "Lower the numbers in {…}, or write * instead.",
            field="grammar",
        )
    if max(depth for _, depth in sizes.values()) > DEEPEST:
        raise InvalidRequest(f"The grammar is too deep: at most {DEEPEST} groups, repeats and names of rules in each other. Make it flatter.", field="grammar")
