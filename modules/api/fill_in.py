"""Filling a gap: the prompt for a model that was trained to write what stands between two texts.

Such models have tokens for it, which are looked for in the model's own vocabulary; one without them is refused. Sources: the model cards of Qwen Coder, StarCoder,
DeepSeek Coder and Codestral, and of what came after them.
"""

from __future__ import annotations

from typing import NamedTuple

from modules.core.errors import InvalidRequest
from modules.services.generation import GenerationService


class Gap(NamedTuple):
    """How one family writes a gap: its marks, and the order of all."""

    marks: tuple[str, ...]
    written: str


GAPS: tuple[Gap, ...] = (
    Gap(("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"),
    Gap(("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"),
    Gap(("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), "<fim-prefix>{before}<fim-suffix>{after}<fim-middle>"),
    Gap(("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), "<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>"),
    Gap(("[PREFIX]", "[SUFFIX]"), "[SUFFIX]{after}[PREFIX]{before}"),
)


async def with_gap(generation: GenerationService, before: str, after: str, model: str) -> str:
    """The prompt that has the model write what stands between the two.

    Raises:
        InvalidRequest: the model was not trained for that.
    """
    for gap in GAPS:
        if len(await generation.tokenize("".join(gap.marks), model)) == len(gap.marks):  # each is a token of its own
            return gap.written.format(before=before, after=after)
    raise InvalidRequest("suffix: this model has no tokens for filling a gap; put the text before the gap into prompt, or load a model for code.", field="suffix")
