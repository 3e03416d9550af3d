"""Loading a safetensors folder with transformers: check, plan memory, load without running foreign code, verify the batch.

Runs in the engine's child process. Every failure becomes a sentence.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from functools import reduce
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from modules.core.errors import (
    LoadFailed,
    MissingRequirement,
    NotFound,
    OutOfMemory,
    UnsupportedFormat,
    first_line,
)
from modules.core.model import Adapter, LoadedModel, Runner
from modules.core.trusted_code import TrustedCode
from modules.loaders.draft import with_draft
from modules.loaders.fit import Needs, together
from modules.loaders.folder_header import FolderHeader, read_folder_header, read_folder_template, safe_config
from modules.loaders.machine import check_memory, resident_bytes, spill_bytes, usable_cores
from modules.loaders.model_info import read_info
from modules.loaders.shape import folder_shape
from modules.loaders.spec import Progress
from modules.loaders.transformers.adapters import AdapterSet
from modules.loaders.transformers.agreement import choose_runner, record_steps, tolerance
from modules.loaders.transformers.compiled import compile_parts
from modules.loaders.transformers.embedding_model import (
    check_embedding_model,
    embedding_model,
    writers_embedder,
)
from modules.loaders.transformers.eyes import open_eyes, reads_images, with_eyes
from modules.loaders.transformers.memory import (
    DEFAULT_CONTEXT_TOKENS,
    SMALL_PARAMETERS,
    estimate,
    with_slots,
)
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.norms import fuse_norms
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.own_code import OwnCode, code_files, named_classes
from modules.loaders.transformers.packed import use_onednn
from modules.loaders.transformers.rope import settle_rope
from modules.loaders.transformers.runner import SlotRunner
from modules.loaders.transformers.sight import Sight
from modules.loaders.transformers.tokenizer import TransformersTokenizer, read_tokenizer

if TYPE_CHECKING:
    import torch

VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,30}")
GPU_SHARE = 0.9  # of a GPU's free memory for weights when only main memory is capped


def load(path: Path, options: TransformersOptions, progress: Progress, trusted: TrustedCode | None = None) -> LoadedModel:
    """Load a model folder; with `trusted`, by code that lies in it.

    Raises:
        UnsupportedFormat: files missing, broken, unsafe or of an unknown architecture.
        OutOfMemory: it does not fit.
        MissingRequirement: a GPU or a package that the options ask for is absent.
    """
    progress("Reading the file header", None)
    before = resident_bytes()
    header = read_folder_header(path)
    progress("Starting PyTorch", None)
    own = OwnCode(header, trusted) if trusted is not None else None
    config = read_config(header, own)
    device, dtype = _placement(options, header)
    info = read_info(path, path.parent)
    if not info.can_write:
        check_embedding_model(header, dtype.itemsize)
        _quiet(options, header)
        progress("Reading weights", None)
        encoder = _read_model(path, config, options, device, dtype, _kind(config, encoder=True))
        loaded = embedding_model(path, encoder, config, header, info, options)
        loaded.memory_bytes = max(0, resident_bytes() - before)
        return loaded
    options, context_length, notes = _settled(header, config, options, dtype, device)
    _quiet(options, header)
    progress("Reading weights", None)
    model = _read_model(path, config, options, device, dtype, _kind(config, own))
    progress("Reading the tokenizer", None)
    tokenizer = _read_tokenizer(header, config, context_length, own)
    network = Network(model, context_length)
    notes += [settle_rope(model, context_length), *_quickened(network, options, progress)]
    progress("Checking the batch", None)
    sight, blindness = open_eyes(path, config, network, tokenizer.library, options) if own is None else (None, "")
    runner, remarks = _runner(network, options, sight)
    adapters = AdapterSet(model)

    def set_adapters(chosen: Sequence[Adapter]) -> None:
        adapters.apply(chosen)
        if isinstance(runner, SlotRunner) and runner.recorded is not None:
            runner.recorded.forget()
        if sight is not None:
            sight.forget()

    loaded = LoadedModel(
        runner=runner,
        tokenizer=tokenizer,
        info=info,
        template=read_folder_template(path),
        set_adapters=set_adapters,
        embedder=writers_embedder(path, network, tokenizer),
        spill_bytes=runner.mark_within(spill_bytes(options.spill_memory_gb)),
        memory_bytes=max(0, resident_bytes() - before),
    )
    if sight is not None:
        blindness = with_eyes(loaded, network, sight, tolerance(network))
    loaded.notes = tuple(filter(None, (*notes, *remarks, blindness, own.note if own else "")))
    loaded = with_draft(loaded, options, lambda draft, told: load(draft, options.of_draft(context_length), told), progress)
    _quiet(options, header)  # the draft model chose the number of threads by its own size
    return loaded


def _quickened(network: Network, options: TransformersOptions, progress: Progress) -> list[str]:
    """Let a model compute the same in less time; what was not possible."""
    fuse_norms(network.model)
    if not options.torch_compile:  # PyTorch's compiler chooses the products itself
        use_onednn(network.model, blocks=options.weight_blocks)
        return []
    progress("Compiling", None)
    return [note for note in [compile_parts(network)] if note]


def _runner(network: Network, options: TransformersOptions, sight: Sight | None) -> tuple[Runner, list[str]]:
    """The fastest runner that is right for the model, and what could not be as asked."""
    runner, remarks = choose_runner(network, options.slots, options.batch_tokens, sight), []
    if runner.n_slots < options.slots:
        kind = network.model.config.model_type
        remarks.append(f"This architecture ({kind}) writes one reply at a time, so there is 1 slot instead of {options.slots}.")
    if options.cuda_graphs:
        remarks.append(record_steps(runner, network))
    return runner, [remark for remark in remarks if remark]


def read_config(header: FolderHeader, own: OwnCode | None = None) -> Any:
    """The config object, built from cleaned values: foreign code, other files and kernels cannot be named in it."""
    from transformers import CONFIG_MAPPING

    kind = header.config.get("model_type")
    config_class = own.find("AutoConfig") if own is not None else None
    try:
        config_class = config_class or CONFIG_MAPPING[kind]
    except KeyError:
        raise UnsupportedFormat(
            f"transformers {metadata.version('transformers')} does not know the architecture “{kind}” of {header.path.name}"
            f"{_made_with(header)} (code inside model folders is not run); choose a GGUF version of it, another model, or update Paddock.",
            own_code=list(code_files(header)),
        ) from None
    try:
        return config_class.from_dict(safe_config(header.config))
    except Exception as error:  # each architecture checks its config in its own way
        raise UnsupportedFormat(f"{header.path.name}/config.json does not describe a {kind} model ({first_line(error)}); download it again.") from error


def _made_with(header: FolderHeader) -> str:
    """Which version would know an architecture, as far as the folder tells."""
    version = header.config.get("transformers_version")
    return f", which was saved by version {version}" if isinstance(version, str) and VERSION.fullmatch(version) else ""


def _placement(options: TransformersOptions, header: FolderHeader) -> tuple[str, torch.dtype]:
    """Device kind and precision from the options and what this machine has."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = options.device if options.device != "auto" else "cuda" if cuda else "mps" if mps else "cpu"
    if device in ("cuda", "balanced", "sequential") and not cuda:
        raise MissingRequirement(f"device {device} needs an NVIDIA or AMD GPU that PyTorch can use, and there is none; set device to auto or cpu.")
    if device == "mps" and not mps:
        raise MissingRequirement("device mps needs an Apple GPU, and there is none; set device to auto or cpu.")
    name = options.dtype
    if name == "auto":
        name = "float32" if device == "cpu" else "bfloat16" if header.dtype in ("BF16", "") else "float16"
    dtype: torch.dtype = getattr(torch, name)
    return device, dtype


def _settled(
    header: FolderHeader, config: Any, options: TransformersOptions, dtype: torch.dtype, device: str
) -> tuple[TransformersOptions, int, list[str]]:
    """The options with the number of slots, the context length, and notes; refuses a model whose weights, or an asked-for context, do not fit into main memory."""
    text = config.get_text_config()
    trained = int(getattr(text, "max_position_embeddings", 0) or header.number("n_positions", "seq_length") or DEFAULT_CONTEXT_TOKENS)
    notes = []
    context = options.context_length or min(trained, DEFAULT_CONTEXT_TOKENS)
    if context > trained:
        notes.append(f"Context cut from {context} to {trained} tokens: all this model was trained for.")
        context = trained
    if device != "cpu":
        return options.model_copy(update={"slots": options.counted_slots}), context, notes
    shapes = [folder_shape(header), *([folder_shape(_draft_header(options))] if options.draft_model else [])]

    def needs_of(given: TransformersOptions) -> Needs:
        return reduce(together, (estimate(shape, given, str(dtype).removeprefix("torch.")) for shape in shapes))

    options, chosen = with_slots(options, needs_of, context)
    needs, slots_text = needs_of(options), "1 slot" if options.slots == 1 else f"{options.slots} slots"
    check_memory(needs.total(0), header.path.name, "choose a smaller model, quantize 8bit or 4bit, or close programs")
    while context > 256 and not _fits(needs.total(context * options.slots)):
        if options.context_length:
            check_memory(
                needs.total(context * options.slots),
                f"{header.path.name} with {slots_text} of {context} tokens",
                f"set context_length to {context // 2}" + (" or fewer slots" if options.slots > 1 else ""),
            )
        context //= 2
        notes = [f"Context cut to {context} tokens: what {slots_text} can hold in the free memory."]
    return options, context, [*notes, chosen]


def _draft_header(options: TransformersOptions) -> FolderHeader:
    path = Path(options.draft_model)
    if not path.is_dir():
        raise NotFound(f"The draft model {path.name} is no model folder that is there; choose another one, or leave draft_model empty.", field="draft_model")
    return read_folder_header(path)


def _fits(needed: int) -> bool:
    try:
        check_memory(needed, "", "")
    except OutOfMemory:
        return False
    return True


def _quiet(options: TransformersOptions, header: FolderHeader) -> None:
    import torch
    from transformers.utils import logging as library_log

    library_log.set_verbosity_error()
    library_log.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # one line per product otherwise
    torch.set_num_threads(options.threads or (1 if header.parameters < SMALL_PARAMETERS else usable_cores()))


def _quantization(options: TransformersOptions, dtype: torch.dtype) -> Any:
    if options.quantize == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401 - only its presence counts here
        from transformers import BitsAndBytesConfig
    except (ImportError, RuntimeError) as error:
        raise MissingRequirement(f"Quantizing on load needs bitsandbytes, which cannot be used here ({first_line(error)}); set quantize to none.") from None
    import torch

    if options.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if options.compute_dtype == "auto" else getattr(torch, options.compute_dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=options.quant_type,
        bnb_4bit_use_double_quant=options.double_quant,
        bnb_4bit_compute_dtype=compute,
    )


def _read_tokenizer(header: FolderHeader, config: Any, context_length: int, own: OwnCode | None) -> TransformersTokenizer:
    try:
        return read_tokenizer(header.path, config, context_length, own.find("AutoTokenizer") if own is not None else None)
    except UnsupportedFormat as error:
        if own is None and "AutoTokenizer" in named_classes(header):
            raise UnsupportedFormat(error.message, own_code=list(code_files(header))) from error
        raise


def _kind(config: Any, own: OwnCode | None = None, *, encoder: bool = False) -> Any:
    """The class that reads the weights."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    if own is not None and (kind := own.find("AutoModelForCausalLM")) is not None:
        return kind
    return AutoModel if encoder else AutoModelForImageTextToText if own is None and reads_images(config) else AutoModelForCausalLM


def _read_model(path: Path, config: Any, options: TransformersOptions, device: str, dtype: torch.dtype, kind: Any) -> Any:
    from safetensors import SafetensorError

    arguments: dict[str, Any] = {
        "config": config,
        "dtype": dtype,
        "device_map": {"cuda": "auto"}.get(device, device) if device in ("cuda", "balanced", "sequential") else {"": device},
        "attn_implementation": None if options.attention == "auto" else options.attention,
        "quantization_config": _quantization(options, dtype),
    }
    arguments |= _memory_limits(options, device)
    try:
        model, report = kind.from_pretrained(
            path,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{name: value for name, value in arguments.items() if value is not None},
        )
    except MemoryError:
        raise OutOfMemory(f"{path.name} does not fit into memory; choose a smaller model or quantize 4bit.") from None
    except SafetensorError as error:
        raise UnsupportedFormat(f"The weights of {path.name} are damaged ({first_line(error)}); download them again.") from error
    except Exception as error:
        raise _refusal(path.name, error) from error
    missing = sorted(key for key in report.get("missing_keys", ()) if not (kind.__name__ == "AutoModel" and key.startswith("pooler."))) + sorted(str(row[0]) for row in report.get("mismatched_keys", ()))
    if missing:
        raise UnsupportedFormat(f"The weights of {path.name} lack {len(missing)} tensors that its config.json calls for ({missing[0]}); download it again.")
    return model.eval().requires_grad_(False)


def _memory_limits(options: TransformersOptions, device: str) -> dict[str, Any]:
    """Caps for each device as accelerate takes them; what is beyond main memory's lies in a file of this process."""
    spread = device in ("cuda", "balanced", "sequential")
    if not options.cpu_memory_gb and not (options.gpu_memory_gb and spread):
        return {}
    import torch

    limits: dict[int | str, int] = {}
    if spread:
        free = {place: torch.cuda.mem_get_info(place)[0] for place in range(torch.cuda.device_count())}
        limits |= {place: int(options.gpu_memory_gb * 1e9) or int(free[place] * GPU_SHARE) for place in free}
    limits["cpu"] = int(options.cpu_memory_gb * 1e9) or 1 << 50
    arguments: dict[str, Any] = {"max_memory": limits}
    if options.cpu_memory_gb:
        arguments |= {"offload_folder": spill_folder(), "device_map": device if spread and device != "cuda" else "auto"}
    return arguments


def spill_folder() -> Path:
    """An empty folder for weights beyond main memory; those of processes that are gone are deleted, since a killed one cannot."""
    base = Path(tempfile.gettempdir()) / f"paddock-weights-{getpass.getuser()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for left in base.iterdir():
        if left.name.isdigit() and not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    folder = base / str(os.getpid())
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _refusal(name: str, error: Exception) -> LoadFailed:
    """The right error for what transformers or PyTorch said."""
    text = first_line(error)
    lower = str(error).lower()
    if "out of memory" in lower or "can't allocate memory" in lower:
        return OutOfMemory(f"{name} does not fit into memory ({text}); choose a smaller model or quantize 4bit.")
    if isinstance(error, ImportError):
        return MissingRequirement(f"{name} needs a package that is not installed ({text}); choose other options or another model.")
    if "unrecognized configuration class" in lower:
        return UnsupportedFormat(f"{name} is not a model that continues text; choose another one.")
    return UnsupportedFormat(f"transformers could not load {name}: {text}. Try other options, or download it again.")
