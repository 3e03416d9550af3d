"""Which parts of a grammar are read as one piece, so that it is followed quickly and still says exactly what it says.

llguidance reads pieces (lexemes) greedily: while some piece that is possible here can go on, the one that was complete is forgotten. That is quick, and
wrong where the next character could also have begun what comes after: in `[a-z]* "x"` the first piece eats the x. So the largest regular parts become
pieces, then every pair of them is looked at; where one can go on with a character that may follow the other, it is taken apart, down to
single characters, which are never wrong. Knows GBNF's tree; knows no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modules.engine.gbnf import Alt, Chars, Node, Piece, Ref, Repeat, Seq
from modules.engine.rule_facts import can_be_empty, parts, regular_rules, settle

MOST_PLACES = 600  # of one piece when two are compared; a larger one is taken apart at once
MOST_COMPARED = 600_000  # ranges of characters that are looked at for one grammar; what is left then is taken apart
MOST_PAIRS = 2_000_000  # of pieces that are compared for one grammar, a second and a half; where there are more, all are taken apart
EVERY_BYTE = (1 << 256) - 1


@dataclass
class _Places:
    """The characters of a piece as states of an automaton: which may be first, which last, and which follow which."""

    chars: list[Chars] = field(default_factory=list)
    after: list[set[int]] = field(default_factory=list)
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    begins: int = 0  # first bytes, as bits


class TooLargeError(ValueError):
    """A piece with too many places to compare."""


class Lexemes:
    """A grammar without dead ends as rules over pieces. `rules` has a plan for each name that is used above the pieces, `root` among them."""

    def __init__(self, grammar: Mapping[str, Node]) -> None:
        self._grammar = grammar
        self._regular = regular_rules(grammar)
        self._empty = settle(grammar, False, can_be_empty)
        self._apart: set[int] = set()  # ids of nodes that are taken apart
        self._kept: dict[tuple[int, str], Node] = {}  # groups of neighbours, so that each is the same object every time
        self._chars: dict[tuple[tuple[int, int], ...], Chars] = {}
        self._pieces: dict[int, Piece] = {}
        self._places: dict[int, _Places] = {}
        self._left, self._pairs_left = MOST_COMPARED, MOST_PAIRS
        self.rules: dict[str, Node] = {}
        while True:
            self._make_plan()
            wrong = self._find_wrong()
            if not wrong:
                break
            self._apart |= wrong

    # ---- the plan --------------------------------------------------------------------------------------------------

    def _make_plan(self) -> None:
        self.rules = {}
        self._pieces = {}
        waiting = ["root"]
        while waiting:
            name = waiting.pop()
            if name not in self.rules:
                self.rules[name] = self._plan(self._grammar[name])
                waiting += [part.name for part in parts(self.rules[name]) if isinstance(part, Ref)]

    def _plan(self, node: Node) -> Node:
        if isinstance(node, Ref) and node.name in self._regular and id(self._grammar[node.name]) not in self._apart:
            node = self._grammar[node.name]
        if isinstance(node, Chars):
            node = self._chars.setdefault(node.ranges, node)
            return self._pieces.setdefault(id(node), Piece(node))
        if self._is_regular(node) and id(node) not in self._apart and not isinstance(node, Ref):
            return self._pieces.setdefault(id(node), Piece(node))
        if isinstance(node, Ref):
            return node
        if isinstance(node, Repeat):
            return Repeat(self._plan(node.item), node.least, node.most)
        if isinstance(node, Seq):
            return Seq(tuple(self._plan(item) for item in self._runs(node)))
        assert isinstance(node, Alt)
        items = list(node.items)
        simple = [item for item in items if self._is_regular(item)]
        if len(simple) > 1 and id(node) not in self._apart:
            group = self._kept.setdefault((id(node), "alternatives"), Alt(tuple(simple)))
            items = [group, *(item for item in items if not self._is_regular(item))]
        return Alt(tuple(self._plan(item) for item in items))

    def _runs(self, node: Seq) -> list[Node]:
        """The items of a sequence, regular neighbours together unless it is taken apart."""
        if id(node) in self._apart:
            return list(node.items)
        found: list[list[Node]] = []
        for item in node.items:
            if found and self._is_regular(item) and self._is_regular(found[-1][-1]):
                found[-1].append(item)
            else:
                found.append([item])
        return [run[0] if len(run) == 1 else self._kept.setdefault((id(node), f"run {place}"), Seq(tuple(run))) for place, run in enumerate(found)]

    def _is_regular(self, node: Node) -> bool:
        return all(part.name in self._regular for part in parts(node) if isinstance(part, Ref))

    # ---- what is wrong with it -------------------------------------------------------------------------------------

    def _find_wrong(self) -> set[int]:
        """Ids of nodes of pieces that go on where another one's follower may begin."""
        if list(self.rules) == ["root"] and isinstance(self.rules["root"], Piece):
            return set()  # one piece is the whole text: nothing follows
        wrong: set[int] = set()
        for key, piece in self._pieces.items():
            if key not in self._places:
                try:
                    self._places[key] = self._places_of(piece.inner)
                except TooLargeError:
                    wrong.add(key)
        if wrong:
            return wrong
        follow = self._followers()
        longer = [key for key, piece in self._pieces.items() if not isinstance(piece.inner, Chars)]
        self._pairs_left -= len(follow) * len(longer)
        if self._pairs_left < 0:
            return set(longer)
        for key, mask in follow.items():
            for other in longer:
                if other not in wrong and self._goes_on(self._places[key], self._places[other]) & mask:
                    wrong.add(other)
        return wrong

    def _followers(self) -> dict[int, int]:
        """For each piece the bytes that may come right after it, as bits."""
        first = settle(self.rules, 0, self._first)
        pieces = dict.fromkeys(self._pieces, 0)
        rules = dict.fromkeys(self.rules, 0)
        waiting = dict.fromkeys(self.rules)
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            grown = dict.fromkeys(part.name for part in parts(self.rules[name]) if isinstance(part, Ref))
            before = {other: rules[other] for other in grown}
            self._follow(self.rules[name], rules[name], first, (pieces, rules))
            waiting.update(dict.fromkeys(other for other in grown if rules[other] != before[other]))
        return pieces

    def _follow(self, plan: Node, mask: int, first: Mapping[str, int], found: tuple[dict[int, int], dict[str, int]]) -> None:
        """Note what may come after the pieces and rules of a plan when `mask` may come after itself."""
        if isinstance(plan, Piece):
            found[0][id(plan.inner)] |= mask
        elif isinstance(plan, Ref):
            found[1][plan.name] |= mask
        elif isinstance(plan, Repeat):
            again = plan.most is None or plan.most > 1
            self._follow(plan.item, mask | (self._first(plan.item, first) if again else 0), first, found)
        elif isinstance(plan, Alt):
            for item in plan.items:
                self._follow(item, mask, first, found)
        elif isinstance(plan, Seq):
            for item in reversed(plan.items):
                self._follow(item, mask, first, found)
                mask = self._first(item, first) | (mask if can_be_empty(item, self._empty) else 0)

    def _first(self, plan: Node, rules: Mapping[str, int]) -> int:
        if isinstance(plan, Piece):
            return self._places[id(plan.inner)].begins
        if isinstance(plan, Ref):
            return rules[plan.name]
        if isinstance(plan, Repeat):
            return self._first(plan.item, rules)
        if isinstance(plan, Alt):
            return _union(self._first(item, rules) for item in plan.items)
        mask = 0
        for item in plan.items if isinstance(plan, Seq) else ():
            mask |= self._first(item, rules)
            if not can_be_empty(item, self._empty):
                break
        return mask

    def _goes_on(self, one: _Places, other: _Places) -> int:
        """Bytes with which the second piece can go on after a whole text of the first, as bits."""
        mask = 0
        if not one.begins & other.begins:
            return mask
        seen: set[tuple[int, int]] = set()
        waiting = [(one.first, other.first)]
        while waiting:
            ones, others = waiting.pop()
            self._left -= sum(len(one.chars[a].ranges) for a in ones) * max(1, len(others)) + sum(len(other.chars[b].ranges) for b in others) * len(ones)
            if self._left < 0:
                return EVERY_BYTE
            for a, b in ((a, b) for a in ones for b in others if _meet(one.chars[a], other.chars[b])):
                if (a, b) not in seen:
                    seen.add((a, b))
                    waiting.append((one.after[a], other.after[b]))
                    if a in one.last:
                        mask |= _union(_bytes_of(other.chars[place]) for place in other.after[b])
        return mask

    def _places_of(self, node: Node) -> _Places:
        """The automaton of a piece; numbers of repeats above one count as without end, which can only find more that is wrong."""
        found = _Places()
        found.first, found.last, _ = self._add(node, found)
        found.begins = _union(_bytes_of(found.chars[place]) for place in found.first)
        return found

    def _add(self, part: Node, found: _Places) -> tuple[set[int], set[int], bool]:
        """First and last places of a part, which is added, and whether it can be empty."""
        if isinstance(part, Chars):
            if len(found.chars) >= MOST_PLACES:
                raise TooLargeError
            found.chars.append(part)
            found.after.append(set())
            return {len(found.chars) - 1}, {len(found.chars) - 1}, False
        if isinstance(part, Ref | Piece):
            return self._add(self._grammar[part.name] if isinstance(part, Ref) else part.inner, found)
        if isinstance(part, Repeat):
            first, last, empty = self._add(part.item, found) if part.most != 0 else (set(), set(), True)
            if part.most != 1:
                _link(found, last, first)
            return first, last, empty or part.least == 0
        if isinstance(part, Alt):
            added = [self._add(item, found) for item in part.items]
            return _joined(one for one, _, _ in added), _joined(one for _, one, _ in added), any(one for _, _, one in added)
        first, last, empty = set[int](), set[int](), True
        for item in part.items:
            more_first, more_last, more_empty = self._add(item, found)
            _link(found, last, more_first)
            first = first | more_first if empty else first
            last = last | more_last if more_empty else more_last
            empty = empty and more_empty
        return first, last, empty


def _link(places: _Places, ends: set[int], beginnings: set[int]) -> None:
    for place in ends:
        places.after[place] |= beginnings


def _joined(sets: Iterable[set[int]]) -> set[int]:
    return set().union(*sets)


def _union(masks: Iterable[int]) -> int:
    mask = 0
    for one in masks:
        mask |= one
    return mask


def _meet(one: Chars, other: Chars) -> bool:
    """Whether two classes have a character in common; both are ascending."""
    mine, theirs = 0, 0
    while mine < len(one.ranges) and theirs < len(other.ranges):
        (low, high), (low_other, high_other) = one.ranges[mine], other.ranges[theirs]
        if low <= high_other and low_other <= high:
            return True
        mine, theirs = (mine + 1, theirs) if high < high_other else (mine, theirs + 1)
    return False


def _bytes_of(chars: Chars) -> int:
    """The first bytes of the characters of a class in UTF-8, as bits."""
    mask = 0
    for low, high in chars.ranges:
        first, last = chr(low).encode("utf-8", "surrogatepass")[0], chr(high).encode("utf-8", "surrogatepass")[0]
        mask |= (1 << last + 1) - (1 << first)
    return mask
