"""Where a model with states can be cut back: its memory is marked at some places while a prompt is read, as what was not marked cannot be returned to.

Marked are the place where a reply went on, one a little before the end of the prompt, from which the same can be written anew or the next turn goes on where
a template leaves thinking out, those where other conversations part from this one, and some on the way for edits. Knows lengths; no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from modules.engine.spill_states import usable

if TYPE_CHECKING:
    from modules.core.slot_states import SlotStates

TAIL_TOKENS = 16  # before the end of a prompt: what templates write there to ask for a reply is shorter
EVERY_TOKENS = 1024
LEAST_TOKENS = 32  # of a beginning: fewer are read again as quickly, as each place ends a step
APART_TOKENS = 128  # a place on the way is no nearer to the next one


class Marked(Protocol):
    """Who reads a prompt in a slot."""

    slot: int
    computed: int
    prompt_length: int
    deterministic: bool
    marks_at: list[int]


class Marking:
    """The marks of one model. Without any where all parts can be kept, or the runner makes none."""

    def __init__(self, memory: SlotStates) -> None:
        self._memory = memory

    @property
    def may_share(self) -> bool:
        """Whether one can begin with what another one is still computing."""
        return self._memory.keeps_parts or self._memory.can_mark

    @property
    def _marks(self) -> bool:
        return self._memory.can_mark and not self._memory.keeps_parts

    def usable(self, slot: int, shared: int, whole: int) -> tuple[int, bool]:
        """How much of a beginning that a slot of `whole` tokens shares can be used, and whether that is sure: elsewhere a cut may lose everything."""
        if self._memory.keeps_parts or shared in (0, whole):
            return shared, True
        part = usable(shared, whole, self._memory.cuts(slot))
        return (part, True) if part else (shared, False)

    def is_cut(self, slot: int, length: int) -> bool:
        """Whether so much of a slot can be kept for sure."""
        return self._memory.keeps_parts or length in self._memory.cuts(slot)

    def begin(self, one: Marked, branches: Iterable[int]) -> None:
        """Mark where a slot goes on, and note where it is to be marked while the rest is read; `branches` are the lengths that other slots share with it."""
        one.marks_at = []
        if not self._marks or one.deterministic:
            return
        start = one.computed
        if start >= LEAST_TOKENS and start not in self._memory.cuts(one.slot):
            self._memory.mark(one.slot)
        tail = one.prompt_length - TAIL_TOKENS
        wanted = {place for place in {tail, *branches} if place - start >= LEAST_TOKENS and place < one.prompt_length}
        on_the_way = range((start // EVERY_TOKENS + 1) * EVERY_TOKENS, tail, EVERY_TOKENS)
        wanted |= {place for place in on_the_way if all(abs(place - other) >= APART_TOKENS for other in (start, *wanted))}
        one.marks_at = sorted(wanted)

    def promised(self, leader: Marked, shared: int) -> int:
        """How much of a beginning another one can take over from who is computing it; it is marked there."""
        if not self._marks or shared <= leader.computed:
            return shared
        near = [place for place in leader.marks_at if max(shared - TAIL_TOKENS, leader.computed + 1) <= place <= shared]
        if not near:
            leader.marks_at = sorted([*leader.marks_at, shared])
        return max(near, default=shared)

    def before_mark(self, one: Marked, tokens: int) -> int:
        """So many tokens, or as many as are left before the next place."""
        while one.marks_at and one.marks_at[0] <= one.computed:
            del one.marks_at[0]
        return min(tokens, one.marks_at[0] - one.computed) if one.marks_at else tokens

    def note(self, one: Marked) -> None:
        """Some of the prompt was read: mark it, if this is the place."""
        if one.marks_at and one.marks_at[0] == one.computed:
            del one.marks_at[0]
            self._memory.mark(one.slot)
