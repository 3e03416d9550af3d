"""Weights out of pickles into safetensors: which files of a folder hold them, and the writing, tensor by tensor.

The writing runs in a child process (`modules/services/convert_child.py`): a pickle is read by PyTorch's reader of plain weights, which runs nothing.
Knows nothing of folders' names, of publishing and of the terminal.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import BaseModel, Field

from modules.core.errors import InvalidRequest, UnsupportedFormat, first_line
from modules.core.files import write_atomic
from modules.loaders.folder_header import SHARD_LIMIT, TENSOR_LIMIT, read_json, weight_files
from modules.weights.tensor_file import PIECE_BYTES, Promised, TensorWriter

if TYPE_CHECKING:
    import torch

MODEL, MODEL_INDEX, ADAPTER = "pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"
SAFE_INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
ROOM_BYTES = 4 << 30  # of memory beside the largest file, which may be read as a whole and copied
GROWTH = 4  # tensors may share memory in a pickle and never do in safetensors; more than so many times its size is a bomb
SMALL_BYTES = 1 << 20
ZIP = b"PK\x03\x04"  # such files are mapped into memory, older ones read as a whole
ASKED_FOR = re.compile(r"GLOBAL ([\w.]{1,120})")
DTYPES: Mapping[str, str] = MappingProxyType({
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
})  # fmt: skip
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Pickles:
    """The files of a folder that hold its weights as pickles."""

    files: tuple[Path, ...]
    index: Path | None  # the list of several

    @property
    def is_adapter(self) -> bool:
        """Whether they are those of a LoRA adapter."""
        return self.files[0].name == ADAPTER

    @property
    def size_bytes(self) -> int:
        """All of them together."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def originals(self) -> tuple[Path, ...]:
        """What is of no use once they are converted."""
        return (*self.files, *([self.index] if self.index else []))


class ConvertRequest(BaseModel, frozen=True):
    """Which pickles to read, and where the result goes: a folder that is there and empty."""

    files: tuple[Path, ...] = Field(min_length=1)
    target: Path
    is_adapter: bool
    tied: bool  # config.json says that the output uses the words' table
    shard_bytes: int = Field(SHARD_BYTES, ge=1)


@dataclass(frozen=True)
class _Row:
    path: Path
    promised: Promised


def find_pickles(folder: Path) -> Pickles:
    """The pickles that hold the weights of a folder.

    Raises:
        InvalidRequest: none do, or they are converted already.
        UnsupportedFormat: their list is damaged, or some of them are missing.
    """
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        if (folder / "adapter_model.safetensors").is_file():
            raise InvalidRequest(f"{folder.name} is converted already: it has its adapter_model.safetensors.")
        return Pickles((folder / ADAPTER,), None)
    if (folder / "model.safetensors").is_file() or (folder / SAFE_INDEX).is_file():
        weight_files(folder)
        raise InvalidRequest(f"{folder.name} needs no conversion: its weights are there as safetensors.")
    if (folder / MODEL).is_file():
        return Pickles((folder / MODEL,), None)
    if not (folder / MODEL_INDEX).is_file():
        raise InvalidRequest(f"{folder.name} holds no pickled weights: neither {MODEL}, nor {MODEL_INDEX} with its parts, nor {ADAPTER} of an adapter.")
    return Pickles(_listed(folder), folder / MODEL_INDEX)


def _listed(folder: Path) -> tuple[Path, ...]:
    mapping = read_json(folder / MODEL_INDEX).get("weight_map")
    names = sorted({str(name) for name in mapping.values()}) if isinstance(mapping, dict) else []
    wrong = next((name for name in names if name != Path(name).name or "\\" in name or not name.endswith(".bin")), "")
    if wrong or not 1 <= len(names) <= SHARD_LIMIT:
        raise UnsupportedFormat(f"{folder.name}/{MODEL_INDEX} lists {f'“{wrong[:80]}”' if wrong else f'{len(names)} files'}; do not trust this model, or download it again.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UnsupportedFormat(f"{folder.name} lacks {len(missing)} of its {len(names)} weight files ({missing[0]} …); download them too.")
    return tuple(folder / name for name in names)


def limit_memory(request: ConvertRequest) -> None:
    """Let a file that unpacks to many times its size end this process, not the machine."""
    import torch  # noqa: F401 - what it takes itself is counted first

    if sys.platform == "linux":
        import resource

        limit = psutil.Process().memory_info().vms + 2 * max(path.stat().st_size for path in request.files) + ROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def convert(request: ConvertRequest, tell: Tell) -> int:
    """Write the safetensors files, and their list where there are several; the number of tensors. `tell` hears of bytes done and of all.

    Raises:
        UnsupportedFormat: damaged, no weights, or they ask for something to be run; nothing was.
    """
    rows = _planned(request)
    shards = list(_shards(rows, request.shard_bytes))
    stem = "adapter_model" if request.is_adapter else "model"
    total, done, places = sum(row.promised.size_bytes for row in rows), 0, {}
    held: tuple[Path | None, Mapping[str, Any]] = None, {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        with TensorWriter(request.target / name, [row.promised for row in shard]) as writer:
            for row in shard:
                places[row.promised.name] = name
                if held[0] != row.path:
                    held = None, {}  # the one before goes before the next comes
                    held = row.path, _read(row.path)
                for piece in _pieces(held[1][row.promised.name]):
                    writer.write(piece)
                    done += len(piece)
                    tell(done, total)
            writer.finish()
    if len(shards) > 1:
        write_atomic(request.target / SAFE_INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1) + "\n")
    return len(rows)


def _planned(request: ConvertRequest) -> list[_Row]:
    """All tensors in the order of the files. The output of a model that uses the words' table again is left out: its library ties the two."""
    rows: dict[str, _Row] = {}
    for path in request.files:
        tensors = _read(path)
        left_out = _tied_outputs(tensors) if request.tied else frozenset()
        for name, tensor in tensors.items():
            if name in rows:
                raise UnsupportedFormat(f"{path.parent.name} holds the weights {name[:80]} twice; download it again.")
            if name not in left_out:
                rows[name] = _Row(path, _promised(path, name, tensor))
    total, size = sum(row.promised.size_bytes for row in rows.values()), sum(path.stat().st_size for path in request.files)
    if not rows or len(rows) > TENSOR_LIMIT or total > GROWTH * size + SMALL_BYTES:
        raise UnsupportedFormat(f"{request.files[0].parent.name} says that it holds {len(rows)} tensors of {total:,} bytes in {size:,}; do not trust it, or download it again.")
    return list(rows.values())


def _tied_outputs(tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    outputs = [name for name in tensors if name.endswith("lm_head.weight")]
    return frozenset(name for name in outputs if any(other != name and _is_same(tensors[name], tensor) for other, tensor in tensors.items()))


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (other.data_ptr(), other.shape, other.stride(), other.dtype)


def _promised(path: Path, name: str, tensor: torch.Tensor) -> Promised:
    kind = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if kind is None or tensor.is_quantized or str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        raise UnsupportedFormat(f"{path.parent.name}/{path.name} stores {name[:80]} as {tensor.dtype}, {tensor.layout}, which safetensors cannot hold; choose another version.")
    return Promised(name, kind, tuple(tensor.shape), tensor.numel() * tensor.element_size())


def _shards(rows: Sequence[_Row], limit: int) -> Iterator[list[_Row]]:
    """The rows in files of at most so many bytes, the longest numbers of each first, so that every tensor begins at a multiple of its numbers' length."""
    shard: list[_Row] = []
    for row in rows:
        if shard and sum(known.promised.size_bytes for known in shard) + row.promised.size_bytes > limit:
            yield _ordered(shard)
            shard = []
        shard.append(row)
    yield _ordered(shard)


def _ordered(shard: list[_Row]) -> list[_Row]:
    digits = re.compile(r"[0-9]+")

    def width(row: _Row) -> int:
        found = digits.search(row.promised.dtype)
        return int(found[0]) if found else 8

    return sorted(shard, key=width, reverse=True)


def _pieces(tensor: torch.Tensor) -> Iterator[bytes]:
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    for begin in range(0, flat.numel(), PIECE_BYTES):
        yield flat[begin : begin + PIECE_BYTES].numpy().tobytes()


def _read(path: Path) -> dict[str, torch.Tensor]:
    """What a pickle holds, if that is weights by their names and nothing else."""
    import torch

    shown = f"{path.parent.name}/{path.name}"
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    try:
        found = torch.load(path, weights_only=True, mmap=is_zip, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise UnsupportedFormat(_refusal(shown, str(error))) from None
    except MemoryError:
        raise UnsupportedFormat(f"{shown} takes more memory than this machine has free, or than weights of its size need; close programs, or choose another version.") from None
    except Exception as error:  # whatever its readers say of a damaged file
        raise UnsupportedFormat(f"{shown} is damaged or no file of weights ({first_line(error)}); nothing of it was run. Download it again.") from error
    plain = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)} if isinstance(found, dict) else {}
    if not isinstance(found, dict) or len(plain) < len(found) or not all(isinstance(name, str) for name in found):
        kind = type(found).__name__ if not isinstance(found, dict) else next((type(value).__name__ for value in found.values() if not isinstance(value, torch.Tensor)), "names")
        raise UnsupportedFormat(f"{shown} holds something else than weights by their names ({kind}), so it is no model's; choose another version.")
    return plain


def _refusal(shown: str, text: str) -> str:
    asked = ASKED_FOR.search(text)
    if asked is not None:
        return f"{shown} asks for {asked[1]} to be run, which no file of weights needs. That was refused: nothing of it was run, and nothing was written. Do not trust this model."
    lines = [line.strip() for line in text.splitlines() if line.strip() and "torch.load" not in line and "weights_only" not in line]
    return f"{shown} is more than weights, or damaged ({(lines or ['no reason given'])[0][:200]}). Nothing of it was run, and nothing was written. Choose another version, or download it again."
