"""From the logits of one position to the next token of a sequence, its text, and whether that ends it.

Knows a sequence's sampler, stop strings and log-probabilities; knows no scheduler and no model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.generation import FinishReason, TokenLogprob
from modules.engine.sampling import Sampler

if TYPE_CHECKING:
    from modules.core.model import LogitsRow
    from modules.engine.detokenizer import PieceTable
    from modules.engine.events import Outbox
    from modules.engine.sequence import Sequence

LOWEST_LOGPROB = -9999.0  # instead of minus infinity, which JSON cannot say


@dataclass(frozen=True, slots=True)
class End:
    """How a sequence ended. `cut`: the stop string stood in the text, and what follows it is not shown."""

    reason: FinishReason
    stop: str | None = None
    cut: bool = False


class Writer:
    """Chooses tokens and passes their text on."""

    def __init__(self, pieces: PieceTable, outbox: Outbox) -> None:
        self._pieces = pieces
        self._outbox = outbox

    def next_token(self, sequence: Sequence, row: LogitsRow) -> End | None:
        """Choose the next token and take it into the text; the end, if it ends there."""
        if not sequence.first_token_s:
            sequence.first_token_s = time.monotonic()
            self._outbox.urgent = True
        if sequence.probe:
            sequence.new_logprobs.extend(self._logprob(row, 0, sequence.probe).top)
            return End("stop")
        token_id = sequence.sampler.sample(row)
        if token_id in sequence.end_ids or token_id in sequence.stop_ids:
            return End("stop", sequence.stop_ids.get(token_id))
        if sequence.logprobs is not None:
            sequence.new_logprobs.append(self._logprob(row, token_id, sequence.logprobs))
        sequence.sampler.accept(token_id)
        sequence.ids.append(token_id)
        sequence.new_ids.append(token_id)
        self._outbox.changed(sequence)
        text = sequence.detokenizer.feed(token_id)  # type: ignore[union-attr]
        stop = self._show(sequence, text) if text else None
        if stop is not None:
            return End("stop", stop, cut=True)
        return End("length") if len(sequence.ids) >= sequence.max_length else None

    def flush(self, sequence: Sequence) -> None:
        """The text that was held back, unless its own end completes a stop string."""
        assert sequence.detokenizer is not None and sequence.stops is not None
        shown, stop = sequence.stops.feed(sequence.detokenizer.flush())
        sequence.new_text.append(shown if stop is not None else shown + sequence.stops.flush())

    def _show(self, sequence: Sequence, text: str) -> str | None:
        """Pass text on as far as it is no stop string; the one that ended it, if one did."""
        shown, stop = sequence.stops.feed(text)  # type: ignore[union-attr]
        if shown:
            sequence.new_text.append(shown)
        return stop

    def _logprob(self, row: LogitsRow, token_id: int, top: int) -> TokenLogprob:
        own, best = Sampler.logprobs(row, token_id, top)
        written = self._pieces.written
        alternatives = tuple(TokenLogprob(other, written(other), max(value, LOWEST_LOGPROB)) for other, value in best)
        return TokenLogprob(token_id, written(token_id), max(own, LOWEST_LOGPROB), alternatives)
