"""What a model is expected to take and how fast it is expected to write on this machine, for given options: the formulas and what was measured.

Pure functions over headers that were read. Knows no hub, no page and no record of earlier loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from modules.loaders.fit import Needs
from modules.loaders.folder_header import read_folder_header
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp import memory as llama_cpp_memory
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.threads import LARGE_BYTES, fastest_of_large, fastest_threads, large_counts
from modules.loaders.machine import usable_cores
from modules.loaders.measured import REPLY_CONTEXT_TOKENS, Measured
from modules.loaders.model_info import gguf_parts
from modules.loaders.shape import Shape, folder_shape, gguf_shape
from modules.loaders.transformers import memory as transformers_memory
from modules.loaders.transformers.options import TransformersOptions


@dataclass(frozen=True)
class Expected:
    """One model under one loader with its options; `measured` is None while this machine has not been measured."""

    shape: Shape
    loader: str
    options: Mapping[str, Any]
    dtype: str  # of a folder's numbers
    measured: Measured | None
    on_gpu: bool = False  # whether a part of it would lie on a graphics card
    wide: bool | None = None  # whether its weights are held in 8 bits; None: as they would be now
    mapped: bool | None = None  # whether its file is mapped; likewise

    @cached_property
    def held(self) -> Shape:
        """The model as it is held."""
        if self.loader != "llama.cpp":
            return self.shape
        if self.wide is not None:
            return self.shape.widened() if self.wide and self.shape.widens else self.shape
        return llama_cpp_memory.held_shape(self.shape, LlamaCppOptions(**self.options), on_gpu=self.on_gpu)

    @cached_property
    def settled(self) -> LlamaCppOptions | TransformersOptions:
        """The options with the number of slots: as set, or as the loader would choose it now for the model alone, without a projector."""
        if self.loader == "llama.cpp":
            asked = LlamaCppOptions(**self.options)
            if self.on_gpu:
                return asked.model_copy(update={"slots": asked.counted_slots})
            return llama_cpp_memory.with_slots(self.shape, asked, partial(self._of_gguf, self.shape), may_be_apart=not asked.draft_model)[0]
        folder = TransformersOptions(**self.options)
        if self.on_gpu:
            return folder.model_copy(update={"slots": folder.counted_slots})
        default = transformers_memory.DEFAULT_CONTEXT_TOKENS
        trained = self.shape.trained_tokens or default
        return transformers_memory.with_slots(folder, self._of_folder, min(folder.context_length or default, trained))[0]

    @property
    def needs(self) -> Needs:
        """Memory of the engine's process."""
        settled = self.settled
        if isinstance(settled, TransformersOptions):
            return self._of_folder(settled)
        mapped = llama_cpp_memory.is_mapped(self.held, settled, on_gpu=self.on_gpu) if self.mapped is None else self.mapped
        copied = self.measured.copied_bytes(self.shape) if self.measured and mapped else 0
        return self._of_gguf(self.held, settled, copied if self.held is self.shape else 0)

    def _of_gguf(self, shape: Shape, options: LlamaCppOptions, copied_bytes: int = 0) -> Needs:
        process_bytes = self.measured.process_bytes if self.measured else llama_cpp_memory.PROCESS_BYTES
        return llama_cpp_memory.estimate(shape, options, process_bytes=process_bytes, copied_bytes=copied_bytes)

    def _of_folder(self, options: TransformersOptions) -> Needs:
        process_bytes = self.measured.process_bytes if self.measured else transformers_memory.PROCESS_BYTES
        return transformers_memory.estimate(self.shape, options, self.dtype, process_bytes=process_bytes)

    @property
    def threads(self) -> int:
        """For writing: as set, or as the loader will choose."""
        asked, cores = int(self.options.get("threads") or 0), usable_cores()
        if asked or cores == 1:
            return asked or 1
        if self.loader != "llama.cpp":
            return 1 if self.shape.parameters < transformers_memory.SMALL_PARAMETERS else cores
        if self.measured is None:
            return cores
        measured = self.measured

        def step_times(count: int, _worth_s: float = 0.0) -> tuple[float, float]:
            seconds = measured.pace(count).seconds(self.held, self.held.stored_bytes, 0)
            return seconds, seconds

        if self.shape.stored_bytes >= LARGE_BYTES:
            return fastest_of_large({count: step_times(count)[0] for count in large_counts(cores)})
        return fastest_threads(step_times, cores).decode

    def tokens_per_s(self, tokens: int = REPLY_CONTEXT_TOKENS) -> float:
        """Of one reply after so many tokens; 0 while this machine has not been measured."""
        if self.measured is None:
            return 0.0
        weights = self.held.stored_bytes
        if self.loader != "llama.cpp":
            weights = transformers_memory.weights_bytes(self.shape, TransformersOptions(**self.options), self.dtype)
        return self.measured.tokens_per_s(self.held, weights, self.threads, tokens)


def local_shape(path: Path) -> Shape:
    """The shape of a model on the disk.

    Raises:
        UnsupportedFormat: it is broken.
    """
    if path.is_dir():
        return folder_shape(read_folder_header(path))
    headers = [read_gguf_header(part) for part in gguf_parts(path)]
    return gguf_shape(headers, sum(header.size_bytes for header in headers))
