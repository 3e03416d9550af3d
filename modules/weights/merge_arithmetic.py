"""The numbers of a merged tensor, a few rows at a time: base + scale · B · A, lengths of DoRA, rows of new tokens.

Float32 like PEFT's own, float64 where the base is stored so; rounded once, to the base's type. Knows nothing of files but how to read rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import UnsupportedFormat
from modules.weights.merge_plan import Made, NewRows, Pair
from modules.weights.tensor_file import StoredTensor, encoded

PIECE_ELEMENTS = 2 << 20  # 8 MB of float32; a handful of such arrays are in memory at once


def pieces(made: Made) -> Iterator[bytes]:
    """The bytes of a tensor.

    Raises:
        UnsupportedFormat: the base or the adapter holds values that are not numbers, or the sum is too large for the type.
    """
    if made.is_copied:
        yield from made.source.pieces()
        return
    change = _Change(made.pair) if made.pair else None
    lengths = change.lengths_before(made.source) if change and change.needs_lengths else None
    rows = _Rows(made.rows, made.source) if made.rows else None
    for first, values in _blocks(made.source):
        if change:
            values = change.apply(first, values, lengths)
        if rows:
            rows.put(first, values)
        yield _checked(made, values)
    if rows:
        for first, values in rows.beyond(made.shape[0]):
            rows.put(first, values)
            yield _checked(made, values)


def _blocks(tensor: StoredTensor) -> Iterator[tuple[int, NDArray[Any]]]:
    step = max(1, PIECE_ELEMENTS // max(1, tensor.row_elements))
    for first in range(0, tensor.rows, step):
        yield first, tensor.read(first, min(step, tensor.rows - first))


def _checked(made: Made, values: NDArray[Any]) -> bytes:
    if not np.isfinite(values).all():
        raise UnsupportedFormat(f"Merged, {made.name} would hold values that are not numbers: the adapter or its base model is damaged; download it again.")
    written = encoded(values, made.dtype)
    if made.dtype == "F16" and np.isinf(np.frombuffer(written, "<f2")).any():
        raise UnsupportedFormat(f"Merged, {made.name} would hold values beyond 65504, the most that float16 can say; merge with a smaller scale.")
    return written


class _Change:
    """What a pair of weights does to its matrix."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        first: NDArray[Any] = pair.first.read()
        second: NDArray[Any] = pair.second.read() * np.float32(pair.scale)
        # left · right has the rows of the stored matrix
        self._left, self._right = (first.T, np.ascontiguousarray(second.T)) if pair.is_transposed else (second, first)
        self._magnitude = pair.magnitude.read().reshape(-1) if pair.magnitude else None
        self.needs_lengths = self._magnitude is not None and pair.is_transposed  # of columns: all rows have to be seen first

    def apply(self, first: int, values: NDArray[Any], lengths: NDArray[Any] | None) -> NDArray[Any]:
        changed = self._added(first, values)
        if self._magnitude is None:
            return changed
        if lengths is not None:
            return np.asarray(changed * (self._magnitude / lengths))
        own = np.sqrt(np.einsum("ij,ij->i", changed, changed))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(changed * (self._magnitude[first : first + len(values)] / own)[:, None])

    def _added(self, first: int, values: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not a number is told of afterwards
            return np.asarray(values + self._left[first : first + len(values)] @ self._right)

    def lengths_before(self, source: StoredTensor) -> NDArray[Any]:
        """The length of each output's weights, changed, before the magnitude gives them another."""
        sums = np.zeros(source.shape[1], np.float64)
        for first, values in _blocks(source):
            changed = self._added(first, values)
            sums += np.einsum("ij,ij->j", changed, changed, dtype=np.float64)
        lengths: NDArray[Any] = np.sqrt(sums).astype(np.float32)
        return lengths


class _Rows:
    """Learned rows of a word table."""

    def __init__(self, rows: NewRows, source: StoredTensor) -> None:
        self._values = rows.values.read()
        self._at = {number: place for place, number in enumerate(rows.numbers)}
        self._source = source

    def put(self, first: int, values: NDArray[Any]) -> None:
        for number in self._at.keys() & set(range(first, first + len(values))):
            values[number - first] = self._values[self._at[number]]

    def beyond(self, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Rows past the end of the base's table, as they were before any was learned: the mean of all others."""
        before = self._source.rows
        if rows <= before:
            return
        mean = sum(values.sum(0, dtype=np.float64) for _, values in _blocks(self._source)) / before
        yield before, np.tile(np.asarray(mean, np.float32), (rows - before, 1))
