"""Options of the llama.cpp loader. Every number is bounded here: the native library aborts on some values beyond.

Knows names, limits and sentences; nothing of how they are applied.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from modules.core.model import LoadOptions, on_or_off

SPLIT_PATTERN = re.compile(r"\d{1,4}(\.\d{1,3})?(\s*,\s*\d{1,4}(\.\d{1,3})?){0,15}")
TENSOR_PATTERN = re.compile(
    r"[A-Za-z0-9_.*+?|()\[\]\\-]{1,200}"
)  # nothing a pattern of names needs beyond these
EXPERT_TENSORS = (
    r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # how every mixture-of-experts file of llama.cpp names them
)

LEAST_IMAGE_TOKENS = 128

MEMORY = "Memory and batches"
GPUS = "Several devices"
ROPE = "RoPE"
VISION = "Images"


class LlamaCppOptions(LoadOptions):
    """How llama.cpp loads a model."""

    gpu_layers: int = Field(
        -1,
        ge=-1,
        le=1000,
        description="Layers to put on the GPU; -1 puts as many there as fit, 0 uses the processor only.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Processor threads for writing; 0 takes what is fastest for this model, measured when it is first loaded so and remembered.",
    )
    threads_batch: int = Field(
        0, ge=0, le=256, description="Processor threads for reading the prompt; 0 takes what is fastest, likewise."
    )
    batch_tokens: int = Field(
        512,
        ge=32,
        le=8192,
        description="Most tokens of one step; more reads long prompts faster and takes more memory.",
        json_schema_extra={"group": MEMORY},
    )
    ubatch_tokens: int = Field(
        0,
        ge=0,
        le=8192,
        description="Tokens that are computed at once within a step; fewer take less memory, more keep a GPU busy. 0 is the whole step.",
        json_schema_extra={"group": MEMORY},
    )
    cache_tokens: int = Field(
        0,
        ge=0,
        le=4_194_304,
        description="Tokens that all slots share in the key-value cache; 0 has room for the full context of four slots, on a processor of all where that takes little.",
        json_schema_extra={"group": MEMORY},
    )
    kv_type: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16",
        description="Precision of the key-value cache; q8_0 takes half the memory of f16, q4_0 a quarter at some loss.",
    )
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="Faster attention that takes less memory; quantized caches need it."
    )
    offload_kqv: bool = Field(
        True,
        description="Keep the key-value cache on the GPU; off saves GPU memory.",
        json_schema_extra={"group": GPUS},
    )
    mmap: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Map the file instead of reading it in: parts that are not used can leave memory, and several servers share one copy. auto reads it in where memory is plenty and the system has large pages: a token takes up to a sixth less time.",
        json_schema_extra={"group": MEMORY},
    )
    mlock: bool = Field(
        False,
        description="Hold the model in memory so that it is never swapped out.",
        json_schema_extra={"group": MEMORY},
    )
    widen_weights: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Hold weights of types Q5_0 and IQ4_NL in 8 bits: the same numbers, faster where the processor has AMX, in 1.7 to 2.1 times the memory and not mapped. auto does so there, where memory is plenty.",
        json_schema_extra={"group": MEMORY},
    )
    rope_freq_base: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="RoPE base frequency; 0 takes the model's own.",
        json_schema_extra={"group": ROPE},
    )
    rope_freq_scale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="RoPE scale: 0.5 doubles the context a model can hold; 0 takes the model's own.",
        json_schema_extra={"group": ROPE},
    )
    tensor_split: str = Field(
        "",
        description="Shares of several GPUs, for example 3,1; empty splits by free memory.",
        json_schema_extra={"group": GPUS},
    )
    main_gpu: int = Field(
        0, ge=0, le=15, description="The GPU for what is not split.", json_schema_extra={"group": GPUS}
    )
    split_mode: Literal["layer", "row", "tensor", "none"] = Field(
        "layer",
        description="How several GPUs share a model: whole layers, rows of each matrix, every tensor (needs flash attention), or only the main GPU.",
        json_schema_extra={"group": GPUS},
    )
    cpu_experts: bool = Field(
        False,
        description="Keep the experts of a mixture-of-experts model in main memory: the rest then fits on a smaller GPU.",
        json_schema_extra={"group": GPUS},
    )
    cpu_tensors: str = Field(
        "",
        description="Pattern of names of more tensors to keep in main memory, for example blk\\.(1|2)\\.ffn; empty keeps none.",
        json_schema_extra={"group": GPUS},
    )
    numa: Literal["off", "distribute", "isolate", "numactl"] = Field(
        "off",
        description="For machines with several memory nodes: spread over all, stay on one, or as numactl set it.",
        json_schema_extra={"group": MEMORY},
    )
    mmproj: str = Field(
        "auto",
        max_length=400,
        description="The projector that lets a model see images: the name of its file beside the model; auto takes the one that lies there, none does without.",
        json_schema_extra={"group": VISION},
    )
    image_tokens: int = Field(
        0,
        ge=0,
        le=16384,
        description="Most tokens of an image, from 128 on; fewer are read faster and show less detail. 0 takes the model's own limit.",
        json_schema_extra={"group": VISION},
    )

    @field_validator("mmap", "flash_attention", "widen_weights", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return on_or_off(value)  # mmap was a truth value

    @field_validator("mmproj")
    @classmethod
    def _file_name(cls, value: str) -> str:
        value = value.strip() or "auto"
        if value not in ("auto", "none") and (re.search(r'[/\\:\0]', value) or not value.lower().endswith(".gguf")):
            raise ValueError("mmproj is auto, none, or the name of a GGUF file beside the model, without folders")
        return value

    @field_validator("image_tokens")
    @classmethod
    def _enough_to_see(cls, value: int) -> int:
        if 0 < value < LEAST_IMAGE_TOKENS:
            raise ValueError(f"image_tokens is 0 or at least {LEAST_IMAGE_TOKENS}: with fewer, models see nothing")
        return value

    @field_validator("tensor_split")
    @classmethod
    def _numbers(cls, value: str) -> str:
        if value and not SPLIT_PATTERN.fullmatch(value.strip()):
            raise ValueError("tensor_split must be numbers with commas between, for example 3,1")
        return value.strip()

    @field_validator("cpu_tensors")
    @classmethod
    def _pattern(cls, value: str) -> str:
        value = value.strip()
        if not value:
            return ""
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"cpu_tensors is not a pattern: {error}") from error
        if not TENSOR_PATTERN.fullmatch(value):
            raise ValueError(
                "cpu_tensors is a pattern of at most 200 letters, digits and . * + ? | ( ) [ ] \\ - _"
            )
        return value

    @model_validator(mode="after")
    def _split_tensors(self) -> LlamaCppOptions:
        if self.split_mode == "tensor" and self.flash_attention == "off":
            raise ValueError("split_mode tensor needs flash attention; set flash_attention to auto")
        return self

    @model_validator(mode="after")
    def _quantized_cache(self) -> LlamaCppOptions:
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise ValueError(
                f"kv_type {self.kv_type} needs flash attention; set flash_attention to auto or kv_type to f16"
            )
        return self

    @property
    def split(self) -> tuple[float, ...]:
        """The shares of `tensor_split`."""
        return tuple(float(part) for part in self.tensor_split.split(",")) if self.tensor_split else ()

    def of_draft(self, slots: int, context_length: int, cache_tokens: int) -> LlamaCppOptions:
        """How a draft model is loaded beside a model: with the same slots and the same room, and what is said of the model's own insides left out."""
        own = {
            "draft_model": "",
            "mmproj": "none",
            "draft_lookup": "off",
            "rope_freq_base": 0.0,
            "rope_freq_scale": 0.0,
            "cpu_experts": False,
            "cpu_tensors": "",
        }
        return self.model_copy(update=own | {"slots": slots, "context_length": context_length, "cache_tokens": cache_tokens})

    @property
    def computed_tokens(self) -> int:
        """Tokens that are computed at once."""
        return min(self.ubatch_tokens or self.batch_tokens, self.batch_tokens)

    @property
    def kept_patterns(self) -> tuple[str, ...]:
        """Patterns of the tensors that stay in main memory."""
        return tuple(filter(None, (EXPERT_TENSORS if self.cpu_experts else "", self.cpu_tensors)))
