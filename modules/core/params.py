"""Generation parameters: every sampling field once, with its bounds, neutral value and one sentence.

A field here becomes a slider in the page, a field of the API, a key of a preset and a row of the documentation; nothing else lists them.
The default of every field is its neutral value: it changes nothing. This module knows no sampling algorithm (see engine/sampling.py).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

SamplerName = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature",
]  # fmt: skip
DEFAULT_ORDER: tuple[SamplerName, ...] = (
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip


def _group(name: str, **more: Any) -> dict[str, Any]:
    """Page hints of a field: the drawer it stands in, and `step` or `log` for its slider."""
    return {"group": name, **more}


class GenerationParams(BaseModel, frozen=True, extra="forbid"):
    """How the next tokens are chosen and when to stop. All defaults are neutral."""

    max_tokens: int = Field(0, ge=0, le=1_048_576, description="Most new tokens to write; 0 fills the context.",
                            json_schema_extra=_group("Length", slider_max=8192))
    temperature: float = Field(1.0, ge=0, le=5, description="Divides the logits; 0 always takes the likeliest token.",
                               json_schema_extra=_group("Sampling"))
    dynamic_temperature_range: float = Field(
        0.0, ge=0, le=5, description="Lets the temperature vary by plus or minus this much with the entropy; 0 is off.",
        json_schema_extra=_group("Dynamic temperature"))
    dynamic_temperature_exponent: float = Field(
        1.0, ge=0.01, le=10, description="Bends the curve from entropy to dynamic temperature.",
        json_schema_extra=_group("Dynamic temperature"))
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
    penalty_range: int = Field(0, ge=0, le=32_768, description="How many last tokens the penalties look at; 0 is all of them.",
                               json_schema_extra=_group("Penalties"))
    mirostat_mode: Literal[0, 2] = Field(0, description="2 steers the surprise of the text to a target and replaces the other cuts; 0 is off.",
                                         json_schema_extra=_group("Mirostat"))
    mirostat_tau: float = Field(5.0, ge=0.1, le=20, description="Target surprise of mirostat, in bits.",
                                json_schema_extra=_group("Mirostat"))
    mirostat_eta: float = Field(0.1, ge=0.001, le=1, description="How fast mirostat corrects itself.",
                                json_schema_extra=_group("Mirostat"))
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=1024, description="Added to the logit of a token, by token id (-100 to 100).",
                                         json_schema_extra=_group("Tokens"))
    banned_tokens: tuple[int, ...] = Field((), max_length=1024, description="Token ids that are never chosen.",
                                           json_schema_extra=_group("Tokens"))
    ban_eos: bool = Field(False, description="Never ends on its own: the end-of-text tokens are banned.",
                          json_schema_extra=_group("Tokens"))
    sampler_order: tuple[SamplerName, ...] = Field(DEFAULT_ORDER, max_length=16, description="The order in which the samplers act; one left out is off.",
                                                   json_schema_extra=_group("Order"))
    seed: int | None = Field(None, ge=0, le=2**64 - 1, description="Same seed, same text; empty draws a new one, which is always reported.",
                             json_schema_extra=_group("Sampling"))
    stop: tuple[str, ...] = Field((), max_length=64, description="Strings that end the text; they are not part of it.",
                                  json_schema_extra=_group("Length"))
    logprobs: int | None = Field(None, ge=0, le=20, description="Also report this many likeliest alternatives for each token.",
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

    @field_validator("sampler_order")
    @classmethod
    def _each_once(cls, value: tuple[SamplerName, ...]) -> tuple[SamplerName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("sampler_order names a sampler twice; name each at most once")
        return value

    def changed(self) -> dict[str, Any]:
        """The fields that differ from neutral, JSON-ready: what a preset file holds."""
        return self.model_dump(mode="json", exclude_defaults=True)
