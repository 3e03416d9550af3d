"""What an adapter_config.json may say for a LoRA to be applied at all, by whichever loader. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core.errors import UnsupportedFormat

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
