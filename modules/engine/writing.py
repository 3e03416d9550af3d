"""From the logits of one position to the next token of a sequence, its text, and whether that ends it.

Knows a sequence's sampler, stop strings and log-probabilities; knows no scheduler and no model.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.core.generation import FinishReason, TokenLogprob
from modules.engine.logits import as_row
from modules.engine.sampling import Sampler

if TYPE_CHECKING:
    from modules.core.model import Logits, LogitsRow
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
    token_id: int | None = None  # that ended it, which is no part of its text


class Writer:
    """Chooses tokens and passes their text on."""

    def __init__(self, pieces: PieceTable, outbox: Outbox) -> None:
        self._pieces = pieces
        self._outbox = outbox

    def next_token(self, sequence: Sequence, row: LogitsRow) -> End | None:
        """Choose the next token and take it into the text; the end, if it ends there."""
        now_s = time.monotonic()
        if not sequence.first_token_s:
            sequence.first_token_s = now_s
            self._outbox.urgent = True
        elif now_s - sequence.last_token_s > sequence.longest_gap_s:
            sequence.longest_gap_s = now_s - sequence.last_token_s
        sequence.last_token_s = now_s
        if len(sequence.ids) >= sequence.max_length:
            return End("length")  # only the prompt was asked about
        if sequence.probe:
            sequence.new_logprobs.extend(self._likeliest(sequence, row))
            return End("stop")
        token_id = sequence.sampler.sample(row)
        if token_id in sequence.end_ids or token_id in sequence.stop_ids:
            return End("stop", sequence.stop_ids.get(token_id), token_id=token_id)
        if sequence.sampler.finished:  # nothing can follow, and the model has no end token that could say so
            return End("stop")
        if sequence.logprobs is not None:
            sequence.new_logprobs.append(self._logprob(row, token_id, sequence.logprobs))
        sequence.sampler.accept(token_id)
        sequence.append(token_id)
        sequence.new_ids.append(token_id)
        self._outbox.changed(sequence)
        text = sequence.detokenizer.feed(token_id)  # type: ignore[union-attr]
        stop = self._show(sequence, text) if text else None
        if stop is not None:
            return End("stop", stop, cut=True)
        return End("stop") if sequence.sampler.finished else End("length") if len(sequence.ids) >= sequence.max_length else None

    def report_prompt(self, sequence: Sequence, entries: Logits) -> Logits:
        """Report the tokens of a prompt, as it is wanted, that the entries of a row which was just computed are about; what is left chooses the next token."""
        if not sequence.reported:
            first = sequence.ids[0]
            sequence.new_prompt_logprobs.append(self._entry(first, 0.0))
            sequence.reported = 1
        first_place = sequence.computed - len(entries) + 1  # of the token that the first entry is about
        wanted = range(max(sequence.reported, first_place), min(sequence.computed + 1, sequence.prompt_length))
        for place in wanted:
            row = as_row(entries[place - first_place])
            sequence.new_prompt_logprobs.append(self._logprob(row, sequence.ids[place], sequence.prompt_logprobs or 0))
        sequence.reported = max(sequence.reported, wanted.stop)
        self._outbox.changed(sequence)
        return entries[-1:]

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

    def _likeliest(self, sequence: Sequence, row: LogitsRow) -> list[TokenLogprob]:
        """The next tokens that the samplers leave, best first: with neutral parameters those of the model itself."""
        ids, shares = sequence.sampler.distribution(row)
        best = zip(ids[: sequence.probe].tolist(), shares[: sequence.probe].tolist(), strict=True)
        return [self._entry(token_id, math.log(share) if share > 0 else LOWEST_LOGPROB) for token_id, share in best]

    def _logprob(self, row: LogitsRow, token_id: int, top: int) -> TokenLogprob:
        own, best = Sampler.logprobs(row, token_id, top)
        return self._entry(token_id, own, tuple(self._entry(other, value) for other, value in best))

    def _entry(self, token_id: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(token_id, self._pieces.written(token_id), max(value, LOWEST_LOGPROB), top, self._pieces.part(token_id))
