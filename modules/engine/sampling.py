"""How the next token is chosen: the sampler of one request, from its parameters and what was written before.

The samplers themselves are in `samplers.py`. Knows parameters and token ids; knows no model and no text.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Sequence, Set
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from modules.core.errors import InvalidRequest
from modules.engine.candidates import Candidates, NothingLeft
from modules.engine.logits import PartialRow
from modules.engine.mirostat import Mirostat
from modules.engine.penalties import Ngrams, Repeats, TokenCounts
from modules.engine.samplers import SamplerState, acting
from modules.engine.shortlist import shortlist_of
from modules.engine.vocabulary import Whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.model import LogitsRow
    from modules.core.params import GenerationParams
    from modules.engine.constraints import Constraint


class Sampler:
    """Chooses the tokens of one request. `seed` is the one in use, drawn if none was given.

    Before the samplers of the order, always: `logit_bias` is added, `banned_tokens` and, with `ban_eos`, `end_ids` become impossible.
    A temperature of 0 takes the likeliest token after bias and all that penalises repeats; mirostat takes the place of the samplers that cut.
    The same seed and the same logits give the same tokens, whatever else runs beside.

    Raises:
        InvalidRequest: a biased or banned token id outside the vocabulary.
    """

    def __init__(
        self,
        params: GenerationParams,
        *,
        vocab_size: int,
        end_ids: Set[int],
        prompt_ids: Sequence[int],
        breaker_ids: Iterable[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self.seed = secrets.randbits(32) if params.seed is None else params.seed
        self._chance = Random(self.seed).random  # NumPy's own takes 0.1 ms to begin with when the processor's caches are cold, which a first token waits for
        self._params = params
        self._constraint = constraint
        self._banned, self._biased, self._bias = _biases(params, end_ids, vocab_size)
        self._greedy = params.temperature == 0
        self._mirostat = Mirostat(params, vocab_size) if params.mirostat_mode and not self._greedy else None
        self._steps = acting(params)
        self._state = SamplerState(end_ids)
        is_plain = not self._greedy and self._mirostat is None and len(self._banned) == len(self._bias)
        self._shortlist = shortlist_of(self._steps, params, frozenset(self._banned)) if is_plain else None
        names = {step.name for step in self._steps}
        if "penalties" in names:
            self._state.counts = TokenCounts(prompt_ids, params.penalty_range, params.repetition_penalty != 1)
        if "dry" in names:
            self._state.repeats = Repeats(prompt_ids, params.dry_range, breaker_ids)
        if "no_repeat" in names:
            self._state.ngrams = Ngrams(prompt_ids, params.no_repeat_ngram_size, end_ids)
        noting = (self._state.counts, self._state.repeats, self._state.ngrams, self._mirostat)
        self._noting: tuple[Callable[[int], None], ...] = tuple(one.accept for one in noting if one is not None)

    @property
    def finished(self) -> bool:
        """Whether the constraint leaves nothing to write."""
        return self._constraint is not None and self._constraint.finished

    def sample(self, row: LogitsRow) -> int:
        """Choose the next token; call `accept` with it if it becomes part of the text."""
        self._state.coin, uniform = self._chance(), self._chance()
        token_id = self._choose(row, uniform)
        if self._constraint is not None and not self._constraint.allows(token_id):
            token_id = self._choose(self._masked(row, self._constraint), self._chance())
        return token_id

    def accept(self, token_id: int) -> None:
        """Take note of a token that became part of the text."""
        for note in self._noting:
            note(token_id)
        if self._constraint is not None:
            self._constraint.advance(token_id)

    def distribution(self, row: LogitsRow, coin: float = 1.0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that `sample` would choose from, likeliest first, with their probabilities; the constraint is not asked.

        `coin` stands for the number that decides whether XTC acts: 0 lets it, 1 does not.
        """
        self._state.coin = coin
        try:
            left = self._survivors(row)
            if self._mirostat is not None:
                left = self._mirostat.cut(left)[0]
            kept = left.top(row.size).kept()
        except NothingLeft:
            return np.array([self._least_bad(row)]), np.ones(1)
        return kept.ids, kept.probabilities()

    @staticmethod
    def logprobs(row: LogitsRow, token_id: int, top: int) -> tuple[float, list[tuple[int, float]]]:
        """Log-probability of a token and of the `top` likeliest ones, best first, in the model's own distribution before any sampler."""
        log_total = row.logsumexp()
        if log_total == -math.inf:
            return -math.inf, []
        own = float(row.at(np.array([token_id]))[0]) - log_total
        if top <= 0:
            return own, []
        kept = Whole(row).top(top).kept()
        return own, list(zip(kept.ids.tolist(), (kept.logits - log_total).tolist(), strict=True))

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _choose(self, row: LogitsRow, uniform: float) -> int:
        if self._shortlist is not None:
            token_id = self._shortlist.choose(row, uniform)
            return self._least_bad(row) if token_id is None else token_id
        try:
            left = self._survivors(row)
            return left.draw(uniform) if self._mirostat is None else self._mirostat.choose(left, uniform)
        except NothingLeft:
            return self._least_bad(row)

    def _survivors(self, row: LogitsRow) -> Candidates:
        """The tokens to draw from; those of mirostat before its cut."""
        left: Candidates = Whole(row) if self._biased is None else self._with_bias(row)
        for step in self._steps:
            left = step.apply(left, self._params, self._state)
        return left.top(1) if self._greedy else left

    def _with_bias(self, row: LogitsRow) -> Whole:
        if len(self._banned) == len(self._bias):  # nothing is to be added up
            return Whole(row, changed=self._biased, values=self._bias)
        assert self._biased is not None
        return Whole(row).adjust(self._biased, lambda logits, place: logits + self._bias[place])

    def _masked(self, row: LogitsRow, constraint: Constraint) -> LogitsRow:
        """The tokens that the constraint allows; if there are none, the end tokens, so that it ends."""
        ids = constraint.allowed()
        if not len(ids):
            ends = sorted(token_id for token_id in self._state.end_ids if token_id < row.size)
            ids = np.array(ends or range(row.size))
        return PartialRow(row, ids)

    def _least_bad(self, row: LogitsRow) -> int:
        """The token when none is possible: the best that is not banned; what a constraint demands counts more than a ban."""
        full = row.full()
        if len(self._banned) < row.size and self._constraint is None:
            full = full.copy()
            free = np.ones(row.size, bool)
            free[self._banned] = False
            ids = free.nonzero()[0]
            return int(ids[full[ids].argmax()])
        return int(full.argmax())


def _biases(
    params: GenerationParams, end_ids: Set[int], vocab_size: int
) -> tuple[list[int], NDArray[np.int64] | None, NDArray[np.float64]]:
    """Banned ids; all ids with a bias, ascending, or None; their biases, -inf for banned ones."""
    asked = (*params.logit_bias, *params.banned_tokens)
    outside = [token_id for token_id in asked if not 0 <= token_id < vocab_size]
    if outside:
        raise InvalidRequest(
            f"Token {outside[0]} is not in this model's vocabulary of {vocab_size} tokens; "
            "take it out of logit_bias or banned_tokens.",
            field="logit_bias" if outside[0] in params.logit_bias else "banned_tokens",
        )
    banned = set(params.banned_tokens)
    if params.ban_eos:
        banned |= {token_id for token_id in end_ids if token_id < vocab_size}
    biases = {**params.logit_bias, **dict.fromkeys(banned, -math.inf)}
    ids = sorted(token_id for token_id, bias in biases.items() if bias)
    if not ids:
        return [], None, np.zeros(0)
    return sorted(banned), np.array(ids), np.array([biases[token_id] for token_id in ids])
