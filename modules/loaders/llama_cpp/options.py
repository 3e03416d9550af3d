"""Options of the llama.cpp loader. Every number is bounded here: the native library aborts on some values beyond.

Knows names, limits and sentences; nothing of how they are applied.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from modules.core.model import LoadOptions

SPLIT_PATTERN = re.compile(r"\d{1,4}(\.\d{1,3})?(\s*,\s*\d{1,4}(\.\d{1,3})?){0,15}")


class LlamaCppOptions(LoadOptions):
    """How llama.cpp loads a model."""

    gpu_layers: int = Field(-1, ge=-1, le=1000, description="Layers to put on the GPU; -1 puts all there if there is one, 0 uses the processor only.")
    threads: int = Field(0, ge=0, le=256, description="Processor threads for writing; 0 measures what is fastest for this model.")
    threads_batch: int = Field(0, ge=0, le=256, description="Processor threads for reading the prompt; 0 measures what is fastest.")
    batch_tokens: int = Field(512, ge=32, le=8192, description="Most tokens of one step; more reads long prompts faster and takes more memory.")
    cache_tokens: int = Field(
        0, ge=0, le=4_194_304, description="Tokens that all slots share in the key-value cache; 0 gives every slot its full context if memory allows."
    )
    kv_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Precision of the key-value cache; q8_0 takes half the memory of f16, q4_0 a quarter at some loss."
    )
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="Faster attention that takes less memory; quantized caches need it.")
    offload_kqv: bool = Field(True, description="Keep the key-value cache on the GPU; off saves GPU memory.")
    mmap: bool = Field(True, description="Map the file instead of reading it in: loads faster, and unused parts take no memory.")
    mlock: bool = Field(False, description="Hold the model in memory so that it is never swapped out.")
    rope_freq_base: float = Field(0.0, ge=0, le=1e9, description="RoPE base frequency; 0 takes the model's own.")
    rope_freq_scale: float = Field(0.0, ge=0, le=1, description="RoPE scale: 0.5 doubles the context a model can hold; 0 takes the model's own.")
    tensor_split: str = Field("", description="Shares of several GPUs, for example 3,1; empty splits by free memory.")
    main_gpu: int = Field(0, ge=0, le=15, description="The GPU for what is not split.")

    @field_validator("tensor_split")
    @classmethod
    def _numbers(cls, value: str) -> str:
        if value and not SPLIT_PATTERN.fullmatch(value.strip()):
            raise ValueError("tensor_split must be numbers with commas between, for example 3,1")
        return value.strip()

    @model_validator(mode="after")
    def _quantized_cache(self) -> LlamaCppOptions:
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise ValueError(f"kv_type {self.kv_type} needs flash attention; set flash_attention to auto or kv_type to f16")
        return self

    @property
    def split(self) -> tuple[float, ...]:
        """The shares of `tensor_split`."""
        return tuple(float(part) for part in self.tensor_split.split(",")) if self.tensor_split else ()
