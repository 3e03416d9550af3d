"""How the next token is chosen: one short function per sampler, the table of them, and the sampler of one request.

Each sampler acts on what the one before it left, and probabilities always mean those of the tokens that are left. The same code serves every back
end; that a whole vocabulary is seldom copied and not sorted is the business of `vocabulary.py`, so a function here reads like its definition.

To add a sampler: a field in `core/params.py`, a function and a row of `SAMPLERS` here. Knows parameters and token ids; knows no model and no text.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modules.core.errors import InvalidRequest
from modules.engine.candidates import SLACK, Candidates, Kept, NothingLeft
from modules.engine.logits import NumpyRow
from modules.engine.penalties import Repeats, TokenCounts, dry_amounts
from modules.engine.vocabulary import Whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.model import LogitsRow
    from modules.core.params import GenerationParams, SamplerName
    from modules.engine.constraints import Constraint

LN2 = math.log(2)
COLDEST = 1e-4  # temperature below which nothing changes any more but the size of numbers


@dataclass(slots=True)
class SamplerState:
    """What samplers may know besides the logits."""

    end_ids: Set[int]
    counts: TokenCounts | None = None  # there when penalties are active
    repeats: Repeats | None = None  # there when DRY is active
    coin: float = 0.0  # this token's number from [0, 1) for a decision by chance


Apply = Callable[[Candidates, "GenerationParams", SamplerState], Candidates]


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """One sampler: the parameters it reads, when it acts, and what it does."""

    name: SamplerName
    fields: tuple[str, ...]
    is_active: Callable[[GenerationParams], bool]
    apply: Apply
    cuts: bool = True  # removes tokens: mirostat and a temperature of 0 take its place


# ---- the samplers --------------------------------------------------------------------------------------------------


def penalties(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Make tokens that were seen in the last `penalty_range` tokens less likely.

    Repetition (Keskar et al. 2019, CTRL): logits of tokens in prompt or completion are divided by the penalty, negative ones multiplied.
    Frequency and presence (OpenAI's API): subtracted from tokens of the completion, for each time and once.
    """
    counts = state.counts
    if counts is None:
        return candidates
    repetition, frequency, presence = params.repetition_penalty, params.frequency_penalty, params.presence_penalty

    def change(logits: NDArray[np.float64], place: NDArray[np.int64]) -> NDArray[np.float64]:
        if repetition != 1:
            logits = np.where(logits > 0, logits / repetition, logits * repetition)
        if frequency or presence:
            written = counts.written[place]
            logits = logits - (frequency * written + presence * (written > 0))
        return logits

    return candidates.adjust(counts.ids, change)


def dry(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Don't Repeat Yourself (p-e-w 2024): a token that would prolong a repeat of the last n >= allowed tokens loses multiplier * base^(n - allowed).

    n is the longest match of the end of the text with an earlier part that this token followed. A match never contains
    a sequence breaker, and breakers themselves are never penalised.
    """
    if state.repeats is None:
        return candidates
    ids, lengths = state.repeats.next_tokens(params.dry_allowed_length)
    if not len(ids):
        return candidates
    amounts = dry_amounts(lengths, params.dry_allowed_length, params.dry_multiplier, params.dry_base)
    return candidates.adjust(ids, lambda logits, place: logits - amounts[place])


def top_n_sigma(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Top-nσ (Tang et al. 2024): keep logits >= max - n * standard deviation of the logits."""
    return candidates.above(candidates.max() - params.top_n_sigma * candidates.deviation() * (1 + SLACK))


def top_k(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Top-k (Fan et al. 2018): keep the k likeliest tokens; of equal ones the lower ids."""
    return candidates.top(params.top_k)


def typical_p(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Locally typical (Meister et al. 2022): the smallest set of mass >= p taken by |-log p(token) - entropy|, smallest first."""
    return candidates.typical(params.typical_p)


def top_p(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Nucleus (Holtzman et al. 2019): the smallest set of likeliest tokens whose mass is >= p."""
    return candidates.nucleus(params.top_p)


def min_p(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Min-p (Nguyen et al. 2024): keep tokens with probability >= min_p * the largest probability."""
    return candidates.above(candidates.max() + math.log(params.min_p) - SLACK)


def xtc(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Exclude Top Choices (p-e-w 2024): with a chance, remove all tokens with probability >= threshold but the least likely of them.

    Nothing is removed when an end token would be: a text must be able to end.
    """
    if state.coin >= params.xtc_probability:
        return candidates
    threshold = math.log(params.xtc_threshold) if params.xtc_threshold else -math.inf
    choices = candidates.above(candidates.log_total() + threshold - SLACK)
    removed = len(choices.ids) - 1
    if not removed or not state.end_ids.isdisjoint(choices.ids[:removed].tolist()):
        return candidates
    return candidates.without_first(removed)


def temperature(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Divide the logits by the temperature, or by one between temperature ± range that grows with the entropy.

    Dynamic temperature (kalomaze 2023): low + (high - low) * (entropy / log of the number of tokens left) ** exponent.
    """
    degree = params.temperature
    if params.dynamic_temperature_range:
        low, high = max(0.0, degree - params.dynamic_temperature_range), degree + params.dynamic_temperature_range
        count = candidates.count()
        share = min(1.0, max(0.0, candidates.entropy() / math.log(count))) if count > 1 else 0.0
        degree = low + (high - low) * share**params.dynamic_temperature_exponent
    return candidates.scaled(1 / max(degree, COLDEST))


# What there is; the order in which they act is GenerationParams.sampler_order
SAMPLERS: tuple[SamplerSpec, ...] = (
    SamplerSpec("penalties", ("repetition_penalty", "frequency_penalty", "presence_penalty", "penalty_range"),
                lambda p: p.repetition_penalty != 1 or p.frequency_penalty != 0 or p.presence_penalty != 0, penalties, cuts=False),
    SamplerSpec("dry", ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "dry_sequence_breakers"),
                lambda p: p.dry_multiplier > 0, dry, cuts=False),
    SamplerSpec("top_n_sigma", ("top_n_sigma",), lambda p: p.top_n_sigma > 0, top_n_sigma),
    SamplerSpec("top_k", ("top_k",), lambda p: p.top_k > 0, top_k),
    SamplerSpec("typical_p", ("typical_p",), lambda p: p.typical_p < 1, typical_p),
    SamplerSpec("top_p", ("top_p",), lambda p: p.top_p < 1, top_p),
    SamplerSpec("min_p", ("min_p",), lambda p: p.min_p > 0, min_p),
    SamplerSpec("xtc", ("xtc_probability", "xtc_threshold"), lambda p: p.xtc_probability > 0 and p.xtc_threshold <= 0.5, xtc),
    SamplerSpec("temperature", ("temperature", "dynamic_temperature_range", "dynamic_temperature_exponent"),
                lambda p: p.temperature != 1 or p.dynamic_temperature_range > 0, temperature, cuts=False),
)  # fmt: skip


# ---- the sampler of one request ------------------------------------------------------------------------------------


class Sampler:
    """Chooses the tokens of one request. `seed` is the one in use, drawn if none was given.

    Before the samplers of the order, always: `logit_bias` is added, `banned_tokens` and, with `ban_eos`, `end_ids` become impossible.
    A temperature of 0 takes the likeliest token after bias, penalties and DRY; mirostat 2 takes the place of the samplers that cut.
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
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._params = params
        self._constraint = constraint
        self._banned, self._biased, self._bias = _biases(params, end_ids, vocab_size)
        self._greedy = params.temperature == 0
        self._mirostat = params.mirostat_mode == 2 and not self._greedy
        self._largest_surprise = 2 * params.mirostat_tau  # mu of the paper, bits
        self._drawn: tuple[int, float] | None = None  # token and its surprise, until it is accepted
        self._steps = self._active_steps()
        self._state = SamplerState(end_ids)
        if any(step.name == "penalties" for step in self._steps):
            self._state.counts = TokenCounts(prompt_ids, params.penalty_range, params.repetition_penalty != 1)
        if any(step.name == "dry" for step in self._steps):
            self._state.repeats = Repeats(prompt_ids, params.dry_range, breaker_ids)

    def sample(self, row: LogitsRow) -> int:
        """Choose the next token; call `accept` with it if it becomes part of the text."""
        self._state.coin, uniform = self._random.random(), self._random.random()
        token_id = self._choose(row, uniform)
        if self._constraint is not None and not self._constraint.allows(token_id):
            token_id = self._choose(self._masked(row, self._constraint), self._random.random())
        return token_id

    def accept(self, token_id: int) -> None:
        """Take note of a token that became part of the text."""
        if self._state.counts is not None:
            self._state.counts.accept(token_id)
        if self._state.repeats is not None:
            self._state.repeats.accept(token_id)
        if self._drawn is not None and self._drawn[0] == token_id:
            self._largest_surprise -= self._params.mirostat_eta * (self._drawn[1] - self._params.mirostat_tau)
            self._drawn = None
        if self._constraint is not None:
            self._constraint.advance(token_id)

    def distribution(self, row: LogitsRow, coin: float = 1.0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that `sample` would choose from, likeliest first, with their probabilities; the constraint is not asked.

        `coin` stands for the number that decides whether XTC acts: 0 lets it, 1 does not.
        """
        self._state.coin = coin
        try:
            left = self._survivors(row)[0]
            kept = left if isinstance(left, Kept) else left.top(row.size)
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
        kept = Whole(row).top(top)
        return own, list(zip(kept.ids.tolist(), (kept.logits - log_total).tolist(), strict=True))

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _active_steps(self) -> tuple[SamplerSpec, ...]:
        params = self._params
        specs = {spec.name: spec for spec in SAMPLERS}
        steps = tuple(specs[name] for name in params.sampler_order if specs[name].is_active(params))
        if self._greedy:
            return tuple(step for step in steps if not step.cuts and step.name != "temperature")
        return tuple(step for step in steps if not step.cuts) if self._mirostat else steps

    def _choose(self, row: LogitsRow, uniform: float) -> int:
        try:
            left, log_total = self._survivors(row)
            if not self._mirostat:
                return left.draw(uniform)
            assert isinstance(left, Kept)
            place = left.place(uniform)
            self._drawn = int(left.ids[place]), (log_total - float(left.logits[place])) / LN2
            return self._drawn[0]
        except NothingLeft:
            return self._least_bad(row)

    def _survivors(self, row: LogitsRow) -> tuple[Candidates, float]:
        """The tokens to draw from; for mirostat also the log_total of the distribution that surprise is measured in."""
        left: Candidates = Whole(row)
        if self._biased is not None:
            left = left.adjust(self._biased, lambda logits, place: logits + self._bias[place])
        for step in self._steps:
            left = step.apply(left, self._params, self._state)
        if self._greedy:
            return left.top(1), 0.0
        if self._mirostat:
            return self._unsurprising(left)
        return left, 0.0

    def _unsurprising(self, candidates: Candidates) -> tuple[Kept, float]:
        """Mirostat 2 (Basu et al. 2020): leave out tokens with -log2 p > mu; `accept` moves mu by eta * (tau - surprise).

        The surprise of the chosen token is that of the distribution before this cut, as in the paper's algorithm.
        """
        log_total = candidates.log_total()
        return candidates.above(log_total - self._largest_surprise * LN2 - SLACK), log_total

    def _masked(self, row: LogitsRow, constraint: Constraint) -> LogitsRow:
        """The row with refused tokens impossible. If none is allowed: only the end tokens, so that it ends."""
        allowed = constraint.mask(np.arange(row.size))
        if not allowed.any():
            ends = [token_id for token_id in self._state.end_ids if token_id < row.size]
            allowed[ends or slice(None)] = True
        return NumpyRow(np.where(allowed, row.full(), np.float32(-np.inf)))

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
