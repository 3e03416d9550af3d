"""What one sequence has of a step of the model. Knows sequences and rows; no slots and no queue."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modules.core.model import Row
from modules.engine.sequence import Sequence

STEADY_CHUNK_TOKENS = 128  # of a prompt whose steps must not depend on measured times


@dataclass(slots=True)
class Share:
    """One sequence's part of a step."""

    sequence: Sequence
    row: Row
    completes: bool  # the row ends with the last known token: its logits choose the next one
    drafts: tuple[int, ...] = ()  # guesses at what follows; they stand at the end of the row, and may prove wrong
    accepted: int = 0  # how many of them became text

    @property
    def decodes(self) -> bool:
        """Whether this continues a reply by one token, and nothing else."""
        sequence = self.sequence
        is_plain = not (sequence.probe or sequence.deterministic or sequence.paired)
        return self.completes and len(self.row.token_ids) == 1 and sequence.produced > 0 and is_plain


def decode_share(sequence: Sequence) -> Share:
    """The one token that a sequence lacks."""
    return Share(sequence, Row(sequence.slot, sequence.computed, sequence.ids[-1:]), True)


def steady_share(sequence: Sequence, most: int) -> Share:
    """The next tokens of one that is computed alone, always cut in the same way: what it wrote before it lost its slot comes one by one again."""
    left = sequence.prompt_length - sequence.computed
    share = prefill_share(sequence, min(left, STEADY_CHUNK_TOKENS, most) if left > 0 else 1)
    share.row = replace(share.row, steady=True)
    return share


def prefill_share(sequence: Sequence, count: int) -> Share:
    """The next tokens of a sequence that lacks several; where its prompt is reported, with an output after each."""
    start = sequence.computed
    ids = sequence.ids[start : start + count]
    return Share(sequence, Row(sequence.slot, start, ids, count if sequence.reports_prompt else 1), count == sequence.pending)
