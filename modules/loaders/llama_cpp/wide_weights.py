"""Weights that are stored in four or five bits, held in eight where the processor computes with those faster: the same numbers, exactly.

llama.cpp has instructions of their own for eight bits (tiles of AMX) and none for Q5_0 and IQ4_NL, which it falls back to in files of K types
wherever a row is no multiple of 256. A block of any of them is 32 whole numbers and one scale, so only the whole numbers are written anew. The file that
llama.cpp is given then lies in memory and is gone once it was read. Knows the file format; loads nothing.

Source of the layouts: `block_q5_0`, `block_iq4_nl` and `block_q8_0` in ggml-common.h.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import OutOfMemory, UnsupportedFormat
from modules.loaders.gguf_header import TENSOR_TYPES, U32, U64, GgufHeader, Tensor
from modules.loaders.llama_cpp.memory import HELD_WIDE, held_shape
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import size_text
from modules.loaders.shape import WIDE, Shape, can_widen, is_tied
from modules.loaders.spec import Progress

CHUNK_BYTES = 64 << 10  # larger pieces would be kept by the allocator, between what llama.cpp keeps
SCALE_BYTES, HIGH_BYTES = 2, 4
WIDE_ID = next(number for number, (name, _, _) in TENSOR_TYPES.items() if name == WIDE)
NONLINEAR = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.int8).view(np.uint8)  # kvalues_iq4nl
Blocks = NDArray[np.uint8]  # a row for each, as stored


def _of_five_bits(blocks: Blocks, numbers: Blocks) -> None:
    """Q5_0: a scale, the 32 highest bits, the lower four of the first sixteen numbers and of the others; 16 stands for 0."""
    lower = blocks[:, SCALE_BYTES + HIGH_BYTES :]
    half = lower.shape[1]
    np.bitwise_and(lower, 15, out=numbers[:, :half])
    np.right_shift(lower, 4, out=numbers[:, half:])
    numbers |= np.unpackbits(blocks[:, SCALE_BYTES : SCALE_BYTES + HIGH_BYTES], axis=1, bitorder="little") << 4
    numbers -= 16  # a byte below 0 is the same one as a signed number


def _of_nonlinear(blocks: Blocks, numbers: Blocks) -> None:
    """IQ4_NL: a scale, and four bits for each number that say which of sixteen it is, in the same order."""
    places = blocks[:, SCALE_BYTES:]
    half = places.shape[1]
    np.take(NONLINEAR, places & 15, out=numbers[:, :half])
    np.take(NONLINEAR, places >> 4, out=numbers[:, half:])


NUMBERS: Mapping[str, Callable[[Blocks, Blocks], None]] = MappingProxyType({"Q5_0": _of_five_bits, "IQ4_NL": _of_nonlinear})


def widened_blocks(kind: str, data: bytes) -> bytes:
    """Whole blocks of a type as the same numbers in eight bits."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, _block_bytes(kind))
    wide = np.empty((len(blocks), _block_bytes(WIDE)), np.uint8)
    wide[:, :SCALE_BYTES] = blocks[:, :SCALE_BYTES]
    NUMBERS[kind](blocks, wide[:, SCALE_BYTES:])
    return wide.tobytes()


def _block_bytes(kind: str) -> int:
    return next(size for name, _, size in TENSOR_TYPES.values() if name == kind)


def widened_header(header: GgufHeader) -> GgufHeader:
    """What the header of a file of one part becomes."""
    tied, end, places = is_tied((header,)), 0, dict[str, Tensor]()
    for tensor in sorted(header.tensors, key=lambda row: row.offset):
        if can_widen(tensor, tied=tied):
            _, numbers, block_bytes = TENSOR_TYPES[WIDE_ID]
            tensor = replace(tensor, type_id=WIDE_ID, size_bytes=tensor.elements // numbers * block_bytes)
        places[tensor.name] = replace(tensor, offset=_aligned(header, end))
        end = places[tensor.name].offset + tensor.size_bytes
    return replace(header, size_bytes=_data_offset(header) + _aligned(header, end), tensors=tuple(places[row.name] for row in header.tensors))


def _aligned(header: GgufHeader, place: int) -> int:
    alignment = header.number("general.alignment", 32, own=False)
    return (place + alignment - 1) // alignment * alignment


def _data_offset(header: GgufHeader) -> int:
    return _aligned(header, header.table_offset + len(_table(header.tensors)))


def _table(tensors: Sequence[Tensor]) -> bytes:
    """The table as it stands in a file."""
    rows = []
    for tensor in tensors:
        name = tensor.name.encode()
        sizes = b"".join(U64.pack(size) for size in tensor.shape)
        rows += [U64.pack(len(name)), name, U32.pack(len(tensor.shape)), sizes, U32.pack(tensor.type_id), U64.pack(tensor.offset)]
    return b"".join(rows)


@dataclass(frozen=True)
class Weights:
    """A model's file as llama.cpp is given it: `wide`, where something is held in eight bits, else as it lies on the disk."""

    stored: GgufHeader
    wide: GgufHeader | None = None
    note: str = ""

    def held(self, shape: Shape) -> Shape:
        """The shape of what is held, of a model of that shape on the disk."""
        return shape.widened() if self.wide else shape

    @contextmanager
    def file(self, progress: Progress) -> Iterator[Path]:
        """The path to load from; what was written for it is gone afterwards.

        Raises:
            UnsupportedFormat: the stored file cannot be read to its end.
            OutOfMemory: there was no room after all.
        """
        if self.wide is None:
            yield self.stored.path
            return
        descriptor = os.memfd_create("weights")  # type: ignore[attr-defined,unused-ignore]
        try:
            self._write(descriptor, self.wide, progress)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, wide: GgufHeader, progress: Progress) -> None:
        name = self.stored.path.name
        try:
            source = self.stored.path.open("rb")
        except OSError as error:
            raise UnsupportedFormat(f"{name} cannot be read: {error.strerror or error}; check the file and its permissions.") from None
        try:
            with source, open(descriptor, "wb", closefd=False) as target:
                write_widened(source, target, self.stored, wide, progress)
        except OSError as error:
            reason = error.strerror or error
            raise OutOfMemory(f"The weights of {name} could not be written in 8 bits ({reason}); set widen_weights to off.", field="widen_weights") from None


def choose_weights(header: GgufHeader, shape: Shape, options: LlamaCppOptions, *, on_gpu: bool = False) -> Weights:
    """A model's file as it is to be held here, with a note where that is not as stored, or not as asked for."""
    held = held_shape(shape, options, on_gpu=on_gpu)
    if held is not shape:
        kinds, more = " and ".join(kind for kind, _ in shape.widens), size_text(held.held_bytes - shape.stored_bytes)
        return Weights(header, widened_header(header), f"Its weights of type {kinds} {HELD_WIDE}: the same numbers, in {more} more memory.")
    if options.widen_weights == "on" and shape.widens:
        return Weights(header, note="Its weights are held as they are stored, not in 8 bits: that needs Linux, no graphics card, and twice their size of free memory.")
    if options.widen_weights == "on":
        return Weights(header, note="Its weights are held as they are stored: hardly any are of type Q5_0 or IQ4_NL, or they are in several files.")
    return Weights(header)


def write_widened(source: BinaryIO, target: BinaryIO, stored: GgufHeader, wide: GgufHeader, progress: Progress) -> None:
    """Write a file of which `wide` is the header.

    Raises:
        UnsupportedFormat: the source ends too soon, or cannot be read.
    """
    start, written = _data_offset(stored), 0
    target.write(_read(source, 0, stored.table_offset, stored) + _table(wide.tensors))
    for old, new in zip(stored.tensors, wide.tensors, strict=True):
        target.seek(start + new.offset)
        kind = TENSOR_TYPES[old.type_id][0] if new.type_id != old.type_id else ""
        step = CHUNK_BYTES // _block_bytes(kind) * _block_bytes(kind) if kind else CHUNK_BYTES
        for place in range(0, old.size_bytes, step):
            data = _read(source, start + old.offset + place, min(step, old.size_bytes - place), stored)
            target.write(widened_blocks(kind, data) if kind else data)
        written += new.size_bytes
        progress("Writing weights in 8 bits", written / wide.size_bytes)
    target.truncate(wide.size_bytes)


def _read(source: BinaryIO, place: int, count: int, header: GgufHeader) -> bytes:
    try:
        source.seek(place)
        data = source.read(count)
    except OSError as error:
        raise UnsupportedFormat(f"{header.path.name} cannot be read: {error.strerror or error}; check the file and its disk.") from None
    if len(data) < count:
        raise UnsupportedFormat(f"{header.path.name} is damaged: it became shorter while being read; download it again.")
    return data
