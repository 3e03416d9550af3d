"""The batching transformers runner of a model that sees: rows may have positions of images among their tokens.

The library's own code puts what was read at an image in the place of its tokens; which places those are, how they are counted and whom they see is
said here. Where the tokens of an image see each other, it is read when its last position has come, and until then its positions are held. Rows
without images over slots without images go straight to the text runner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import InvalidRequest
from modules.core.model import ImageToken, Row
from modules.loaders.image_places import Held, Placed
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.runner import SlotRunner
from modules.loaders.transformers.sight import Sight

if TYPE_CHECKING:
    import torch


class SeeingRunner(SlotRunner):
    """`SlotRunner` with eyes."""

    def __init__(self, network: Network, slots: int, batch_tokens: int, sight: Sight) -> None:
        super().__init__(network, slots, batch_tokens)
        self._sight = sight
        self._held: dict[int, Held] = {}  # slots with images; in the others ids are positions
        self._stepping: dict[int, Held] = {}  # what slots will hold after the step that runs now
        self._nothing: NDArray[np.float32] = np.zeros(self.vocab_size, np.float32)
        self._nothing.flags.writeable = False

    def forward(self, rows: Sequence[Row]) -> list[Any]:
        """As in `SlotRunner`. A row that ends where an image cannot be read yet has a row of zeros instead of logits."""
        if not any(row.slot in self._held or max(row.token_ids, default=0) >= self.vocab_size for row in rows):
            return super().forward(rows)
        self._check([_with_ids(row, 0) for row in rows])
        after = {row.slot: (self._held.get(row.slot) or Held(row.start)).grown(row.token_ids) for row in rows}
        ready = [self._ready(row, after[row.slot]) for row in rows]
        self._stepping = after
        try:
            logits = iter(self._run([row for row in ready if row is not None]))
        finally:
            self._stepping = {}
        self._held.update((slot, held) for slot, held in after.items() if held.images)
        found: list[Any] = []
        for row, run in zip(rows, ready, strict=True):
            entries = next(logits) if run is not None else []
            complete = run is not None and self._lengths[row.slot] == row.start + len(row.token_ids)
            found += entries if complete else [self._nothing] * row.outputs
        return found

    def _ready(self, row: Row, after: Held) -> Row | None:
        """The ids of a slot that can be run now, as the model knows them: from what was run before up to an image that is not complete."""
        begin, end = self._lengths[row.slot], self._computed(after)
        if end <= begin:
            return None
        whole = end == row.start + len(row.token_ids)
        if not whole and row.outputs > 1:
            raise InvalidRequest("There are no logits within an image.")
        ids = [self._sight.image_token] * (row.start - begin) + list(_with_ids(row, self._sight.image_token).token_ids)
        return dataclasses.replace(row, start=begin, token_ids=ids[: end - begin])

    def _is_plain_step(self, rows: Sequence[Row]) -> bool:
        return not self._stepping and super()._is_plain_step(rows)

    def _computed(self, held: Held) -> int:
        """How many ids of a slot are in the cache."""
        unfinished = held.unfinished if self._sight.is_whole else None
        return held.length if unfinished is None else unfinished.start

    def _inputs(self, rows: Sequence[Row], ids: NDArray[np.int64], where: torch.Tensor, length: int) -> dict[str, Any]:
        inputs = super()._inputs(rows, ids, where, length)
        helds = [self._stepping.get(row.slot, Held(row.start)) for row in rows]
        if not any(held.images for held in helds):
            return inputs
        width = ids.shape[1]
        if self._has_grids(helds):
            inputs["position_ids"] = self._grids(rows, helds, width, where.device)
        fresh = [
            [image for image in held.images if image.start < row.start + len(row.token_ids) and image.end > row.start]
            for row, held in zip(rows, helds, strict=True)
        ]
        if any(fresh):
            if self._sight.is_whole:
                inputs["attention_mask"] = self._network.mask(where, length, self._together(helds, where, length))
            inputs["mm_encoder_outputs"] = {"image": self._read(rows, fresh, ids)}
        return inputs

    @staticmethod
    def _has_grids(helds: Sequence[Held]) -> bool:
        return any(image.chunk.grid is not None for held in helds for image in held.images)

    @staticmethod
    def _grids(rows: Sequence[Row], helds: Sequence[Held], width: int, device: Any) -> torch.Tensor:
        """Positions in every direction [axes, rows, width]; those of words are the same in all."""
        import torch

        axes = next(image.chunk.grid.shape[0] for held in helds for image in held.images)
        places = np.zeros((axes, len(rows), width), np.int64)
        for number, (row, held) in enumerate(zip(rows, helds, strict=True)):
            count = len(row.token_ids)
            places[:, number, width - count :] = _positions(held, row.start, row.start + count, axes)
        return torch.from_numpy(places).to(device)

    def _together(self, helds: Sequence[Held], where: torch.Tensor, length: int) -> torch.Tensor:
        """Which keys are in the same image as a token: [rows, 1, tokens, length]."""
        torch = self._network.torch
        images = np.full((len(helds), length), -1, np.int64)
        for number, held in enumerate(helds):
            for count, image in enumerate(held.images):
                images[number, image.start : min(image.end, length)] = count
        keys = torch.from_numpy(images).to(where.device)
        queries = keys.gather(1, where)
        return (queries[:, None, :, None] == keys[:, None, None, :]) & (queries >= 0)[:, None, :, None]

    def _read(self, rows: Sequence[Row], fresh: Sequence[Sequence[Placed]], ids: NDArray[np.int64]) -> Any:
        """What was read at the images of a pass, in the order of their tokens; where a word is the token of images, the word itself."""
        network, sight = self._network, self._sight
        tables: list[list[Any]] = []
        for number, (row, images) in enumerate(zip(rows, fresh, strict=True)):
            own = ids[number, ids.shape[1] - len(row.token_ids) :] == sight.image_token
            if not own.any():
                continue
            word = network.model.get_input_embeddings()(network.torch.tensor([sight.image_token], device=network.device))
            layers = [word.repeat(len(own), 1)]
            for image in images:
                self._put(layers, image, row)
            chosen = network.torch.from_numpy(np.flatnonzero(own)).to(network.device)
            tables.append([layer[chosen] for layer in layers])
        depth = max(map(len, tables))
        return sight.handed([network.torch.cat([_layer(table, index) for table in tables]) for index in range(depth)])

    def _put(self, layers: list[Any], image: Placed, row: Row) -> None:
        """Put what was read at an image into its places of a row; deeper layers have nothing elsewhere."""
        chunk, features = image.chunk, self._sight.features(image.picture)
        begin, end = max(image.start, row.start), min(image.end, row.start + len(row.token_ids))
        part = slice(chunk.begin + begin - image.start, chunk.begin + end - image.start)
        while len(layers) < len(features):
            layers.append(layers[0].new_zeros(layers[0].shape))
        for layer, feature in zip(layers, features, strict=True):
            layer[begin - row.start : end - row.start] = feature[part]

    def _held_length(self, slot: int) -> int:
        held = self._held.get(slot)
        return held.length if held is not None else self._lengths[slot]

    def truncate(self, slot: int, length: int) -> int:
        """As in `SlotRunner`. A cut through an image keeps the positions before the cut, to be completed or cut later."""
        held = self._held.get(slot)
        if held is None:
            return super().truncate(slot, length)
        if length >= held.length:
            return held.length
        cut = held.cut(max(0, length))
        super().truncate(slot, self._computed(cut))
        self._hold(slot, cut)
        return cut.length

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """As in `SlotRunner`."""
        held = self._held.get(source)
        if held is None or source == target:
            return super().copy_prefix(source, target, length)
        self.truncate(target, 0)
        if not 0 < length <= held.length:
            return False
        cut = held.cut(length)
        if self._computed(cut) and not super().copy_prefix(source, target, self._computed(cut)):
            return False
        self._hold(target, cut)
        return True

    def state_bytes(self, slot: int) -> int:
        """As in `SlotRunner`. A slot with images is not saved: a state says nothing of where its images are."""
        return 0 if slot in self._held else super().state_bytes(slot)

    def _hold(self, slot: int, held: Held) -> None:
        self._held.pop(slot, None)
        if held.images:
            self._held[slot] = held

    def close(self) -> None:
        """As in `SlotRunner`, and what was read at images."""
        self._sight.close()
        super().close()


def _with_ids(row: Row, image_token: int) -> Row:
    """The row with one id for all places of images."""
    return dataclasses.replace(row, token_ids=[image_token if isinstance(token, ImageToken) else token for token in row.token_ids])


def _layer(table: Sequence[Any], index: int) -> Any:
    return table[index] if index < len(table) else table[0].new_zeros(table[0].shape)


def _positions(held: Held, begin: int, end: int, axes: int) -> NDArray[np.int64]:
    """Positions [axes, end - begin] of the ids from `begin` to `end` of a slot."""
    line = np.arange(begin, end)
    for image in held.images:
        line[max(0, image.end - begin) :] -= image.chunk.n_tokens - image.chunk.n_positions
    found = np.tile(line, (axes, 1))
    for image in held.images:
        low, high = max(begin, image.start), min(end, image.end)
        if low < high and image.chunk.grid is not None:
            found[:, low - begin : high - begin] = held.position(image.start) + image.chunk.grid[:, low - image.start : high - image.start]
    return found
