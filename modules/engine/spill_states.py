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


@dataclass(slots=True, eq=False)
class Saved:
    """One state, and what it was computed from."""

    ids: list[int]
    adapters: tuple[Adapter, ...]
    state: Any
    size_bytes: int
    keep_on_disk: bool = True  # or never there
    cuts: tuple[int, ...] = ()  # lengths to which the state can be cut, where not to any
    lent: bool = False  # the disk has it: nobody else keeps it, or gives its memory to another state


class Known(Protocol):
    """Whatever stands for ids that were computed with some adapters."""

    ids: list[int]
    adapters: tuple[Adapter, ...]
    cuts: tuple[int, ...]


One = TypeVar("One", bound=Known)


def usable(shared: int, whole: int, cuts: SequenceABC[int]) -> int:
    """How much of a beginning can be used that a state of `whole` tokens shares, where only some parts of it can be kept."""
    return shared if shared == whole else max((cut for cut in cuts if cut <= shared), default=0)


def longest_of(
    known: Iterable[One], ids: SequenceABC[int], adapters: tuple[Adapter, ...], *, least: int, in_parts: bool
) -> tuple[One | None, int]:
    """Which shares the longest usable prefix with `ids`, of at least so many, and its length; of equal ones the first."""
    best, most = None, least - 1
    for one in known:
        if one.adapters != adapters:
            continue
        shared = common_prefix(one.ids, ids, min(len(one.ids), len(ids)))
        shared = shared if in_parts else usable(shared, len(one.ids), one.cuts)
        if shared > most:
            best, most = one, shared
    return best, most


def serves_for(one: Known, ids: list[int], adapters: tuple[Adapter, ...], *, in_parts: bool) -> bool:
    """Whether this serves as well as a state of these ids would."""
    return one.adapters == adapters and starts_with(one.ids, ids) and (in_parts or usable(len(ids), len(one.ids), one.cuts) == len(ids))
