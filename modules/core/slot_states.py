"""What the slots of a loaded model hold, handed out, taken back and returned to: the part of a `Runner` that knows states.

Contract only. States are opaque: the runner that made one takes it back, within one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATE_CUTS = 2  # marks that a state has, the last ones of its slot: each may be as large as itself


class SlotStates(Protocol):
    """The part of a `Runner` about what a slot holds."""

    keeps_parts: bool  # whether any part of a slot, or of a state, can be kept
    can_mark: bool  # where not: whether `mark` makes some that can, as far as is known

    def mark_within(self, budget_bytes: int) -> int:
        """Let marks take a part of so much main memory, where this runner makes any; how much is left of it."""
        ...

    def mark(self, slot: int) -> None:
        """Remember the present end of a slot, so that it can be cut back there; of many marks some are forgotten again."""
        ...

    def cuts(self, slot: int) -> tuple[int, ...]:
        """Where parts cannot be kept: the lengths to which the slot can be cut all the same, ascending; a state of it to the last `STATE_CUTS` of them."""
        ...

    def state_bytes(self, slot: int) -> int:
        """How large the state of a slot is, without its marks; 0 if it cannot be saved."""
        ...

    def marks_bytes(self, slot: int) -> int:
        """How large the marks are that a state of the slot has; they are not copied for it."""
        ...

    def save_state(self, slot: int) -> Any:
        """What a slot holds, as a copy in main memory that only this runner can take back."""
        ...

    def restore_state(self, slot: int, state: Any, length: int) -> int:
        """Let an empty slot hold the first `length` positions of a state. There must be room for all of the state for a moment.

        Returns the length really kept: `length`, or where the state or a part of it cannot be taken back less, as `truncate` does.
        """
        ...

    def drop_state(self, state: Any) -> None:
        """This state is not wanted any more: its memory may serve for the next one."""
        ...

    def ready_memory(self, sizes: Sequence[int]) -> bool:
        """Have memory ready for states of about these sizes, a piece of it with each call; whether there is more to do."""
        ...

    def pack_state(self, state: Any) -> tuple[Any, list[NDArray[np.uint8]]]:
        """The form of a state, which is small, and its contents as flat arrays of bytes, which are not copied."""
        ...

    def unpack_state(self, form: Any, parts: list[NDArray[np.uint8]]) -> Any:
        """The state of this form with these contents; both as `pack_state` told them."""
        ...
