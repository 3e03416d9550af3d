"""Where the time of a request went, under the names that llama-server gives them; the queue, the longest gap and how often they gave way are ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modules.core.generation import Usage


def timings(prompts: Sequence[Usage], choices: Sequence[Usage]) -> dict[str, Any]:
    """Tokens are added up, a prompt once however many choices it has; times are those of the slowest, as all are written side by side."""
    prompt_n, prompt_s = sum(one.prompt_tokens - one.reused_tokens for one in prompts), _longest(one.prefill_s for one in prompts)
    predicted_n, predicted_s = sum(one.completion_tokens for one in choices), _longest(one.decode_s for one in choices)
    later = sum(max(0, one.completion_tokens - 1) for one in choices)  # the first token of each belongs to its prompt
    return {
        "queue_ms": _ms(_longest(one.queue_s for one in choices)),
        "cache_n": sum(one.reused_tokens for one in prompts),
        "prompt_n": prompt_n,
        "prompt_ms": _ms(prompt_s),
        "prompt_per_second": _rate(prompt_n, prompt_s),
        "predicted_n": predicted_n,
        "predicted_ms": _ms(predicted_s),
        "predicted_per_token_ms": _ms(predicted_s / later) if later else 0.0,
        "predicted_per_second": _rate(later, predicted_s),
        "longest_gap_ms": _ms(_longest(one.longest_gap_s for one in choices)),
        "draft_n": sum(one.drafted_tokens for one in choices),
        "draft_n_accepted": sum(one.accepted_tokens for one in choices),
        "preempted_n": sum(one.preemptions for one in choices),
    }


def _longest(seconds: Iterable[float]) -> float:
    return max(seconds, default=0.0)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 2) if seconds > 0 else 0.0
