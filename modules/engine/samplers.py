"""The samplers: one short function each, and the table of them.

Each acts on what the one before it left, and probabilities always mean those of the tokens that are left. The same code serves every back
end; that a whole vocabulary is seldom copied and not sorted is the business of `vocabulary.py`, so a function here reads like its definition.

To add a sampler: a field in `core/params.py`, a function and a row of `SAMPLERS` here. Knows parameters and token ids; knows no model and no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from modules.engine.candidates import SLACK, Candidates, Kept
from modules.engine.few import how_many_above, how_many_reach, weights_of
from modules.engine.penalties import Ngrams, Repeats, TokenCounts, dry_amounts
from modules.engine.vocabulary import Whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.params import GenerationParams, SamplerName
    from modules.engine.shortlist import OnList

NEGLIGIBLE = 50.0  # nats behind the likeliest token: so unlikely that no draw ever reaches it
ROUNDED_UP = 1 + 1e-9  # a root may come out a little too small; what is not negligible after all must not be left out by it
SORTED_AT_MOST = 8192  # candidates; of more only those are sorted that a draw needs
COLDEST = 1e-4  # temperature below which nothing changes any more but the size of numbers


@dataclass(slots=True)
class SamplerState:
    """What samplers may know besides the logits."""

    end_ids: Set[int]
    counts: TokenCounts | None = None  # there when penalties are active
    repeats: Repeats | None = None  # there when DRY is active
    ngrams: Ngrams | None = None  # there when no n-gram may come twice
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
    reshapes: bool = False  # makes the likeliest tokens more or less so: nothing at a temperature of 0
    on_list: Callable[[GenerationParams], OnList | None] = lambda _: None  # what it does to a short sorted list of logits, if it can say so


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


def no_repeat(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """No n-gram twice (Paulus et al. 2017): a token that would complete one that is already there becomes impossible."""
    if state.ngrams is None:
        return candidates
    return candidates.adjust(state.ngrams.next_tokens(), lambda logits, place: np.full_like(logits, -np.inf))


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
    if not removed or not state.end_ids.isdisjoint(choices.ids[:removed]):
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


def smoothing(candidates: Candidates, params: GenerationParams, state: SamplerState) -> Candidates:
    """Quadratic sampling (kalomaze 2024): a logit that is d below the largest one becomes largest - factor * (a d² + b d³).

    a = (3 - curve) / 2 and b = (curve - 1) / 2, so with a curve of 1 it is a parabola. What is then negligible is left out.
    """
    largest = candidates.max()
    square, cube = params.smoothing_factor * (3 - params.smoothing_curve) / 2, params.smoothing_factor * (params.smoothing_curve - 1) / 2
    reach = ROUNDED_UP * _reach(square, cube)

    def smooth(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        below = logits - largest
        return largest - square * below * below + cube * below * below * below

    if isinstance(candidates, Whole) and candidates.reached(largest - reach) > SORTED_AT_MOST:
        return candidates.reshaped(smooth, largest - reach, NEGLIGIBLE)
    kept = candidates.above(largest - reach).kept()
    changed = Kept.sort(kept.ids, smooth(kept.logits))
    return changed.above(changed.max() - NEGLIGIBLE)


def _reach(square: float, cube: float) -> float:
    """How far below the largest a logit may be before it is surely negligible."""
    if square < 0:  # first up, then down: beyond twice the top of the hill at least half of the cube is left
        return max(-2 * square / cube, math.pow(2 * NEGLIGIBLE / cube, 1 / 3))
    return min(math.sqrt(NEGLIGIBLE / square) if square else math.inf, math.pow(NEGLIGIBLE / cube, 1 / 3) if cube else math.inf)


# ---- the usual ones, on a short list -------------------------------------------------------------------------------


def top_p_on_list(params: GenerationParams) -> OnList:
    """`top_p` of logits, likeliest first."""

    def cut(logits: list[float]) -> list[float]:
        cumulative = list(accumulate(weights_of(logits)))
        return logits[: how_many_reach(cumulative, params.top_p * cumulative[-1])]

    return cut


def min_p_on_list(params: GenerationParams) -> OnList:
    """`min_p` of logits, likeliest first."""
    distance = math.log(params.min_p)
    return lambda logits: logits[: max(1, how_many_above(logits, logits[0] + distance - SLACK))]


def temperature_on_list(params: GenerationParams) -> OnList | None:
    """`temperature` of logits; not one that grows with the entropy."""
    if params.dynamic_temperature_range:
        return None
    factor = 1 / max(params.temperature, COLDEST)
    return lambda logits: [logit * factor for logit in logits]


# What there is; the order in which they act is GenerationParams.sampler_order
SAMPLERS: tuple[SamplerSpec, ...] = (
    SamplerSpec("penalties", ("repetition_penalty", "frequency_penalty", "presence_penalty", "penalty_range"),
                lambda p: p.repetition_penalty != 1 or p.frequency_penalty != 0 or p.presence_penalty != 0, penalties, cuts=False),
    SamplerSpec("dry", ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "dry_sequence_breakers"),
                lambda p: p.dry_multiplier > 0, dry, cuts=False),
    SamplerSpec("no_repeat", ("no_repeat_ngram_size",), lambda p: p.no_repeat_ngram_size > 0, no_repeat, cuts=False),
    SamplerSpec("top_n_sigma", ("top_n_sigma",), lambda p: p.top_n_sigma > 0, top_n_sigma),
    SamplerSpec("top_k", ("top_k",), lambda p: p.top_k > 0, top_k),
    SamplerSpec("typical_p", ("typical_p",), lambda p: p.typical_p < 1, typical_p),
    SamplerSpec("top_p", ("top_p",), lambda p: p.top_p < 1, top_p, on_list=top_p_on_list),
    SamplerSpec("min_p", ("min_p",), lambda p: p.min_p > 0, min_p, on_list=min_p_on_list),
    SamplerSpec("xtc", ("xtc_probability", "xtc_threshold"), lambda p: p.xtc_probability > 0 and p.xtc_threshold <= 0.5, xtc),
    SamplerSpec("temperature", ("temperature", "dynamic_temperature_range", "dynamic_temperature_exponent"),
                lambda p: p.temperature != 1 or p.dynamic_temperature_range > 0, temperature, cuts=False, reshapes=True,
                on_list=temperature_on_list),
    SamplerSpec("smoothing", ("smoothing_factor", "smoothing_curve"), lambda p: p.smoothing_factor > 0, smoothing, cuts=False, reshapes=True),
)  # fmt: skip


def acting(params: GenerationParams) -> tuple[SamplerSpec, ...]:
    """The samplers that take part with these parameters, in their order: at a temperature of 0 and with mirostat those that cut do not."""
    specs = {spec.name: spec for spec in SAMPLERS}
    steps = tuple(specs[name] for name in params.sampler_order if specs[name].is_active(params))
    if params.temperature == 0:
        return tuple(step for step in steps if not step.cuts and not step.reshapes)
    return tuple(step for step in steps if not step.cuts) if params.mirostat_mode else steps
