"""The model that a run adapts: checked, held in the precision that the options ask for, frozen, on its device.

Knows what a folder must be to serve as a base model and which of its layers can be adapted. Knows nothing of adapters.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import (
    InvalidRequest,
    LoadFailed,
    MissingRequirement,
    NotFound,
    OutOfMemory,
    UnsupportedFormat,
    first_line,
)
from modules.loaders.folder_header import FolderHeader, read_folder_header, read_weight_header, weight_files
from modules.loaders.machine import available_bytes, check_memory, size_text
from modules.loaders.transformers.loader import read_config
from modules.training.forecast import NUMBER_BYTES, precision_of
from modules.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CURE = "choose precision 4bit or a smaller model, or close programs"
QUANTIZED = ("8bit", "4bit")
OUTPUTS = frozenset({"lm_head", "embed_out", "output_layer"})  # what makes scores of the last layer; adapted as a whole or not at all
TABLES = re.compile(r"embed|wte$|wpe$|norm|ln_|rotary|conv1d|router|gate$")  # two-dimensional weights that are no linear layers
OTHER_SENSES = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|multimodal|mm_|embed_vision|embed_audio)\w*\.")
DROPOUT = re.compile(r"dropout|_pdrop$|^drop_")


def load_base(path: Path, options: TrainingOptions) -> PreTrainedModel:
    """A model folder as a frozen model in training mode, on this process's device.

    Its own dropout is off: what is left out while learning is the options' business alone.

    Raises:
        NotFound: no such folder.
        UnsupportedFormat: a GGUF file, an adapter, files missing, broken, unsafe or of an unknown architecture.
        OutOfMemory: it does not fit.
        MissingRequirement: a package is absent.
        InvalidRequest: options that cannot go together.
    """
    header = base_header(path)
    _check_precision(header, options)
    config = read_config(header)
    _without_dropout(config)
    device = _device(options)
    dtype = compute_dtype(options)
    _check_room(header, options, device)
    _quiet()
    model = _read_model(header, config, options, device, dtype)
    _prepare(model, options)
    return model


def base_header(path: Path) -> FolderHeader:
    """The header of a folder that can serve as a base model.

    Raises:
        NotFound: no such folder.
        UnsupportedFormat: with what is wrong and the cure.
    """
    if path.suffix.lower() == ".gguf":
        raise UnsupportedFormat(f"{path.name} is a GGUF file, and training needs the safetensors folder of this model; download that one too.")
    if not path.is_dir():
        raise NotFound(f"The base model {path.name} is not there any more; choose another one.", field="base")
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise UnsupportedFormat(f"{path.name} is an adapter, not a model; choose its base model, and the adapter under “continue from”.")
        if any(path.glob("*.gguf")):
            raise UnsupportedFormat(f"{path.name} holds GGUF files, and training needs the safetensors folder of this model; download that one too.")
    return read_folder_header(path)


def layer_names(path: Path) -> tuple[str, ...]:
    """The ends of the names of the linear layers that can be adapted (q_proj …), from headers alone.

    Raises:
        NotFound: no such folder.
        UnsupportedFormat: not a base model.
    """
    header = base_header(path)
    return tuple(sorted({name.rpartition(".")[2] for name in _linear_names(header)}))


def _linear_names(header: FolderHeader) -> Iterator[str]:
    for file in weight_files(header.path):
        for name, (_, shape) in read_weight_header(file).items():
            module, _, kind = name.rpartition(".")
            end = module.rpartition(".")[2]
            packed = "quantization_config" in header.config  # packed weights have shapes of their own
            if kind != "weight" or not (len(shape) == 2 or packed) or OTHER_SENSES.search(name):
                continue
            if end not in OUTPUTS and not TABLES.search(end) and not end.isdigit() and ".experts." not in name:
                yield module


def compute_dtype(options: TrainingOptions) -> torch.dtype:
    """The type of number that the base model reckons in."""
    import torch

    name = held_as(options)
    if name in QUANTIZED:
        name = "bfloat16" if _has_bfloat16() else "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def held_as(options: TrainingOptions) -> str:
    """How the base model is held here: auto is resolved by this machine."""
    return precision_of(options, graphics=_has_bfloat16())


def _has_bfloat16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _check_precision(header: FolderHeader, options: TrainingOptions) -> None:
    stored = header.config.get("quantization_config")
    if options.sharding == "fsdp2" and (options.precision in QUANTIZED or stored):
        raise InvalidRequest(
            "A model held in 8 or 4 bits cannot be divided among devices; set sharding to none, or precision to bfloat16.", field="sharding"
        )
    if stored and options.precision not in ("auto", *QUANTIZED):
        raise InvalidRequest(
            f"{header.path.name} is stored as {header.quantization} and cannot be held as {options.precision}; set precision to auto, or choose the "
            "model's unquantized version.",
            field="precision",
        )


def _without_dropout(config: Any) -> None:
    """Set every dropout of a config, and of the configs in it, to zero."""
    for name, value in vars(config).items():
        if isinstance(value, float) and DROPOUT.search(name):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            _without_dropout(value)


def _device(options: TrainingOptions) -> str:
    import torch

    if options.sharding == "fsdp2":
        return "cpu"  # divided first, then each part goes to its device
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() and options.precision not in QUANTIZED else "cpu"


def _check_room(header: FolderHeader, options: TrainingOptions, device: str) -> None:
    """Refuse what would not fit before it is read."""
    import torch

    precision = held_as(options)
    needed = header.size_bytes if "quantization_config" in header.config else int(header.parameters * dict(NUMBER_BYTES)[precision])
    if not device.startswith("cuda"):
        check_memory(needed, f"{header.path.name} in {precision}", CURE)
        return
    free = torch.cuda.mem_get_info(torch.device(device))[0]
    if needed > free:
        raise OutOfMemory(
            f"{header.path.name} in {precision} needs about {size_text(needed)} of the graphics card's memory and {size_text(free)} is free; {CURE}.",
            needed_bytes=needed,
            available_bytes=free,
        )


def _quiet() -> None:
    from transformers.utils import logging as library_log

    library_log.set_verbosity_error()
    library_log.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # one line per product otherwise


def _quantization(header: FolderHeader, options: TrainingOptions, dtype: torch.dtype) -> Any:
    if options.precision not in QUANTIZED or "quantization_config" in header.config:
        return None
    try:
        import bitsandbytes  # noqa: F401 - only its presence counts here
        from transformers import BitsAndBytesConfig
    except (ImportError, RuntimeError) as error:
        raise MissingRequirement(
            f"Precision {options.precision} needs the package bitsandbytes, which cannot be used here ({first_line(error)}); set precision to auto."
        ) from None
    if options.precision == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def _read_model(header: FolderHeader, config: Any, options: TrainingOptions, device: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    name = header.path.name
    quantization = _quantization(header, options, dtype)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            header.path,
            config=config,
            dtype=dtype,
            device_map={"": device},
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **({"quantization_config": quantization} if quantization else {}),
        )
    except MemoryError:
        raise OutOfMemory(f"{name} does not fit into memory; {CURE}.") from None
    except Exception as error:
        raise _refusal(name, error) from error
    missing = sorted(report.get("missing_keys", ())) + sorted(str(row[0]) for row in report.get("mismatched_keys", ()))
    if missing:
        raise UnsupportedFormat(f"The weights of {name} lack {len(missing)} tensors that its config.json calls for ({missing[0]}); download it again.")
    return model


def _refusal(name: str, error: Exception) -> LoadFailed:
    """The right error for what transformers or PyTorch said."""
    text, lower = first_line(error), str(error).lower()
    if "out of memory" in lower or "can't allocate memory" in lower:
        return OutOfMemory(f"{name} does not fit into memory ({text}); {CURE}. {size_text(available_bytes())} of main memory is free.")
    if isinstance(error, ImportError):
        return MissingRequirement(f"{name} needs a package that is not installed ({text}); choose another base model.")
    if "unrecognized configuration class" in lower:
        return UnsupportedFormat(f"{name} is not a model that continues text; choose another base model.")
    return UnsupportedFormat(f"transformers could not load {name}: {text}. Choose another precision, or download it again.")


def _prepare(model: Any, options: TrainingOptions) -> None:
    """Freeze; nothing is kept for generating; with checkpointing the way back has something to reach.

    Weights that are not quantized keep their type: the adapter alone is float32, and reckoning a word table in float32 would take more than it gives.
    """
    model.requires_grad_(False)
    model.config.use_cache = False
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # a look at held-out data would round the weights for all steps that follow
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
