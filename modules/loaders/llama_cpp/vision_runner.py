"""The llama.cpp runner of a model that sees: rows may have positions of images among their tokens.

An image is read when its last position has come; until then its positions are held, and nothing of it is in memory. So a slot can be cut,
copied or left at any length. What a slot holds is counted in ids, llama.cpp counts positions: an image can take fewer of those. Rows
without images over slots without images go straight to the text runner.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, ContextOverflow, InvalidRequest
from modules.core.model import Row
from modules.loaders.image_places import Held, Placed
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.projector import Projector, library
from modules.loaders.llama_cpp.runner import LlamaCppRunner


class VisionRunner(LlamaCppRunner):
    """`LlamaCppRunner` with a projector, which it frees."""

    def __init__(
        self, context: int, model: int, options: LlamaCppOptions, context_length: int, on_close: Callable[[], None], projector: Projector
    ) -> None:
        super().__init__(context, model, options, context_length, on_close)
        self._projector = projector
        self._held: dict[int, Held] = {}  # slots with images; in the others ids are positions
        self._nothing: NDArray[np.float32] = np.zeros(self.vocab_size, np.float32)
        self._nothing.flags.writeable = False

    def forward(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """As in `LlamaCppRunner`. A row that ends within an image, or right behind it, has a row of zeros instead of logits."""
        if not any(row.slot in self._held or max(row.token_ids, default=0) >= self.vocab_size for row in rows):
            return super().forward(rows)
        self._check_open()
        after = {row.slot: self._after(row) for row in rows}
        before = {row.slot: self._lengths[row.slot] for row in rows}
        if sum(len(row.token_ids) for row in rows) > self.max_batch_tokens or len(after) != len(rows):
            raise InvalidRequest(f"These {len(rows)} rows are not one step; the limit is {self.max_batch_tokens} tokens, one row a slot.")
        try:
            last = [self._run_images(row, after[row.slot]) for row in rows]
            logits = iter(super().forward([row for row in last if row is not None]) if any(last) else ())
        except BaseException as error:
            self._undo(before, error)
            raise
        self._held.update((slot, held) for slot, held in after.items() if held.images)
        return [self._nothing if rest is None else next(logits) for row, rest in zip(rows, last, strict=True) for _ in range(row.outputs)]

    def _after(self, row: Row) -> Held:
        """What the slot of a row will hold.

        Raises:
            InvalidRequest: the row does not go on where the slot ends, or an image in it is not whole.
        """
        held = self._held.get(row.slot) or Held(self._lengths[row.slot] if 0 <= row.slot < self.n_slots else -1)
        if row.start != held.length or not row.token_ids:
            raise InvalidRequest(f"Slot {row.slot} holds {held.length} tokens, so it cannot go on at {row.start}.")
        end = row.start + len(row.token_ids)
        if end > self.context_length:
            raise ContextOverflow(f"{end} tokens are more than the context of {self.context_length}.")
        return held.grown(row.token_ids)

    def _run_images(self, row: Row, after: Held) -> Row | None:
        """Run a row up to its last complete image; the text that remains, to be run with the other rows, or None."""
        begin, end = row.start, row.start + len(row.token_ids)
        for image in after.images:
            if image.end <= row.start:
                continue
            if image.start > begin:
                super().forward([Row(row.slot, after.position(begin), row.token_ids[begin - row.start : image.start - row.start])])
            if image.end > end:
                return None
            self._read(row.slot, image, after.position(image.start))
            begin = image.end
        if begin == end:
            return None
        text = row.token_ids[begin - row.start :]
        if row.outputs > len(text):
            raise InvalidRequest("There are no logits within an image.")
        return dataclasses.replace(row, start=after.position(begin), token_ids=text)

    def _read(self, slot: int, image: Placed, position: int) -> None:
        """Put an image into memory."""
        binding = library()
        seen = self._projector.embeddings(image.picture, image.part)
        end = ctypes.c_int32()
        code = int(
            binding.mtmd_helper_decode_image_chunk(
                self._projector.context, self._context, image.chunk.native, seen.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                position, slot, self.max_batch_tokens, ctypes.byref(end), binding.mtmd_helper_post_decode_callback(0), None,
            )
        )  # fmt: skip
        self._finish(code)
        self._lengths[slot] = position + image.chunk.n_positions

    def _undo(self, before: dict[int, int], error: BaseException) -> None:
        """Give a failed step's slots back what they held.

        Raises:
            AppError: this kind of model cannot forget a part; its slots are empty then.
        """
        lost = False
        for slot, length in before.items():
            self._lengths[slot] = length
            lost |= not self._binding.llama_memory_seq_rm(self._memory, slot, length or -1, -1)
        if lost:
            for slot in range(self.n_slots):
                self.truncate(slot, 0)
            raise AppError("A step failed half-way, and this model cannot go back by one; send the message again.") from error

    def truncate(self, slot: int, length: int) -> int:
        """As in `LlamaCppRunner`. A cut through an image keeps the positions before the cut, to be completed or cut later."""
        held = self._held.get(slot)
        if held is None:
            return super().truncate(slot, length)
        if length >= held.length > 0:
            return held.length
        position = held.position(length)
        kept = super().truncate(slot, position)
        del self._held[slot]
        if kept != position or not length:
            super().truncate(slot, 0)
            return 0
        self._hold(slot, held.cut(length))
        return length

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """As in `LlamaCppRunner`."""
        held = self._held.get(source)
        if held is None:
            return super().copy_prefix(source, target, length)
        self.truncate(target, 0)
        if not 0 < length <= held.length or not super().copy_prefix(source, target, held.position(length)):
            return False
        self._hold(target, held.cut(length))
        return True

    def mark(self, slot: int) -> None:
        """As in `LlamaCppRunner`; not with images, where ids are no positions."""
        if slot not in self._held:
            super().mark(slot)

    def cuts(self, slot: int) -> tuple[int, ...]:
        """As in `LlamaCppRunner`; none with images."""
        return () if slot in self._held else super().cuts(slot)

    def state_bytes(self, slot: int) -> int:
        """As in `LlamaCppRunner`. A slot with images is not saved: a state says nothing of an image that is still to be completed."""
        return 0 if slot in self._held else super().state_bytes(slot)

    def _hold(self, slot: int, held: Held) -> None:
        if held.images:
            self._held[slot] = held
