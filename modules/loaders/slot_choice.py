"""How many replies can be written at the same time where nobody said: chosen from what is free, and from the context that each is to have.

Pure functions of what a model takes. The loaders choose by them, and so do the forecasts. Knows no file and no loader.
"""

from __future__ import annotations

from collections.abc import Callable

from modules.core.model import USUAL_SLOTS
from modules.loaders.fit import STEP_TOKENS, Needs
from modules.loaders.machine import size_text

FEWER_SLOTS = (2, 1)
MORE_SLOTS = (16, 8)
PLENTY_BYTES = 32 * 10**9  # of free memory; with less there are never more slots than usual
MOST_SHARE = 0.125  # of what the weights leave of it, for all that more slots than usual take; llama.cpp writes the whole cache once while it loads

NeedsOf = Callable[[int], Needs]  # what a model takes with so many slots


def choose_slots(needs_of: NeedsOf, context: int, free_bytes: int, *, may_be_more: bool = False) -> int:
    """Four slots, or fewer where memory is too short for a context of so many tokens in each; `may_be_more`: more of them cost a single reply nothing but memory."""
    if may_be_more and free_bytes >= PLENTY_BYTES:
        plenty = next((count for count in MORE_SLOTS if _takes_little(needs_of(count), context * count, free_bytes)), None)
        if plenty is not None:
            return plenty
    return next((count for count in (USUAL_SLOTS, *FEWER_SLOTS) if has_room(needs_of(count), context * count, free_bytes)), FEWER_SLOTS[-1])


def has_room(needs: Needs, tokens: int, free_bytes: int) -> bool:
    """Whether a cache of so many tokens fits beside everything else; caches are made in steps."""
    return needs.total(-(-tokens // STEP_TOKENS) * STEP_TOKENS) <= free_bytes


def _takes_little(needs: Needs, tokens: int, free_bytes: int) -> bool:
    return needs.total(tokens) - needs.weights <= MOST_SHARE * (free_bytes - needs.weights)


def slots_note(slots: int, context: int, free_bytes: int, *, fits: bool) -> str:
    """The note on a number of slots that was chosen; empty where it is the usual one. `fits`: even one context of so many tokens does."""
    if slots == USUAL_SLOTS:
        return ""
    if slots > USUAL_SLOTS:
        return f"{slots} slots instead of {USUAL_SLOTS}: {size_text(free_bytes)} of memory is free, which is plenty for {context} tokens of context in each."
    some = "1 slot" if slots == 1 else f"{slots} slots"
    if not fits:
        return f"{some} instead of {USUAL_SLOTS}: {size_text(free_bytes)} of free memory is too little for one context of {context} tokens."
    return (
        f"{some} instead of {USUAL_SLOTS}: what fits into {size_text(free_bytes)} of free memory with {context} tokens of context in each; "
        "a shorter context makes room for more."
    )
