"""The header of a GGUF file: metadata and tensor table, read without loading and with every length bounded.

Source of the layout: the GGUF specification (magic, version, counts, key-value pairs, tensor table, aligned data). Knows no model
architecture beyond the limits at which the native loader would end the process; never touches tensor data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from modules.core.errors import UnsupportedFormat
from modules.loaders.machine import size_text

OTHER_KINDS = frozenset({"mmproj", "imatrix", "adapter"})  # what is no model by itself
HEADER_LIMIT_BYTES, CHUNK_BYTES = 256 << 20, 1 << 20
KEY_LIMIT = 10_000
TENSOR_LIMIT = 100_000
STRING_LIMIT_BYTES = 16 << 20
ARRAY_STRINGS_LIMIT = 4_000_000  # over all arrays of one file
SMALL_ARRAY = 1024  # numeric arrays up to this length are kept, longer ones only counted
DIMENSION_LIMIT = 1 << 40
ELEMENT_LIMIT = 1 << 48
TYPE_LIMIT = 64  # tensor types beyond are nonsense; unknown ones below may be newer than this table

STRING, ARRAY = 8, 9
SCALARS: Mapping[int, struct.Struct] = MappingProxyType(
    {code: struct.Struct("<" + letter) for code, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)}
)
U32, U64 = SCALARS[4], SCALARS[10]

# ggml tensor type → name, elements of a block, bytes of a block
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
    }
)  # fmt: skip
FILE_TYPES: Mapping[int, str] = MappingProxyType(
    {
        0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
        13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
        22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS",
        31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was counted, not kept."""

    element_type: int
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table. `size_bytes` is 0 for a type this table does not know."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """Everything a GGUF file says about itself."""

    path: Path
    size_bytes: int
    metadata: Mapping[str, Any]  # scalars, str, tuples of numbers, LongArray
    tensors: tuple[Tensor, ...]
    tokens: tuple[bytes, ...] = ()  # only when asked for
    table_offset: int = 0  # of the tensor table in the file

    @property
    def architecture(self) -> str:
        """The word of `general.architecture`."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def kind(self) -> str:
        """`general.type`: model, adapter, mmproj, imatrix …; old files have none and are models."""
        if self.architecture == "clip":
            return "mmproj"
        return str(self.metadata.get("general.type", "model"))

    @cached_property
    def parameters(self) -> int:
        """How many weights."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def quantization(self) -> str:
        """The usual name of the quantization, or the type that most bytes have."""
        named = FILE_TYPES.get(self.number("general.file_type", -1, own=False))
        if named:
            return named
        sizes: dict[int, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type_id] = sizes.get(tensor.type_id, 0) + tensor.size_bytes
        largest = max(sizes, key=lambda key: sizes[key], default=-1)
        return TENSOR_TYPES[largest][0] if largest in TENSOR_TYPES else ""

    @property
    def token_count(self) -> int:
        """Size of the vocabulary, 0 if the file has none."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, LongArray) else 0

    def number(self, key: str, default: int = 0, *, own: bool = True) -> int:
        """An integer field; `own` puts the architecture in front. Of a per-layer array the largest counts."""
        value = self.metadata.get(f"{self.architecture}.{key}" if own else key, default)
        if isinstance(value, tuple):
            value = max(value, default=default)
        return int(value) if isinstance(value, int) else default

    def text(self, key: str) -> str:
        """A string field, empty if absent."""
        return value if isinstance(value := self.metadata.get(key), str) else ""


class _EndOfData(Exception):  # noqa: N818 - for a prefix no error
    """The bytes at hand end inside the header."""


class _Reader:
    """Reads a header front to back from a growing buffer; every length is checked against the file before it is used."""

    def __init__(self, file: BinaryIO, path: Path, size_bytes: int) -> None:
        self._file = file
        self._name = path.name
        self._size = size_bytes
        self._strings = 0
        self.data = bytearray()
        self.position = 0

    def broken(self, what: str) -> UnsupportedFormat:
        return UnsupportedFormat(f"{self._name} is damaged: {what}; download it again.")

    def cut_short(self) -> UnsupportedFormat:
        return UnsupportedFormat(
            f"{self._name} is cut short: its header needs more than the {size_text(self._size)} the file has; download it again."
        )

    def need(self, length: int) -> int:
        """Make `length` bytes available and step over them; returns where they begin."""
        begin = self.position
        end = begin + length
        if end > self._size:
            raise self.cut_short()
        if end > HEADER_LIMIT_BYTES:
            raise self.broken(f"its header is larger than {size_text(HEADER_LIMIT_BYTES)}")
        while len(self.data) < end:
            chunk = self._file.read(max(CHUNK_BYTES, end - len(self.data)))
            if not chunk:
                raise _EndOfData
            self.data += chunk
        self.position = end
        return begin

    def scalar(self, code: int) -> Any:
        layout = SCALARS[code]
        return layout.unpack_from(self.data, self.need(layout.size))[0]

    def u32(self) -> int:
        return int(U32.unpack_from(self.data, self.need(4))[0])

    def u64(self) -> int:
        return int(U64.unpack_from(self.data, self.need(8))[0])

    def string(self, limit: int) -> bytes:
        length = self.u64()
        if length > limit:
            raise self.broken(f"a text of {length} bytes stands in its header")
        begin = self.need(length)
        return bytes(self.data[begin : begin + length])

    def name(self, limit: int, what: str) -> str:
        try:
            text = self.string(limit).decode()
        except UnicodeDecodeError:
            raise self.broken(f"a {what} is not UTF-8") from None
        if not text:
            raise self.broken(f"a {what} is empty")
        return text

    def strings(self, count: int, keep: bool) -> tuple[bytes, ...]:
        """Walk over `count` strings; the hot loop of a large vocabulary."""
        self._strings += count
        if self._strings > ARRAY_STRINGS_LIMIT:
            raise self.broken(f"it lists {count} texts")
        if count * 8 > self._size - self.position:
            raise self.cut_short()
        kept = []
        unpack = U64.unpack_from
        for _ in range(count):
            begin = self.position + 8
            if begin > len(self.data):
                self.need(8)
                self.position = begin - 8
            length = unpack(self.data, begin - 8)[0]
            end = begin + length
            if end > len(self.data):
                self.position = begin
                self.need(length)
            if keep:
                kept.append(bytes(self.data[begin:end]))
            self.position = end
        return tuple(kept)

    def array(self, keep: bool) -> tuple[Any, ...] | LongArray:
        element, count = self.u32(), self.u64()
        if element == STRING:
            texts = self.strings(count, keep)
            return texts if keep else LongArray(element, count)
        if element not in SCALARS:
            raise self.broken(f"a list holds values of type {element}")
        layout = SCALARS[element]
        if count > self._size:
            raise self.broken(f"a list has {count} values")
        begin = self.need(layout.size * count)
        if count > SMALL_ARRAY:
            return LongArray(element, count)
        return struct.unpack_from(f"<{count}{layout.format[-1]}", self.data, begin)

    def value(self, keep: bool) -> Any:
        code = self.u32()
        if code in SCALARS:
            return self.scalar(code)
        if code == STRING:
            return self.string(STRING_LIMIT_BYTES).decode("utf-8", "replace")
        if code == ARRAY:
            return self.array(keep)
        raise self.broken(f"a value has type {code}")


def read_gguf_header(path: Path, *, keep_tokens: bool = False) -> GgufHeader:
    """Read and check the header of one GGUF file.

    Raises:
        UnsupportedFormat: not a GGUF file, cut short or damaged, with the place.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(_Reader(file, path, size), path, size, keep_tokens)
    except _EndOfData:
        raise UnsupportedFormat(f"{path.name} is damaged: it became shorter while being read; download it again.") from None
    except OSError as error:
        raise UnsupportedFormat(f"{path.name} cannot be read: {error.strerror or error}; check the file and its permissions.") from None


def parse_gguf_prefix(name: str, data: bytes, size_bytes: int) -> GgufHeader | None:
    """The header of a file of that size, checked in the same way, from its first bytes; None if they end inside the header.

    Raises:
        UnsupportedFormat: as for a file.
    """
    try:
        return _read(_Reader(BytesIO(data), Path(name), size_bytes), Path(name), size_bytes, keep_tokens=False)
    except _EndOfData:
        return None


def _read(reader: _Reader, path: Path, size: int, keep_tokens: bool) -> GgufHeader:
    if size < 24:
        raise UnsupportedFormat(f"{path.name} is cut short: it has {size} bytes; download it again.")
    begin = reader.need(4)
    if reader.data[begin : begin + 4] != b"GGUF":
        raise UnsupportedFormat(f"{path.name} is not a GGUF file: it does not begin with “GGUF”; download it again.")
    version = reader.u32()
    if version not in (2, 3):
        kind = "is a big-endian GGUF file" if version & 0xFFFF == 0 and version else f"has GGUF version {version}"
        raise UnsupportedFormat(f"{path.name} {kind}; Paddock reads versions 2 and 3, convert the model again.")
    tensor_count, key_count = reader.u64(), reader.u64()
    if tensor_count > TENSOR_LIMIT or key_count > KEY_LIMIT:
        raise reader.broken(f"it claims {tensor_count} tensors and {key_count} metadata keys")
    metadata: dict[str, Any] = {}
    tokens: tuple[bytes, ...] = ()
    for _ in range(key_count):
        key = reader.name(65_535, "metadata key")
        if key in metadata:
            raise reader.broken(f"the metadata key {key[:40]} stands there twice")
        value = reader.value(keep_tokens and key == "tokenizer.ggml.tokens")
        if keep_tokens and key == "tokenizer.ggml.tokens" and isinstance(value, tuple):
            tokens, value = value, LongArray(STRING, len(value))
        metadata[key] = value
    _check_general(reader, metadata)
    table_offset, tensors = reader.position, _read_tensors(reader, tensor_count)
    _check_layout(reader, path, size, metadata, tensors)
    header = GgufHeader(path, size, MappingProxyType(metadata), tensors, tokens, table_offset)
    _check_hyperparameters(reader, header)
    return header


def _check_general(reader: _Reader, metadata: Mapping[str, Any]) -> None:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 4096 or alignment & (alignment - 1):
        raise reader.broken(f"its alignment is {alignment}")
    architecture = metadata.get("general.architecture")
    is_later_part = metadata.get("split.no") and architecture is None  # llama-gguf-split writes it into the first part only
    if not is_later_part and (not isinstance(architecture, str) or not 0 < len(architecture) <= 64):
        raise reader.broken("it does not say which architecture it is")


def _read_tensors(reader: _Reader, count: int) -> tuple[Tensor, ...]:
    tensors = []
    names = set()
    for _ in range(count):
        name = reader.name(128, "tensor name")
        if name in names:
            raise reader.broken(f"the tensor {name} stands there twice")
        names.add(name)
        dimensions = reader.u32()
        if dimensions > 4:
            raise reader.broken(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(reader.u64() for _ in range(dimensions))
        type_id, offset = reader.u32(), reader.u64()
        if any(not 1 <= length <= DIMENSION_LIMIT for length in shape) or math.prod(shape) > ELEMENT_LIMIT:
            raise reader.broken(f"the tensor {name} has the shape {shape}")
        if type_id >= TYPE_LIMIT:
            raise reader.broken(f"the tensor {name} has type {type_id}")
        _, block, block_bytes = TENSOR_TYPES.get(type_id, ("", 1, 0))
        if shape and shape[0] % block:
            raise reader.broken(f"rows of the tensor {name} are {shape[0]} long, not a multiple of {block}")
        tensors.append(Tensor(name, shape, type_id, offset, math.prod(shape) // block * block_bytes))
    return tuple(tensors)


def _check_layout(reader: _Reader, path: Path, size: int, metadata: Mapping[str, Any], tensors: tuple[Tensor, ...]) -> None:
    """Tensors lie aligned, apart and inside the file."""
    alignment = int(metadata.get("general.alignment", 32))
    data_start = (reader.position + alignment - 1) // alignment * alignment
    end = 0
    for tensor in sorted(tensors, key=lambda row: row.offset):
        if tensor.offset % alignment or tensor.offset < end:
            raise reader.broken(f"the tensor {tensor.name} overlaps another one")
        end = tensor.offset + tensor.size_bytes
    if tensors and data_start + end > size:
        raise UnsupportedFormat(
            f"{path.name} is cut short: by its header it has {size_text(data_start + end)}, the file has {size_text(size)}; download it again."
        )


def _check_hyperparameters(reader: _Reader, header: GgufHeader) -> None:
    """Numbers outside these limits make the native loader abort the process."""
    if header.kind in OTHER_KINDS:
        return
    limits = (
        ("block_count", 1, 512), ("embedding_length", 1, 1 << 20), ("context_length", 1, 1 << 30), ("attention.head_count", 0, 1 << 16),
        ("attention.head_count_kv", 0, 1 << 16), ("rope.dimension_count", 0, 1 << 16), ("expert_count", 0, 1 << 16),
        ("feed_forward_length", 0, 1 << 24), ("attention.key_length", 1, 1 << 16), ("attention.value_length", 1, 1 << 16),
    )  # fmt: skip
    for key, low, high in limits:
        value = header.metadata.get(f"{header.architecture}.{key}", low)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int) or not low <= number <= high:
                raise reader.broken(f"{header.architecture}.{key} is {number}, the limits are {low} and {high}")
    for key, value in header.metadata.items():
        if key.endswith("_epsilon") and not (isinstance(value, float) and math.isfinite(value) and value > 0):
            raise reader.broken(f"{key} is {value}")
    _check_vocabulary(reader, header)


def _check_vocabulary(reader: _Reader, header: GgufHeader) -> None:
    if not (count := header.token_count or (len(value) if isinstance(value := header.metadata.get("tokenizer.ggml.tokens"), tuple) else 0)):
        return
    for key in ("scores", "token_type"):
        value = header.metadata.get(f"tokenizer.ggml.{key}")
        length = value.count if isinstance(value, LongArray) else len(value) if isinstance(value, tuple) else count
        if length != count:
            raise reader.broken(f"it has {count} tokens and {length} entries of {key}")
    for key in ("bos", "eos", "unknown", "padding", "eot", "separator"):
        value = header.metadata.get(f"tokenizer.ggml.{key}_token_id", -1)
        if not isinstance(value, int) or not (-1 <= value < count or value == 0xFFFFFFFF):
            raise reader.broken(f"its {key} token is number {value} of {count}")
    written = [token for token in header.tokens if token]  # empty ones get names of their own
    if len(set(written)) != len(written):
        raise reader.broken("two tokens of its vocabulary are the same")
