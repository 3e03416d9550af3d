"""safetensors files read and written piece by piece: no tensor is ever in memory as a whole.

Knows the numbers that NumPy can reckon with, bfloat16 too. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import UnsupportedFormat
from modules.loaders.folder_header import read_weight_header

PIECE_BYTES = 16 << 20
STORED: Mapping[str, str] = MappingProxyType({"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"})
NAN_BF16 = 0x7FC0


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int

    @property
    def rows(self) -> int:
        """Its length along the first axis."""
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape[1:])

    def read(self, first: int = 0, rows: int | None = None) -> NDArray[Any]:
        """Some of its rows as numbers: float64 if it is stored so, else float32.

        Raises:
            UnsupportedFormat: not stored as floating-point numbers.
        """
        kind = STORED.get(self.dtype)
        if kind is None:
            raise UnsupportedFormat(f"{self.path.parent.name}/{self.path.name} stores weights as {self.dtype[:20]}, with which nothing can be reckoned; use unquantized weights.")
        count = self.rows - first if rows is None else rows
        item = np.dtype(kind).itemsize
        values = np.fromfile(self.path, kind, count * self.row_elements, offset=self.begin + first * self.row_elements * item)
        if self.dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        numbers: NDArray[Any] = values.astype(np.float64 if self.dtype == "F64" else np.float32).reshape(count, *self.shape[1:])
        return numbers

    def pieces(self) -> Iterator[bytes]:
        """Its bytes as they are stored."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.size_bytes
            while left:
                piece = file.read(min(PIECE_BYTES, left))
                if not piece:
                    raise UnsupportedFormat(f"{self.path.parent.name}/{self.path.name} was cut short while it was being read; download it again.")
                left -= len(piece)
                yield piece


def encoded(values: NDArray[Any], dtype: str) -> bytes:
    """Numbers as they are stored, rounded to the nearest."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED[dtype]).tobytes()
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(values)] = NAN_BF16
    return rounded.tobytes()


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file, after checking that it is whole.

    Raises:
        UnsupportedFormat: cut short or damaged.
    """
    known = read_weight_header(path)
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        table = json.loads(file.read(length))
    found = {}
    for name, (dtype, shape) in known.items():
        begin, end = (int(offset) for offset in table[name]["data_offsets"])
        found[name] = StoredTensor(path, dtype, shape, 8 + length + begin, end - begin)
    return found


def stored_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Promised:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


class TensorWriter:
    """One safetensors file: the table first, since all lengths are known, then the tensors in its order."""

    def __init__(self, path: Path, tensors: Sequence[Promised]) -> None:
        table: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in tensors:
            table[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + tensor.size_bytes]}
            at += tensor.size_bytes
        head = json.dumps(table).encode()
        head += b" " * (-len(head) % 8)
        self._wanted = 8 + len(head) + at
        self._digest = hashlib.sha256()
        self._file: BinaryIO = path.open("xb")
        self.write(struct.pack("<Q", len(head)) + head)

    def write(self, piece: bytes) -> None:
        """The next bytes."""
        self._file.write(piece)
        self._digest.update(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def finish(self) -> str:
        """Bring it to the disk; its SHA-256.

        Raises:
            RuntimeError: fewer or more bytes came than were promised.
        """
        if self._file.tell() != self._wanted:
            raise RuntimeError(f"{self._file.tell()} bytes were written where {self._wanted} were promised")
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()
