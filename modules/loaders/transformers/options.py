"""Options of the transformers loader: names, limits and sentences; nothing of how they are applied."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modules.core.model import LoadOptions

MEMORY = "Memory and batches"
QUANTIZING = "4-bit weights"


class TransformersOptions(LoadOptions):
    """How transformers loads a model."""

    device: Literal["auto", "cpu", "cuda", "mps", "balanced", "sequential"] = Field(
        "auto",
        description="Where the model runs; auto takes the GPU if there is one, balanced and sequential spread it over several.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the weights; auto is float32 on a processor (halves are slower there) and as stored on a GPU.",
    )
    quantize: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="Quantize while loading with bitsandbytes: half or a third of the memory; on a processor also ten times slower.",
    )
    quant_type: Literal["nf4", "fp4"] = Field(
        "nf4",
        description="Kind of 4-bit numbers; nf4 is the more exact one.",
        json_schema_extra={"group": QUANTIZING},
    )
    double_quant: bool = Field(
        True,
        description="Quantize the scales of 4-bit weights too; saves another tenth.",
        json_schema_extra={"group": QUANTIZING},
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the arithmetic on 4-bit weights.",
        json_schema_extra={"group": QUANTIZING},
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="How attention is computed; auto lets the model choose the fastest it knows. flash_attention_2 needs its own package.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the parts between attention: a slow first minute, then faster steps. Needs a C++ compiler.",
    )
    cuda_graphs: bool = Field(
        False,
        description="On one CUDA card, record the steps that write a token and play them back, where that is faster: less waiting for Python, some more memory.",
    )
    weight_blocks: bool = Field(
        False,
        description="On a processor, keep the weights a second time in the order that several replies at once are computed fastest with; "
        "takes as much memory again.",
        json_schema_extra={"group": MEMORY},
    )
    batch_tokens: int = Field(
        512,
        ge=16,
        le=8192,
        description="Most tokens of one step; more reads long prompts faster and takes more memory.",
        json_schema_extra={"group": MEMORY},
    )
    image_tokens: int = Field(
        0,
        ge=0,
        le=16384,
        description="Most tokens of one image, where the model can take images of any size: larger ones are made smaller. 0 allows 4096.",
        json_schema_extra={"group": MEMORY},
    )
    threads: int = Field(
        0, ge=0, le=256, description="Processor threads; 0 chooses by the size of the model."
    )
    gpu_memory_gb: float = Field(
        0.0,
        ge=0,
        le=1024,
        description="Most memory of each GPU to use, in GB; the rest of the model goes to main memory. 0 has no limit.",
        json_schema_extra={"group": MEMORY},
    )
    cpu_memory_gb: float = Field(
        0.0,
        ge=0,
        le=4096,
        description="Most main memory for the weights, in GB; what is beyond lies in a file and makes every step slow. 0 has no limit.",
        json_schema_extra={"group": MEMORY},
    )

    def of_draft(self, context_length: int) -> TransformersOptions:
        """How a draft model is loaded beside a model: for the same slots and contexts."""
        return self.model_copy(update={"draft_model": "", "draft_lookup": "off", "context_length": context_length, "torch_compile": False, "cuda_graphs": False, "weight_blocks": False})
