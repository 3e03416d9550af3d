"""What one slot held of a conversation, saved: the state, the ids it was computed from, and which of many begins like a prompt.

States are opaque; the runner makes them and takes them back, within one process. Knows no budget, no slot and no disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from modules.core.model import Adapter
from modules.engine.prefixes import common_prefix, starts_with


class StateMemory(Protocol):
    """The part of a `Runner` that hands out what a slot holds, and takes it back."""

    keeps_parts: bool

    def state_bytes(self, slot: int) -> int:
        """How large the state of a slot is; 0 if it cannot be saved."""
        ...

    def save_state(self, slot: int) -> Any:
        """What a slot holds, in main memory; the slot is as before."""
        ...

    def restore_state(self, slot: int, state: Any, length: int) -> int:
        """Let an empty slot hold the first `length` positions of a state; the length really held, 0 leaves it empty."""
        ...

    def drop_state(self, state: Any) -> None:
        """This state is not wanted any more: its memory may serve for the next one."""
        ...

    def ready_memory(self, sizes: SequenceABC[int]) -> bool:
        """Have memory ready for states of about these sizes, a piece of it with each call; whether there is more to do."""
        ...

    def pack_state(self, state: Any) -> tuple[Any, list[Any]]:
        """The form of a state, which is small, and its contents as arrays of bytes, which are not copied."""
        ...

    def unpack_state(self, form: Any, parts: list[Any]) -> Any:
        """The state of this form with these contents; both as `pack_state` told them."""
        ...


@dataclass(slots=True, eq=False)
class Saved:
    """One state, and what it was computed from."""

    ids: list[int]
    adapters: tuple[Adapter, ...]
    state: Any
    size_bytes: int
    keep_on_disk: bool = True  # or never there
    lent: bool = False  # the disk has it: nobody else keeps it, or gives its memory to another state


class Known(Protocol):
    """Whatever stands for ids that were computed with some adapters."""

    ids: list[int]
    adapters: tuple[Adapter, ...]


One = TypeVar("One", bound=Known)


def longest_of(
    known: Iterable[One], ids: SequenceABC[int], adapters: tuple[Adapter, ...], *, least: int, in_parts: bool
) -> tuple[One | None, int]:
    """Which shares the longest usable prefix with `ids`, of at least so many, and its length; of equal ones the first."""
    best, most = None, least - 1
    for one in known:
        if one.adapters != adapters:
            continue
        shared = common_prefix(one.ids, ids, min(len(one.ids), len(ids)))
        if shared > most and (in_parts or shared == len(one.ids)):
            best, most = one, shared
    return best, most


def serves_for(one: Known, ids: list[int], adapters: tuple[Adapter, ...], *, in_parts: bool) -> bool:
    """Whether this serves as well as a state of these ids would."""
    return one.adapters == adapters and starts_with(one.ids, ids) and (in_parts or len(one.ids) == len(ids))
