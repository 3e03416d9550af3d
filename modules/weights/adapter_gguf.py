"""The work of the job kind "convert_adapter": a PEFT LoRA folder becomes a GGUF adapter that llama.cpp uses on any quantization of its base.

Names and row orders are those of `loaders/llama_cpp/peft_adapter`, which also applies such folders without a file. Knows nothing of queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from modules.core.errors import UnsupportedFormat
from modules.core.job import JobContext
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp.adapter_check import check_adapter
from modules.loaders.llama_cpp.adapter_file import AdapterAbout, write_adapter_file
from modules.loaders.llama_cpp.folder_shape import folder_shape
from modules.loaders.llama_cpp.peft_adapter import BaseShape, LoraPair, base_shape, read_pairs
from modules.loaders.model_info import gguf_parts, read_adapter
from modules.weights.publishing import check_room, numbered, publish_file, staging

HEADER_BYTES = 1 << 20  # more than names and lengths take
UNIT = "tensors"


class ConvertAdapterArgs(BaseModel, frozen=True, extra="forbid"):
    """Which adapter to convert, and for which model."""

    name: str = Field(min_length=1, max_length=400, description="The adapter, as the list names it.")
    folder: Path = Field(description="Its PEFT folder.")
    base: str = Field(max_length=400, description="The model it belongs to, as the list names it.")
    base_path: Path = Field(description="Its safetensors folder or GGUF file.")
    target: str = Field(min_length=1, max_length=95, description="Name of the result without .gguf; a taken one gets “-gguf”, then a number.")
    loras_dir: Path = Field(description="Folder with LoRA adapters.")


def run(args: ConvertAdapterArgs, context: JobContext) -> Mapping[str, Any]:
    """Convert; the result appears as a whole.

    Raises:
        Cancelled: the person asked to stop; nothing is left.
        AppError: with the cure; nothing is left.
    """
    base = read_base(args.base_path)
    alpha, pairs = _with_one_alpha(read_pairs(args.folder, base))
    check_room(args.loras_dir, sum(4 * pair.rank * (pair.inputs + pair.outputs) for pair in pairs) + HEADER_BYTES)
    facts = read_adapter(args.folder, args.loras_dir)

    def tell(number: int) -> None:
        context.progress(2 * number, 2 * len(pairs), UNIT)

    about = AdapterAbout(args.name.split("/")[-1], facts.base_model.rstrip("/").split("/")[-1] or args.base, facts.licence, alpha, tell)
    with staging(args.loras_dir, context.directory.name) as folder:
        made = folder / "adapter.gguf"
        write_adapter_file(made, args.folder, base.architecture, pairs, about)
        check_adapter(args.name, read_gguf_header(made), base)
        tell(len(pairs))
        size = made.stat().st_size
        published = publish_file(made, args.loras_dir, (f"{args.target}.gguf", *numbered(f"{args.target[:90]}-gguf", ".gguf")))
    context.log(f"{published.name}: {2 * len(pairs)} tensors for {base.architecture}, alpha {alpha:g}")
    return {"name": published.name, "path": str(published), "bytes": size, "architecture": base.architecture}


def read_base(path: Path) -> BaseShape:
    """What an adapter of a model must fit, from a safetensors folder or a GGUF file.

    Raises:
        UnsupportedFormat: it is gone, damaged, or of an architecture that cannot be converted for.
    """
    if path.is_dir():
        return folder_shape(path)
    if not path.is_file():
        raise UnsupportedFormat(f"The model {path.name} is no longer there; choose another one to convert for.")
    return base_shape(read_gguf_header(part) for part in gguf_parts(path))


def _with_one_alpha(pairs: tuple[LoraPair, ...]) -> tuple[float, tuple[LoraPair, ...]]:
    """Where one alpha says the scale of all pairs it goes beside the weights, as other programs write it; otherwise each scale goes into its weights."""
    alphas = {float(f"{pair.scale * pair.rank:.9g}") for pair in pairs}
    if len(alphas) != 1 or not (alpha := alphas.pop()):
        return 0.0, pairs
    return alpha, tuple(replace(pair, scale=1.0) for pair in pairs)
