"""What a safetensors folder says about itself: config.json, weight headers, chat template; and whether it is safe to load.

Reads JSON and headers only, each with a limit; imports no machine-learning library and loads nothing. The checks keep `from_pretrained`
from reading files outside the folder, from unpickling, and from building absurdly large models.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import UnsupportedFormat
from modules.core.model import TemplateSource
from modules.loaders.machine import size_text
from modules.loaders.pickled import no_weights

JSON_LIMIT_BYTES = 64 << 20
HEADER_LIMIT_BYTES = 128 << 20
SIZE_LIMIT_BYTES = 1 << 50
SHARD_LIMIT = 2000
TENSOR_LIMIT = 200_000
TOWERS = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|multimodal|mm_|embed_vision|embed_audio|connector)\w*\.")  # what only images and sounds need
LAYER = re.compile(r"\.layers\.(\d{1,4})\.")
HEAD_SIZE = 64
PACKED = 16  # most parameters that stand for one number in a file
SMALL_MODEL = 50_000_000  # parameters that may be made up
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
})  # fmt: skip

# Keys that make transformers fetch or run something, or read another file; a config is loaded without them
UNSAFE_KEYS = frozenset({
    "auto_map", "custom_pipelines", "trust_remote_code", "transformers_weights", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal", "_attn_implementation_autoset", "experts_implementation", "_experts_implementation",
    "_experts_implementation_internal",
})  # fmt: skip
# Building a model of absurd size hangs before any weight is read
INTEGER_LIMITS: Mapping[str, int] = MappingProxyType({
    "num_hidden_layers": 1024, "n_layer": 1024, "n_layers": 1024, "num_layers": 1024, "hidden_size": 65_536, "n_embd": 65_536,
    "d_model": 65_536, "intermediate_size": 1 << 20, "ffn_dim": 1 << 20, "vocab_size": 2_000_000, "num_attention_heads": 4096,
    "n_head": 4096, "num_heads": 4096, "num_key_value_heads": 4096, "head_dim": 8192, "max_position_embeddings": 1 << 27,
    "n_positions": 1 << 27, "num_experts": 4096, "num_local_experts": 4096, "n_routed_experts": 4096,
})  # fmt: skip


@dataclass(frozen=True)
class FolderHeader:
    """The facts of a folder with config.json and safetensors weights."""

    path: Path
    config: Mapping[str, Any]
    size_bytes: int  # of the weights
    parameters: int
    dtype: str  # the type most parameters have: F16, BF16, F32 …
    tower_parameters: int = 0  # of those, what only looks at images or listens
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of the text part by its weights: image-text models leave out what their library assumes

    def field(self, *names: str, default: Any = None) -> Any:
        """The first of the names that config.json has, also inside its text part; else what the weights tell."""
        inner = self.config.get("text_config")
        for source in (self.config, inner if isinstance(inner, dict) else {}, self.sizes):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return default

    def number(self, *names: str) -> int:
        """Like `field` for integers; 0 if absent."""
        value = self.field(*names, default=0)
        return value if isinstance(value, int) else 0

    @property
    def quantization(self) -> str:
        """How the weights are stored, in a word or two."""
        stored = self.config.get("quantization_config")
        if not isinstance(stored, dict):
            return self.dtype
        if stored.get("load_in_8bit"):
            return "bitsandbytes 8-bit"
        if stored.get("load_in_4bit"):
            return f"bitsandbytes 4-bit {stored.get('bnb_4bit_quant_type', '')}".strip()
        bits = stored.get("bits")
        return str(stored.get("quant_method", "quantized")) + (f" {bits}-bit" if bits else "")


def read_json(path: Path, limit: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        UnsupportedFormat: too large, not JSON, not an object.
    """
    shown = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > limit:
            raise UnsupportedFormat(f"{shown} is larger than {size_text(limit)}; download it again.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UnsupportedFormat(f"{shown} is not valid JSON; download it again.") from None
    except OSError as error:
        raise UnsupportedFormat(f"{shown} cannot be read: {error.strerror or error}; check the file and its permissions.") from None
    if not isinstance(value, dict):
        raise UnsupportedFormat(f"{shown} holds no JSON object; download it again.")
    return value


def read_weight_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name → (dtype, shape) of one safetensors file, after checking that the file is whole.

    Raises:
        UnsupportedFormat: cut short or damaged.
    """
    shown = f"{path.parent.name}/{path.name}"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT_BYTES:
                raise UnsupportedFormat(f"{shown} is not a safetensors file; download it again.")
            if length + 8 > size:
                raise _cut_short(shown, length + 8, size)
            table = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise UnsupportedFormat(f"{shown} is damaged: its header is not JSON; download it again.") from None
    except OSError as error:
        raise UnsupportedFormat(f"{shown} cannot be read: {error.strerror or error}; check the file and its permissions.") from None
    try:
        return _checked_table(table, shown, size - 8 - length, size)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UnsupportedFormat(f"{shown} is damaged: its header is not in order; download it again.") from None


def _cut_short(shown: str, needed: int, size: int) -> UnsupportedFormat:
    return UnsupportedFormat(f"{shown} is cut short: by its header it has {size_text(needed)}, the file has {size_text(size)}; download it again.")


def _checked_table(table: Any, shown: str, room: int, size: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    if len(table) > TENSOR_LIMIT:
        raise ValueError
    needed = 0
    for name, row in table.items():
        if name == "__metadata__":
            continue
        dtype, shape = str(row["dtype"]), tuple(int(length) for length in row["shape"])
        begin, end = (int(offset) for offset in row["data_offsets"])
        if begin < 0 or end < begin or any(length < 0 for length in shape):
            raise ValueError
        needed = max(needed, end)
        if dtype in DTYPE_BYTES and math.prod(shape) * DTYPE_BYTES[dtype] != end - begin:
            raise ValueError
        tensors[name] = (dtype, shape)
    if needed > room:
        raise _cut_short(shown, needed + size - room, size)
    return tensors


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that `from_pretrained` would read.

    Raises:
        UnsupportedFormat: none, or an index that points elsewhere or at files that are missing.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise UnsupportedFormat(no_weights(folder))
    mapping = read_json(index).get("weight_map")
    names = sorted({str(name) for name in mapping.values()}) if isinstance(mapping, dict) else []
    if not names or len(names) > SHARD_LIMIT:
        raise UnsupportedFormat(f"{folder.name}/{index.name} lists {len(names)} weight files; download the model again.")
    for name in names:
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise UnsupportedFormat(
                f"{folder.name}/{index.name} names “{name[:80]}”, which is not a safetensors file of this folder; do not trust this model."
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UnsupportedFormat(f"{folder.name} lacks {len(missing)} of its {len(names)} weight files ({missing[0]} …); resume the download.")
    return tuple(folder / name for name in names)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    if "transformers_weights" in config:
        raise UnsupportedFormat(f"{folder.name}/config.json redirects the weights to another file; do not trust this model.")
    for name, value in _integers(config):
        if name in INTEGER_LIMITS and not 0 <= value <= INTEGER_LIMITS[name]:
            raise UnsupportedFormat(f"{folder.name}/config.json says {name} = {value}, the limit is {INTEGER_LIMITS[name]}; download it again.")
    if config.get("is_encoder_decoder"):
        raise UnsupportedFormat(f"{folder.name} is an encoder-decoder model; Paddock runs models that continue text.")


def _check_built(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """What config.json calls for is no multiple of what the weights hold: it would be made up, in memory, before anything is found missing."""
    inner = config.get("text_config")
    told = inner if isinstance(inner, dict) else config

    def number(*names: str) -> int:
        return next((value for name in names if isinstance(value := told.get(name), int)), 0)

    layers = number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    there = 1 + max((int(found[1]) for found in map(LAYER.search, tensors) if found is not None), default=-1)
    if there and layers > 4 * there + 4:  # some architectures use a layer several times
        raise UnsupportedFormat(f"{folder.name}/config.json says num_hidden_layers = {layers}, its weights hold {there}; download it again.")
    width, inside, words = number("hidden_size", "n_embd", "d_model"), number("intermediate_size", "ffn_dim"), number("vocab_size")
    wanted = layers * width * (width + 2 * inside) + words * width
    held = sum(math.prod(shape) for _, shape in tensors.values())
    if wanted > PACKED * held + SMALL_MODEL:
        raise UnsupportedFormat(f"{folder.name}/config.json calls for about {wanted:,} parameters, its weights hold {held:,}; download it again.")


def _integers(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if isinstance(value, dict) and depth < 4:
            yield from _integers(value, depth + 1)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def safe_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without the keys that make transformers fetch, run or redirect something."""
    return {
        name: safe_config(value) if isinstance(value, dict) else value for name, value in config.items() if name not in UNSAFE_KEYS
    }


def read_folder_header(folder: Path) -> FolderHeader:
    """Read and check a model folder.

    Raises:
        UnsupportedFormat: naming what is missing, broken or unsafe, and the cure.
    """
    if not (folder / "config.json").is_file():
        raise UnsupportedFormat(
            f"Folder {folder.name} has weights but no config.json, so nothing says how to run them; download the missing file."
        )
    config = read_json(folder / "config.json")
    _check_config(folder, config)
    if (folder / "adapter_config.json").exists():
        raise UnsupportedFormat(
            f"Folder {folder.name} holds a model and a LoRA adapter, and the adapter would be mixed in unasked; move it to loras/."
        )
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    size = 0
    for path in weight_files(folder):
        size += path.stat().st_size
        tensors |= read_weight_header(path)
    _check_built(folder, config, tensors)
    dtype, parameters, tower = _counted(tensors)
    return FolderHeader(folder, config, size, parameters, dtype, tower, _sizes(config, tensors))


def _counted(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[str, int, int]:
    """The type that most parameters have, how many there are, and how many of them are of towers."""
    counts: dict[str, int] = {}
    tower = 0
    for name, (dtype, shape) in tensors.items():
        elements = math.prod(shape)
        counts[dtype] = counts.get(dtype, 0) + elements
        tower += elements if TOWERS.search(name) else 0
    return max(counts, key=lambda key: counts[key], default=""), sum(counts.values()), tower


def _sizes(config: dict[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Mapping[str, int]:
    """What the weights tell of the text part of a model that has several parts, by the names of config.json."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return MappingProxyType({})
    found: dict[str, int] = {}
    rows: dict[str, int] = {}
    for name, (_, shape) in tensors.items():
        if TOWERS.search(name) or len(shape) != 2:
            continue
        layer, end = LAYER.search(name), name.removesuffix(".weight").rpartition(".")[2]
        if layer is not None:
            found["num_hidden_layers"] = max(found.get("num_hidden_layers", 0), int(layer[1]) + 1)
        if end == "embed_tokens":
            found |= {"vocab_size": shape[0], "hidden_size": shape[1]}
        rows[end] = shape[0]
    if "gate_proj" in rows:
        found["intermediate_size"] = rows["gate_proj"]
    if "q_proj" in rows and "k_proj" in rows:
        size = _head_size(config | inner, rows)
        found |= {"head_dim": size, "num_attention_heads": max(1, rows["q_proj"] // size), "num_key_value_heads": max(1, rows["k_proj"] // size)}
    return MappingProxyType(found)


def _head_size(stated: Mapping[str, Any], rows: Mapping[str, int]) -> int:
    """Numbers of a head, by what is stated of it; where nothing is, any, since only their product counts."""
    for heads, part in (("num_attention_heads", "q_proj"), ("num_key_value_heads", "k_proj")):
        count = stated.get(heads)
        if isinstance(count, int) and count > 0:
            return max(1, rows[part] // count)
    size = stated.get("head_dim")
    return size if isinstance(size, int) and size > 0 else math.gcd(HEAD_SIZE, rows["k_proj"])


def parse_folder_header(name: str, config: Mapping[str, Any], weights: bytes, size_bytes: int = 0, files: int = 1) -> FolderHeader | int:
    """The facts of a folder of which only config.json and the first bytes of one weight file are here; else how many bytes are needed.

    The tensors of that file stand for those of the others, of which there are so many or so many bytes (0: not known).

    Raises:
        UnsupportedFormat: damaged, unsafe or absurd.
    """
    _check_config(Path(name), config)
    length = struct.unpack("<Q", weights[:8])[0] if len(weights) >= 8 else 0
    if not 2 <= length <= HEADER_LIMIT_BYTES:
        raise UnsupportedFormat(f"The weights of {name} are not a safetensors file; choose another model.")
    if len(weights) < 8 + length:
        return int(8 + length)
    try:
        table = _checked_table(json.loads(weights[8 : 8 + length]), name, SIZE_LIMIT_BYTES, SIZE_LIMIT_BYTES)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UnsupportedFormat(f"The weights of {name} are damaged: their header is not in order; choose another model.") from None
    dtype, total, tower = _counted(table)
    stored = sum(DTYPE_BYTES.get(kind, 1) * math.prod(shape) for kind, shape in table.values())
    size_bytes = size_bytes or stored * files
    parameters = total * size_bytes // max(1, stored)
    return FolderHeader(Path(name), config, size_bytes, parameters, dtype, tower, _sizes(dict(config), table))


def folder_problem(folder: Path) -> str:
    """Why a folder cannot be loaded, as a sentence; empty if it can."""
    try:
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            return f"Folder {folder.name} is a LoRA adapter, not a model; move it to loras/ and apply it to its base model."
        read_folder_header(folder)
    except UnsupportedFormat as error:
        return error.message
    return ""


def read_folder_template(folder: Path) -> TemplateSource | None:
    """The chat template of a folder: chat_template.jinja, else tokenizer_config.json, else chat_template.json."""
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
    bos, eos = _token_text(settings.get("bos_token")), _token_text(settings.get("eos_token"))
    for origin, text in _template_candidates(folder, settings):
        if text:
            return TemplateSource(text=text, origin=origin, bos_token=bos, eos_token=eos, tool_text=_tool_template(folder, settings))
    return None


def _template_candidates(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    file = folder / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= JSON_LIMIT_BYTES:
        yield file.name, file.read_text(encoding="utf-8", errors="replace")
    yield "tokenizer_config.json", _template_text(settings.get("chat_template"))
    if (folder / "chat_template.json").is_file():
        yield "chat_template.json", _template_text(read_json(folder / "chat_template.json").get("chat_template"))


def _tool_template(folder: Path, settings: Mapping[str, Any]) -> str:
    """The template for conversations with tools, where there is one of its own."""
    file = folder / "additional_chat_templates" / "tool_use.jinja"
    if file.is_file() and file.stat().st_size <= JSON_LIMIT_BYTES:
        return file.read_text(encoding="utf-8", errors="replace")
    value = settings.get("chat_template")
    return str(_named_templates(value).get("tool_use") or "") if isinstance(value, list) else ""


def _named_templates(value: Sequence[Any]) -> dict[str, Any]:
    return {str(row.get("name")): row.get("template") for row in value if isinstance(row, dict) and isinstance(row.get("template"), str)}


def _template_text(value: Any) -> str:
    """A template, or the one called default (else the first) of a list of named ones."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    named = _named_templates(value)
    return str(named.get("default") or next(iter(named.values()), ""))


def _token_text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
