"""Generation parameters: every sampling field once, with its bounds, neutral value and one sentence.

A field here becomes a slider in the page, a field of the API, a key of a preset and a row of the documentation; nothing else lists them.
The default of every field is its neutral value: it changes nothing. This module knows no sampling algorithm (see engine/samplers.py).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from modules.core.text_shape import (
    LONGEST_REGEX,
    LONGEST_SHAPE,
    MOST_CHOICES,
    SHAPE_FIELDS,
    canonical_schema,
    checked_choices,
)

SamplerName = Literal[
    "penalties", "dry", "no_repeat", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature", "smoothing",
]  # fmt: skip
DEFAULT_ORDER: tuple[SamplerName, ...] = (
    "penalties", "dry", "no_repeat", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature", "smoothing",
)  # fmt: skip


def _group(name: str, **more: Any) -> dict[str, Any]:
    """Page hints of a field: the drawer it stands in, `step` or `log` for its slider, `rows` for its text box, `ordered` for a list to drag."""
    return {"group": name, **more}


class GenerationParams(BaseModel, frozen=True, extra="forbid"):
    """How the next tokens are chosen and when to stop. All defaults are neutral."""

    max_tokens: int = Field(0, ge=0, le=1_048_576, description="Most new tokens to write; 0 fills the context.",
                            json_schema_extra=_group("Length", slider_max=8192))
    context_tokens: int = Field(0, ge=0, le=16_777_216, description="Longest context, prompt and text together; 0 is all that the model was loaded with.",
                                json_schema_extra=_group("Length", slider_max=32_768))
    deadline_s: float = Field(0.0, ge=0, le=86_400, description="Seconds from the arrival of a request: what still waits then is refused, and a reply "
                              "that is being written ends there as at its length; 0 has none.",
                              json_schema_extra=_group("Length", slider_max=600))
    temperature: float = Field(1.0, ge=0, le=5, description="Divides the logits; 0 always takes the likeliest token.",
                               json_schema_extra=_group("Sampling"))
    dynamic_temperature_range: float = Field(
        0.0, ge=0, le=5, description="Lets the temperature vary by plus or minus this much with the entropy; 0 is off.",
        json_schema_extra=_group("Dynamic temperature"))
    dynamic_temperature_exponent: float = Field(
        1.0, ge=0.01, le=10, description="Bends the curve from entropy to dynamic temperature.",
        json_schema_extra=_group("Dynamic temperature"))
    smoothing_factor: float = Field(
        0.0, ge=0, le=10, description="Smoothing (quadratic sampling): the likeliest tokens come closer to each other, unlikely ones become much less likely; 0 is off.",
        json_schema_extra=_group("Smoothing"))
    smoothing_curve: float = Field(1.0, ge=1, le=10, description="How steeply smoothing falls off; 1 is a parabola.", json_schema_extra=_group("Smoothing"))
    top_k: int = Field(0, ge=0, le=1000, description="Keeps the k likeliest tokens; 0 is off.",
                       json_schema_extra=_group("Sampling"))
    top_p: float = Field(1.0, gt=0, le=1, description="Keeps the likeliest tokens that together reach this probability; 1 is off.",
                         json_schema_extra=_group("Sampling"))
    min_p: float = Field(0.0, ge=0, le=1, description="Drops tokens less likely than this share of the likeliest one; 0 is off.",
                         json_schema_extra=_group("Sampling"))
    typical_p: float = Field(1.0, gt=0, le=1, description="Keeps tokens whose surprise is close to the expected one, up to this mass; 1 is off.",
                             json_schema_extra=_group("More cuts"))
    top_n_sigma: float = Field(0.0, ge=0, le=20, description="Keeps logits within n standard deviations of the largest; 0 is off.",
                               json_schema_extra=_group("More cuts"))
    xtc_probability: float = Field(0.0, ge=0, le=1, description="Chance, per token, to remove all but the least likely of the top choices; 0 is off.",
                                   json_schema_extra=_group("XTC"))
    xtc_threshold: float = Field(0.1, ge=0, le=1, description="A token is a top choice for XTC when at least this likely; above 0.5 is off.",
                                 json_schema_extra=_group("XTC"))
    dry_multiplier: float = Field(0.0, ge=0, le=10, description="Strength of the penalty on repeating a sequence (DRY); 0 is off.",
                                  json_schema_extra=_group("DRY"))
    dry_base: float = Field(1.75, ge=1, le=8, description="How fast the DRY penalty grows with the length of the repeat.",
                            json_schema_extra=_group("DRY"))
    dry_allowed_length: int = Field(2, ge=1, le=100, description="Longest repeat that DRY leaves alone, in tokens.",
                                    json_schema_extra=_group("DRY"))
    dry_range: int = Field(0, ge=0, le=32_768, description="How many last tokens DRY looks at; 0 is all of them.",
                           json_schema_extra=_group("DRY"))
    dry_sequence_breakers: tuple[str, ...] = Field(("\n", ":", '"', "*"), max_length=64, description="Strings across which DRY sees no repeat.",
                                                   json_schema_extra=_group("DRY"))
    repetition_penalty: float = Field(1.0, ge=0.1, le=5, description="Divides (or multiplies) the logit of tokens seen before; 1 is off.",
                                      json_schema_extra=_group("Penalties"))
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="Subtracted once for every time a token was seen; 0 is off.",
                                     json_schema_extra=_group("Penalties"))
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Subtracted once from tokens seen before; 0 is off.",
                                    json_schema_extra=_group("Penalties"))
    no_repeat_ngram_size: int = Field(0, ge=0, le=20, description="No sequence of so many tokens comes twice, those of the prompt included; 0 is off.",
                                      json_schema_extra=_group("Penalties"))
    penalty_range: int = Field(0, ge=0, le=32_768, description="How many last tokens the penalties look at; 0 is all of them.",
                               json_schema_extra=_group("Penalties"))
    mirostat_mode: Literal[0, 1, 2] = Field(0, description="Steers the surprise of the text to a target and replaces the other cuts: 1 by the number of tokens, 2 by their surprise; 0 is off.",
                                         json_schema_extra=_group("Mirostat"))
    mirostat_tau: float = Field(5.0, ge=0.1, le=20, description="Target surprise of mirostat, in bits.",
                                json_schema_extra=_group("Mirostat"))
    mirostat_eta: float = Field(0.1, ge=0.001, le=1, description="How fast mirostat corrects itself.",
                                json_schema_extra=_group("Mirostat"))
    guidance_scale: float = Field(1.0, ge=-0.5, le=2.5, description="How far the reply goes away from the negative prompt, or below 1 towards it; each token takes the work of two. 1 is off.",
                                  json_schema_extra=_group("Guidance"))
    negative_prompt: str = Field("", max_length=100_000, description="What the guidance goes away from, as raw text; empty: what the model would write without a prompt.",
                                 json_schema_extra=_group("Guidance", rows=3))
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=1024, description="Added to the logit of a token, by token id (-100 to 100).",
                                         json_schema_extra=_group("Tokens"))
    banned_tokens: tuple[int, ...] = Field((), max_length=1024, description="Token ids that are never chosen.",
                                           json_schema_extra=_group("Tokens"))
    ban_eos: bool = Field(False, description="Never ends on its own: the end-of-text tokens are banned.",
                          json_schema_extra=_group("Tokens"))
    show_special_tokens: bool = Field(False, description="Special tokens stand in the text instead of being hidden.",
                                      json_schema_extra=_group("Tokens"))
    sampler_order: tuple[SamplerName, ...] = Field(DEFAULT_ORDER, max_length=16, description="The order in which the samplers act; one left out is off.",
                                                   json_schema_extra=_group("Order", ordered=True))
    seed: int | None = Field(None, ge=0, le=2**64 - 1, description="Same seed, same text; empty draws a new one, which is always reported.",
                             json_schema_extra=_group("Sampling"))
    deterministic: bool = Field(False, description="Same tokens every time: this reply is computed alone and without reusing earlier work; slower.",
                                json_schema_extra=_group("Sampling"))
    drafts: bool = Field(True, description="Let a draft model, or what was written before, guess ahead; the text is the same without.",
                         json_schema_extra=_group("Sampling"))
    stop: tuple[str, ...] = Field((), max_length=64, description="Strings that end the text; they are not part of it.",
                                  json_schema_extra=_group("Length"))
    json_schema: str = Field("", max_length=LONGEST_SHAPE, description="The reply is JSON that fits this JSON schema; empty is off.",
                             json_schema_extra=_group("Shape of the text", rows=6))
    grammar: str = Field("", max_length=LONGEST_SHAPE, description="The reply fits this grammar, in llama.cpp's notation (GBNF): root ::= …; empty is off.",
                         json_schema_extra=_group("Shape of the text", rows=6))
    regex: str = Field("", max_length=LONGEST_REGEX, description="The whole reply fits this regular expression; empty is off.",
                       json_schema_extra=_group("Shape of the text"))
    choices: tuple[str, ...] = Field((), max_length=MOST_CHOICES, description="The reply is one of these texts; none is off.",
                                     json_schema_extra=_group("Shape of the text"))
    logprobs: int | None = Field(None, ge=0, le=20, description="Also report this many likeliest alternatives for each token.",
                                 json_schema_extra=_group("Report", hidden=True))
    prompt_logprobs: int | None = Field(None, ge=0, le=20, description="Also report each token of the prompt, with this many likeliest alternatives.",
                                        json_schema_extra=_group("Report", hidden=True))
    prompt_only: bool = Field(False, description="Writes nothing: the prompt is read, and reported if that is asked for.",
                              json_schema_extra=_group("Report", hidden=True))

    @field_validator("logit_bias")
    @classmethod
    def _bias_bounds(cls, value: dict[int, float]) -> dict[int, float]:
        for token_id, bias in value.items():
            if token_id < 0 or not -100 <= bias <= 100:
                raise ValueError(f"logit_bias needs token ids >= 0 and values from -100 to 100; got {token_id}: {bias}")
        return value

    @field_validator("stop", "dry_sequence_breakers")
    @classmethod
    def _short_strings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not 0 < len(text) <= 1000:
                raise ValueError(f"each string needs 1 to 1000 characters; got {len(text)}")
        return value

    @field_validator("json_schema", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> str:
        return canonical_schema(value)

    @field_validator("choices")
    @classmethod
    def _bounded_choices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_choices(value)

    @model_validator(mode="after")
    def _one_shape(self) -> GenerationParams:
        given = [name for name in SHAPE_FIELDS if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"a text has one shape: {' and '.join(given)} are given; leave all but one empty")
        return self

    @field_validator("sampler_order")
    @classmethod
    def _each_once(cls, value: tuple[SamplerName, ...]) -> tuple[SamplerName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("sampler_order names a sampler twice; name each at most once")
        return value

    def context_limit(self, loaded_tokens: int) -> int:
        """The context of this request on a model that was loaded with so much."""
        return min(loaded_tokens, self.context_tokens) if self.context_tokens else loaded_tokens

    def changed(self) -> dict[str, Any]:
        """The fields that differ from neutral, JSON-ready: what a preset file holds."""
        return self.model_dump(mode="json", exclude_defaults=True)
