"""The seam for what a text may look like: a grammar, a JSON schema, a list of choices.

A constraint follows one completion, token by token. The sampler uses it so: it chooses a token as if there were no constraint and asks `allows`
for that one alone, which is nearly always granted; only if it is refused, `mask` is asked for the whole vocabulary, the refused tokens become
impossible and the sampler chooses once more. `accept` of the sampler advances the constraint. Knows no logits; no grammar is implemented here yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constraint(Protocol):
    """What the rest of one completion may be. One thread uses it; it belongs to one sampler."""

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing but an end token can follow."""
        ...

    def allows(self, token_id: int) -> bool:
        """Whether this token may come next; end tokens are allowed where the text may end."""
        ...

    def mask(self, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`allows` for many tokens at once: bool, the shape of `token_ids`."""
        ...

    def advance(self, token_id: int) -> None:
        """Take note of the token that was chosen, one that is allowed."""
        ...
