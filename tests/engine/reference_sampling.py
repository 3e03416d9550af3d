"""The samplers once more, as slowly and obviously as possible: plain Python over the whole sorted vocabulary.

Shares nothing with modules/engine but the parameters; tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from modules.core.params import GenerationParams

SLACK = 1e-6  # masses closer than this share count as reached, as in modules/engine/candidates.py
Tokens = list[tuple[int, float]]  # (id, logit), likeliest first, lower id first among equal logits


@dataclass
class Situation:
    """What has been written so far, and what else samplers may look at."""

    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    end_ids: Collection[int] = ()
    breakers: Collection[int] = ()
    coin: float = 1.0
    mu: float = math.inf


def ordered(tokens: Tokens) -> Tokens:
    return sorted(((i, x) for i, x in tokens if x > -math.inf), key=lambda token: (-token[1], token[0]))


def probabilities(tokens: Tokens) -> list[float]:
    largest = max(x for _, x in tokens)
    weights = [math.exp(x - largest) for _, x in tokens]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def entropy(tokens: Tokens) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities(tokens) if p)


def top_k(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    return tokens[: params.top_k] if params.top_k else tokens


def first_reaching(shares: Sequence[float], mass: float) -> int:
    """How many of the first shares add up to the mass."""
    total = 0.0
    for n, share in enumerate(shares, 1):
        total += share
        if total >= mass * (1 - SLACK):
            return n
    return len(shares)


def top_p(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    return tokens[: first_reaching(probabilities(tokens), params.top_p)] if params.top_p < 1 else tokens


def min_p(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    shares = probabilities(tokens)
    return [t for t, p in zip(tokens, shares, strict=True) if p >= params.min_p * shares[0] * (1 - SLACK)] if params.min_p else tokens


def typical_p(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    if params.typical_p >= 1:
        return tokens
    shares = probabilities(tokens)
    expected = entropy(tokens)
    largest = max(x for _, x in tokens)
    log_total = largest + math.log(math.fsum(math.exp(x - largest) for _, x in tokens))
    nearest = sorted(range(len(tokens)), key=lambda n: abs(log_total - tokens[n][1] - expected))
    needed = first_reaching([shares[n] for n in nearest], params.typical_p)
    return ordered([tokens[n] for n in nearest[:needed]])


def top_n_sigma(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    if not params.top_n_sigma:
        return tokens
    logits = [x for _, x in tokens]
    mean = math.fsum(logits) / len(logits)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in logits) / len(logits))
    return [(i, x) for i, x in tokens if x >= logits[0] - params.top_n_sigma * sigma * (1 + SLACK)]


def xtc(tokens: Tokens, params: GenerationParams, situation: Situation) -> Tokens:
    if situation.coin >= params.xtc_probability or params.xtc_threshold > 0.5:
        return tokens
    choices = [t for t, p in zip(tokens, probabilities(tokens), strict=True) if p >= params.xtc_threshold * (1 - SLACK)]
    removed = {i for i, _ in choices[:-1]}
    return tokens if removed & set(situation.end_ids) else [t for t in tokens if t[0] not in removed]


def temperature(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    degree = params.temperature
    if params.dynamic_temperature_range:
        low, high = max(0.0, degree - params.dynamic_temperature_range), degree + params.dynamic_temperature_range
        share = entropy(tokens) / math.log(len(tokens)) if len(tokens) > 1 else 0.0
        degree = low + (high - low) * min(max(share, 0.0), 1.0) ** params.dynamic_temperature_exponent
    return [(i, x / max(degree, 1e-4)) for i, x in tokens]


def penalties(tokens: Tokens, params: GenerationParams, situation: Situation) -> Tokens:
    written = [(i, False) for i in situation.prompt] + [(i, True) for i in situation.completion]
    window = written[-params.penalty_range :] if params.penalty_range else written
    seen = {i for i, _ in window}
    changed = []
    for i, x in tokens:
        times = window.count((i, True))
        if i in seen:
            x = x / params.repetition_penalty if x > 0 else x * params.repetition_penalty
        changed.append((i, x - params.frequency_penalty * times - params.presence_penalty * (times > 0)))
    return ordered(changed)


def dry_matches(text: Sequence[int], breakers: Collection[int]) -> dict[int, int]:
    """For each next token, the longest match of the end of the text with an earlier part that it followed."""
    longest: dict[int, int] = {}
    for end in range(len(text) - 1):
        n = 0
        while n <= end and text[end - n] == text[-1 - n] and text[end - n] not in breakers:
            n += 1
        if n and text[end + 1] not in breakers:
            longest[text[end + 1]] = max(longest.get(text[end + 1], 0), n)
    return longest


def dry(tokens: Tokens, params: GenerationParams, situation: Situation) -> Tokens:
    text = situation.prompt + situation.completion
    matches = dry_matches(text[-params.dry_range :] if params.dry_range else text, situation.breakers)

    def penalty(i: int) -> float:
        n = matches.get(i, 0) - params.dry_allowed_length
        return params.dry_multiplier * math.exp(min(n * math.log(params.dry_base), 88)) if n >= 0 else 0.0

    return ordered([(i, x - penalty(i)) for i, x in tokens])


def no_repeat(tokens: Tokens, params: GenerationParams, situation: Situation) -> Tokens:
    text, n = situation.prompt + situation.completion, params.no_repeat_ngram_size
    there = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)} if n else set()
    last = text[len(text) - n + 1 :] if n > 1 else []
    return [(i, x) for i, x in tokens if i in situation.end_ids or (*last, i) not in there]


def smoothing(tokens: Tokens, params: GenerationParams, _: Situation) -> Tokens:
    if not params.smoothing_factor:
        return tokens
    square, cube = params.smoothing_factor * (3 - params.smoothing_curve) / 2, params.smoothing_factor * (params.smoothing_curve - 1) / 2
    changed = ordered([(i, tokens[0][1] - square * (x - tokens[0][1]) * (x - tokens[0][1]) + cube * (x - tokens[0][1]) ** 3) for i, x in tokens])
    return [(i, x) for i, x in changed if x >= changed[0][1] - 50]


def zipf_count(tokens: Tokens, size: int, mu: float) -> int:
    """Mirostat 1: how many of the likeliest have a mean surprise of mu bits, were the vocabulary Zipf's."""
    first = [x for _, x in tokens[:101]]  # of logits: the probability of one far behind the first is zero in floating point
    pairs = [(first[i] - first[i + 1], math.log((i + 2) / (i + 1))) for i in range(len(first) - 1)]
    if not pairs:
        return 1
    s = sum(b * t for b, t in pairs) / sum(t * t for _, t in pairs)
    if s <= 0:
        return size
    epsilon = s - 1
    try:
        return round((epsilon * 2**mu / (1 - size**-epsilon)) ** (1 / s)) + 1
    except OverflowError:
        return size


FUNCTIONS: tuple[Callable[[Tokens, GenerationParams, Situation], Tokens], ...] = (
    top_k, top_p, min_p, typical_p, top_n_sigma, xtc, temperature, penalties, dry, no_repeat, smoothing,
)  # fmt: skip


def survivors(row: np.ndarray, params: GenerationParams, situation: Situation) -> Tokens:
    """The tokens to draw from, after everything."""
    functions = {function.__name__: function for function in FUNCTIONS}
    banned = set(params.banned_tokens) | (set(situation.end_ids) if params.ban_eos else set())
    tokens = [(i, float(x) + params.logit_bias.get(i, 0.0)) for i, x in enumerate(row.tolist()) if i not in banned and x == x]
    tokens = ordered(tokens)
    for name in params.sampler_order:
        if params.temperature == 0 and name not in ("penalties", "dry", "no_repeat"):
            continue
        if params.temperature and params.mirostat_mode and name not in ("penalties", "dry", "no_repeat", "temperature", "smoothing"):
            continue
        tokens = functions[name](tokens, params, situation)
        if not tokens:  # `no_repeat` behind a cut: the best of all that nobody banned
            return ordered([(i, float(x)) for i, x in enumerate(row.tolist()) if i not in banned and x == x])[:1]
    if params.temperature == 0:
        return tokens[:1]
    if params.mirostat_mode == 1:
        return tokens[: zipf_count(tokens, len(row), situation.mu)]
    if params.mirostat_mode == 2:
        kept = [t for t, p in zip(tokens, probabilities(tokens), strict=True) if p and -math.log2(p) <= situation.mu + SLACK]
        return kept or tokens[:1]
    return tokens


def draw(tokens: Tokens, uniform: float) -> int:
    """The token at which the running sum of probabilities passes `uniform`."""
    total = 0.0
    for (i, _), p in zip(tokens, probabilities(tokens), strict=True):
        total += p
        if total > uniform:
            return i
    return tokens[-1][0]
