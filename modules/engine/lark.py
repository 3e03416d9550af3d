"""A planned grammar in the notation that llguidance reads.

Pieces become terminals (large letters), what is above them rules (small letters). Characters are always written as numbers, so that no text of a
grammar can mean anything in this notation.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.engine.gbnf import Alt, Chars, Node, Piece, Ref, Repeat, Seq
from modules.engine.lexemes import Lexemes

# Any way to cut the text into tokens is right; without this only one of them is allowed where the text is certain
HEADER = '%llguidance {"no_forcing": true}\n'


def write_lark(grammar: Mapping[str, Node], lexemes: Lexemes) -> str:
    """The grammar as Lark text, whose rule `answer` is the root."""
    return _Writer(grammar, lexemes).write()


def write_class(chars: Chars) -> str:
    """A class of characters as a regular expression."""
    ranges = (f"\\x{{{low:X}}}" if low == high else f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in chars.ranges)
    return f"[{''.join(ranges)}]"


class _Writer:
    def __init__(self, grammar: Mapping[str, Node], lexemes: Lexemes) -> None:
        self._grammar = grammar
        self._lexemes = lexemes
        self._terminals: dict[int, str] = {}
        self._rules = {name: "answer" if name == "root" else f"r{number}" for number, name in enumerate(lexemes.rules)}
        self._written: list[str] = []

    def write(self) -> str:
        """All rules, and the terminals that they need."""
        rules = [f"{self._rules[name]}: {self._plan(plan)}" for name, plan in self._lexemes.rules.items()]
        return HEADER + "\n".join((*rules, *self._written)) + "\n"

    def _plan(self, plan: Node) -> str:
        if isinstance(plan, Piece):
            return self._terminal(plan.inner)
        if isinstance(plan, Ref):
            return self._rules[plan.name]
        if isinstance(plan, Repeat):
            return f"({self._plan(plan.item)}){_times(plan)}"
        if isinstance(plan, Alt):
            return "(" + " | ".join(self._plan(item) for item in plan.items) + ")"
        assert isinstance(plan, Seq)
        return "(" + (" ".join(self._plan(item) for item in plan.items) or '""') + ")"

    def _terminal(self, node: Node) -> str:
        """The name of the terminal for a regular node, written if it is not yet."""
        name = self._terminals.get(id(node))
        if name is None:
            name = self._terminals[id(node)] = f"T{len(self._terminals)}"
            self._written.append(f"{name}: {self._regular(node)}")
        return name

    def _regular(self, node: Node) -> str:
        if isinstance(node, Chars):
            return f"/{write_class(node)}/"
        if isinstance(node, Ref):
            return self._terminal(self._grammar[node.name])
        if isinstance(node, Repeat):
            return f"({self._regular(node.item)}){_times(node)}"
        if isinstance(node, Alt):
            return "(" + " | ".join(self._regular(item) for item in node.items) + ")"
        assert isinstance(node, Seq)
        return "(" + (" ".join(self._regular(item) for item in node.items) or '""') + ")"


def _times(node: Repeat) -> str:
    if node.most is None:
        return "*" if node.least == 0 else "+" if node.least == 1 else f"{{{node.least},}}"
    return "?" if (node.least, node.most) == (0, 1) else f"{{{node.least},{node.most}}}"
