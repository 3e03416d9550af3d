"""What lies in the model and adapter folders, read from headers: nothing is loaded and nothing heavy is imported.

Knows which files make one model (split GGUF files are one entry) and which are none (projectors, importance matrices, adapters). A broken
model is listed with a sentence about what is wrong. Knows nothing of loading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.errors import NotFound, UnsupportedFormat
from modules.core.model import ModelInfo
from modules.loaders.folder_header import (
    folder_problem,
    read_folder_header,
    read_folder_template,
    read_json,
    read_weight_header,
)
from modules.loaders.gguf_header import OTHER_KINDS, read_gguf_header
from modules.loaders.model_paths import PART, adapter_paths, model_paths
from modules.loaders.other_folders import Found, OtherFolder
from modules.loaders.pickled import conversion
from modules.loaders.pooling import embeds_only, is_encoder

README_BYTES = 8192
LICENCE_LINE = re.compile(r"^licen[sc]e:[ \t]*['\"]?(\w[^'\"#\r\n]{0,99})", re.MULTILINE)
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")  # without one of them nothing says how images are prepared
# Kinds of image-text models that are loaded for text alone: texts have a class of their own, see themselves whole, or a package is missing
TEXT_HERE = frozenset({"dots3_note", "emu3", "llama4", "mistral_large4", "mllama", "paligemma", "qwen3_5", "qwen3_5_moe", "qwen4_exp"})


@dataclass(frozen=True)
class AdapterInfo:
    """A LoRA adapter as its header describes it."""

    name: str  # path below loras/
    path: str
    format: str  # "peft" (a folder) or "gguf" (a file)
    size_bytes: int = 0
    base_model: str = ""  # what it says it was trained on
    architecture: str = ""
    rank: int = 0
    alpha: float = 0.0
    licence: str = ""
    problem: str = ""

    @property
    def loaders(self) -> tuple[str, ...]:
        """Names of the loaders whose models can use it."""
        return ("llama.cpp",) if self.format == "gguf" else ("transformers", "llama.cpp")


def read_info(path: Path, models_dir: Path) -> ModelInfo:
    """Facts about one model; a broken one has a `problem`."""
    name = path.relative_to(models_dir).as_posix() if path.is_relative_to(models_dir) else path.name
    try:
        return _folder_info(path, name) if path.is_dir() else _gguf_info(path, name)
    except UnsupportedFormat as error:
        kind = "safetensors" if path.is_dir() else "gguf"
        return ModelInfo(name=name, path=str(path), format=kind, size_bytes=_size(path), problem=error.message)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All files of a GGUF model, in order: itself, or its numbered parts.

    Raises:
        UnsupportedFormat: a part is missing.
    """
    match = PART.fullmatch(path.name)
    if match is None:
        return (path,)
    total = int(match["total"])
    parts = tuple(path.with_name(f"{match['stem']}-{number:05d}-of-{match['total']}.gguf") for number in range(1, min(total, 1000) + 1))
    for number, part in enumerate(parts, 1):
        if not part.is_file():
            raise UnsupportedFormat(f"{path.name} is in {total} parts and part {number} is missing; resume the download.")
    return parts


def _gguf_info(path: Path, name: str) -> ModelInfo:
    parts = gguf_parts(path)
    header = read_gguf_header(parts[0])
    headers = (header, *(read_gguf_header(part) for part in parts[1:]))
    parameters = sum(part.parameters for part in headers)
    return ModelInfo(
        name=name,
        path=str(path),
        format="gguf",
        size_bytes=sum(part.size_bytes for part in headers),
        architecture=header.architecture,
        parameters=parameters,
        context_length=header.number("context_length"),
        quantization=header.quantization,
        layers=header.number("block_count"),
        vocab_size=header.token_count or header.number("vocab_size"),
        template="GGUF metadata" if header.text("tokenizer.chat_template") else "",
        licence=header.text("general.license")[:200],
        description=(header.text("general.description") or header.text("general.name"))[:500],
        problem=_gguf_problem(path, parameters),
        can_write=not embeds_only(header),
    )


def _gguf_problem(path: Path, parameters: int) -> str:
    return "" if parameters else f"{path.name} holds no weights, only a vocabulary; download the model itself."


def _folder_info(path: Path, name: str) -> ModelInfo:
    problem = folder_problem(path)
    if problem:
        raise UnsupportedFormat(problem)
    header = read_folder_header(path)
    architectures = header.config.get("architectures")
    template = read_folder_template(path)
    return ModelInfo(
        name=name,
        path=str(path),
        format="safetensors",
        size_bytes=header.size_bytes,
        architecture=str(architectures[0] if isinstance(architectures, list) and architectures else header.config.get("model_type", "")),
        parameters=header.parameters,
        context_length=header.number("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"),
        quantization=header.quantization,
        layers=header.number("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        vocab_size=header.number("vocab_size"),
        template=template.origin if template else "",
        licence=_readme_licence(path),
        can_write=not is_encoder(header.config),
        sees=_sees(path, header.config),
    )


def _sees(path: Path, config: Mapping[str, Any]) -> bool:
    named = any(isinstance(config.get(name), int) for name in ("image_token_id", "image_token_index"))
    return named and config.get("model_type") not in TEXT_HERE and any((path / file).is_file() for file in IMAGE_FILES)


def _readme_licence(folder: Path) -> str:
    try:
        with (folder / "README.md").open("rb") as file:
            head = file.read(README_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    match = LICENCE_LINE.search(head) if head.startswith("---") else None
    return match[1].strip() if match else ""


class ModelFolder:
    """The two folders, and those of other programs; read on demand, a header again only when its file changed."""

    def __init__(self, models_dir: Path, loras_dir: Path, others: Callable[[], Sequence[OtherFolder]] = tuple) -> None:
        self._models_dir = models_dir
        self._loras_dir = loras_dir
        self._others = others
        self._cache: dict[tuple[str, Path], tuple[Any, ModelInfo | AdapterInfo | None]] = {}

    def models(self) -> tuple[ModelInfo, ...]:
        """All models, broken ones too, by name."""
        own = [self._cached("model", path, self._read_model) for path in model_paths(self._models_dir)]
        others = [self._other(folder, found) for folder in self._others() for found in folder.models()]
        return tuple(sorted((info for info in (*own, *others) if isinstance(info, ModelInfo)), key=lambda info: info.name.lower()))

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """All LoRA adapters, by name."""
        found = (self._cached("adapter", path, self._read_adapter) for path in adapter_paths(self._loras_dir))
        return tuple(sorted((info for info in found if isinstance(info, AdapterInfo)), key=lambda info: info.name.lower()))

    def find(self, name: str) -> ModelInfo:
        """The model of that name.

        Raises:
            NotFound: no such model.
        """
        for path in model_paths(self._models_dir):
            if path.relative_to(self._models_dir).as_posix() == name:
                info = self._cached("model", path, self._read_model)
                if isinstance(info, ModelInfo):
                    return info
        folders = [folder for folder in self._others() if name.startswith(f"{folder.tag}:")]
        for info in (self._other(folder, found) for folder in folders for found in folder.models(name)):
            if info is not None:
                return info
        raise NotFound(f"There is no model “{name[:100]}” in {self._models_dir.name}/; choose one from the list or download it.", field="model")

    def _cached(self, kind: str, path: Path, read: Any) -> ModelInfo | AdapterInfo | None:
        try:
            stamp = _stamp(path)
        except OSError:  # removed between listing and reading
            return None
        known = self._cache.get((kind, path))
        if known is not None and known[0] == stamp:
            return known[1]
        info: ModelInfo | AdapterInfo | None = read(path)
        self._cache[kind, path] = (stamp, info)
        return info

    def _other(self, folder: OtherFolder, found: Found) -> ModelInfo | None:
        """A model of another program under its own name; what it is called on the disk says nothing to people."""
        if found.problem:
            return ModelInfo(name=found.name, path=str(found.path), format="gguf", source=folder.title, problem=found.problem)
        info = self._cached("model", found.path, self._read_model)
        if not isinstance(info, ModelInfo):
            return None
        problem = info.problem.replace(found.path.name, found.name) if found.path.name not in found.name else info.problem
        return info.model_copy(update={"name": found.name, "source": folder.title, "problem": problem})

    def _read_model(self, path: Path) -> ModelInfo | None:
        if path.is_file() and _other_kind(path):
            return None
        return read_info(path, self._models_dir)

    def _read_adapter(self, path: Path) -> AdapterInfo | None:
        return read_adapter(path, self._loras_dir)


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    match = PART.fullmatch(path.name)
    if path.is_dir():
        files = sorted(path.iterdir())
    elif match is None:
        files = [path]
    else:  # all parts: an entry changes when a missing one arrives
        files = sorted(file for file in path.parent.iterdir() if file.name.startswith(match["stem"]))
    rows = [(file.name, file.stat() if file == path or not file.is_symlink() or file.exists() else file.lstat()) for file in files]  # a dead link is no reason to miss a folder
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in rows)


def _other_kind(path: Path) -> bool:
    """Whether a GGUF file is something else than a model; a broken file counts as one, so that it is listed."""
    try:
        return read_gguf_header(path).kind in OTHER_KINDS
    except UnsupportedFormat:
        return "mmproj" in path.name.lower()


def list_models(models_dir: Path) -> tuple[ModelInfo, ...]:
    """All models of a folder, without a cache."""
    return ModelFolder(models_dir, models_dir).models()


def read_adapter(path: Path, loras_dir: Path) -> AdapterInfo:
    """Facts about one LoRA adapter; a broken one has a `problem`."""
    name = path.relative_to(loras_dir).as_posix() if path.is_relative_to(loras_dir) else path.name
    try:
        return _peft_info(path, name) if path.is_dir() else _lora_info(path, name)
    except UnsupportedFormat as error:
        return AdapterInfo(name, str(path), "peft" if path.is_dir() else "gguf", size_bytes=_size(path), problem=error.message)


def list_adapters(loras_dir: Path) -> tuple[AdapterInfo, ...]:
    """All LoRA adapters of a folder, without a cache."""
    return ModelFolder(loras_dir, loras_dir).adapters()


def _peft_info(path: Path, name: str) -> AdapterInfo:
    config = read_json(path / "adapter_config.json")
    weights = path / "adapter_model.safetensors"
    if not weights.is_file():
        command = conversion(path)
        cure = f", only pickles, which can run code; get the version that has it.{command}" if command else "; finish the training or download it again."
        raise UnsupportedFormat(f"Folder {path.name} has no adapter_model.safetensors{cure}")
    read_weight_header(weights)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    return AdapterInfo(
        name,
        str(path),
        "peft",
        size_bytes=weights.stat().st_size,
        base_model=str(config.get("base_model_name_or_path") or ""),
        rank=rank if isinstance(rank, int) else 0,
        alpha=float(alpha) if isinstance(alpha, int | float) else 0.0,
        licence=_readme_licence(path),
    )


def _lora_info(path: Path, name: str) -> AdapterInfo:
    header = read_gguf_header(path)
    if header.kind != "adapter":
        raise UnsupportedFormat(f"{path.name} is a GGUF {header.kind}, not a LoRA adapter; move it to models/.")
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    ranks = [tensor.shape[-1] for tensor in header.tensors if tensor.name.endswith(".lora_a") and tensor.shape]
    return AdapterInfo(
        name,
        str(path),
        "gguf",
        size_bytes=header.size_bytes,
        base_model=header.text("general.base_model.0.name"),
        architecture=header.architecture,
        rank=max(ranks, default=0),
        alpha=float(alpha) if isinstance(alpha, int | float) else 0.0,
        licence=header.text("general.license")[:200],
    )
