"""What an adapter_config.json may say for a LoRA to be applied at all, by whichever loader, and how strongly each pair of weights acts.

Imports nothing heavy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from modules.core.errors import UnsupportedFormat

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
SIDE_A, SIDE_B = ".lora_A.weight", ".lora_B.weight"
PATTERN = re.compile(r"\^?[A-Za-z0-9_.]{1,200}\$?")  # no repetition: such an expression cannot run for long
PATTERN_LIMIT = 20_000
# Initialisations that change the base weights when the adapter is read back, so that the base would not return
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_adapter_config(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what is no plain LoRA, or would run code or change the base model.

    Raises:
        UnsupportedFormat: with the reason.
    """
    if config.get("peft_type") != "LORA":
        raise UnsupportedFormat(f"The adapter {name} is of type {str(config.get('peft_type'))[:40]}; Paddock applies LoRA adapters.")
    if config.get("megatron_config") or config.get("auto_mapping"):
        raise UnsupportedFormat(f"The adapter {name} asks to import code; do not trust it.")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(BASE_CHANGING):
        raise UnsupportedFormat(f"The adapter {name} was saved as {start[:40]}, which changes the base model; save it converted to plain LoRA.")


def pair_scale(name: str, config: Mapping[str, Any], module: str, rank: int, largest: int) -> float:
    """What PEFT multiplies the product of a pair of weights by. `rank` is that of the weights, `largest` the longer side of what they change.

    Raises:
        UnsupportedFormat: the settings do not say it, or say another rank.
    """
    told = _setting(name, config, "r", "rank_pattern", module)
    if rank != told or not 1 <= rank <= largest:
        raise UnsupportedFormat(f"The adapter {name} is damaged: {module} has rank {rank}, its settings say {told:g}; download it again.")
    alpha = _setting(name, config, "lora_alpha", "alpha_pattern", module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(name: str, config: Mapping[str, Any], key: str, pattern_key: str, module: str) -> float:
    """Rank or alpha of a module: the first pattern that its name ends with, otherwise the general one. As PEFT reads them."""
    patterns = config.get(pattern_key) or {}
    if not isinstance(patterns, dict) or len(patterns) > PATTERN_LIMIT or not all(PATTERN.fullmatch(pattern) for pattern in patterns):
        raise UnsupportedFormat(
            f"The adapter {name} has a {pattern_key} that Paddock cannot read; use it with its base model's safetensors folder and the transformers loader."
        )
    found = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    value = config.get(key) if found is None else patterns[found]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 <= value <= 1e9:
        raise UnsupportedFormat(f"The adapter {name} is damaged: {key} in its {CONFIG} is {str(value)[:40]}; download it again.")
    return float(value)


def learned_tokens(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids of the tokens whose rows of the word table an adapter brings."""
    named = config.get("trainable_token_indices")
    lists = named.values() if isinstance(named, dict) else [named]
    return tuple(token_id for ids in lists if isinstance(ids, list) for token_id in ids if isinstance(token_id, int))
