"""Models whose positions turn at one speed in short texts and at another in long ones (longrope): one of the two is settled when a model is loaded.

The library chooses anew in each pass, by its furthest position. What stands in a cache was turned as that pass chose, so in a prompt that is read in pieces, or
beside somebody's longer text, keys of both kinds would meet; its own `generate` throws the cache away instead. Source: Ding et al. 2024, LongRoPE.
"""

from __future__ import annotations

from typing import Any

KIND = "longrope"


def settle_rope(model: Any, context_length: int) -> str:
    """Let all positions turn as texts of the context need it; a sentence for who has few of them, empty where nothing was to be settled."""
    short_tokens = 0
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if kind == KIND:
                short_tokens = _settle(module, layer_type, context_length)
    if not 0 < short_tokens < context_length:
        return ""
    return f"Positions are those for texts of more than {short_tokens} tokens, as the context is longer; with context_length {short_tokens} they are those for shorter ones."


def _settle(module: Any, layer_type: str | None, context_length: int) -> int:
    """Give both sets of one module the same numbers; up to how many tokens a text is a short one."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    told = module.config.rope_parameters if layer_type is None else module.config.rope_parameters[layer_type]
    short_tokens = int(told["original_max_position_embeddings"])
    prefix = "" if layer_type is None else f"{layer_type}_"
    present = getattr(module, f"{prefix}inv_freq")
    wanted = short_tokens + 1 if context_length > short_tokens else None
    chosen, scale = ROPE_INIT_FUNCTIONS[KIND](module.config, present.device, seq_len=wanted, layer_type=layer_type)
    present.data.copy_(chosen)
    for name in ("original_inv_freq", "long_inv_freq"):
        setattr(module, prefix + name, present.detach().clone())
    if "long_mscale" in told:  # PhiMoE has a scale for each too, and computes the numbers anew in each pass, always those of short texts
        told["short_mscale"] = told["long_mscale"] = told["short_mscale" if wanted is None else "long_mscale"]
        module.rope_init_fn = lambda *_, **__: (chosen, scale)
    return short_tokens
