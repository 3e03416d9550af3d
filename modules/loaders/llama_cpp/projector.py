"""A vision projector (mmproj) beside a loaded model: image files to positions of a prompt, and to what the model reads there.

Knows libmtmd and image files; knows no slots and no text around an image. Two threads call it: the one that makes prompts, and the
engine's, which must never wait for an image that another prompt has to look at.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, InvalidRequest, OutOfMemory, UnsupportedFormat
from modules.core.model import ImageToken
from modules.loaders.image_memory import ImageMemory, images_of
from modules.loaders.images import Pixels, read_image
from modules.loaders.llama_cpp.c_api import FLASH_ATTENTION, NativeLog
from modules.loaders.llama_cpp.c_api import library as llama_library
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.machine import usable_cores

Size = TypeVar("Size")

TEXT, IMAGE = 0, 1  # mtmd_input_chunk_type


def library() -> Any:
    """The binding's module of libmtmd's functions; its import loads the shared library."""
    import llama_cpp.mtmd_cpp as binding

    return binding


class ImageChunk:
    """A part of an image that the model reads at once: `n_tokens` ids from `first` on, `n_positions` positions."""

    __slots__ = ("__weakref__", "first", "n_positions", "n_tokens", "native")

    def __init__(self, native: int, first: int) -> None:
        binding = library()
        self.native = native  # knows sizes and positions, no pixels
        self.first = first
        self.n_tokens = int(binding.mtmd_input_chunk_get_n_tokens(native))
        self.n_positions = int(binding.mtmd_input_chunk_get_n_pos(native))
        weakref.finalize(self, binding.mtmd_input_chunk_free, native).atexit = False


class Picture:
    """An image file and what stands for it in a prompt. Alive as long as its ids are, or while it is kept."""

    def __init__(self, file: bytes) -> None:
        self.file = file
        self.chunks: list[ImageChunk] = []
        self._parts: list[list[int] | int] = []  # text around the image, and places among the chunks

    def add_text(self, token_ids: list[int]) -> None:
        """Tokens that the model wants around an image or between its parts."""
        self._parts.append(token_ids)

    def add_chunk(self, chunk: ImageChunk) -> None:
        """The next part of the image."""
        self._parts.append(len(self.chunks))
        self.chunks.append(chunk)

    def ids(self) -> list[int]:
        """The positions of a prompt; each holds the picture, which does not hold them."""
        tokens: list[int] = []
        for part in self._parts:
            if isinstance(part, list):
                tokens += part
                continue
            chunk = self.chunks[part]
            for number in range(chunk.first, chunk.first + chunk.n_tokens):
                token = ImageToken(number)
                token.image, token.part = self, part
                tokens.append(token)
        return tokens


class Projector:
    """One libmtmd context."""

    def __init__(self, path: Path, model: int, options: LlamaCppOptions, log: NativeLog) -> None:
        binding = self._binding = library()
        llama = llama_library()
        log.include(binding.mtmd_helper_log_set)
        log.listen()
        try:
            self.context = binding.mtmd_init_from_file(str(path).encode(), model, _parameters(options))
        finally:
            log.silence()
        if not self.context:
            raise UnsupportedFormat(
                f"{path.name} cannot be used with this model: {log.errors() or 'llama.cpp gave no reason'}. Put the projector beside it that was "
                "made for it, or set mmproj to none."
            )
        self._width = int(llama.llama_model_n_embd_inp(model))
        # Where the tokens of an image see each other, none of them can wait for the next batch
        self._longest_chunk = options.computed_tokens if binding.mtmd_decode_use_non_causal(self.context, None) else 0
        self._next = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))
        self._memory: ImageMemory[Picture, tuple[NDArray[np.float32], ...]] = ImageMemory()

    def image_ids(self, file: bytes) -> list[int]:
        """The ids of an image file, see `ImageReader`."""
        return self._memory.picture(file, self._new_picture).ids()

    def look(self, token_ids: Sequence[int]) -> None:
        """Look at those images that were not looked at lately."""
        for picture in images_of(token_ids):
            self._look_at(picture)

    def embeddings(self, picture: Picture, part: int) -> NDArray[np.float32]:
        """What the model reads at a part of an image [n_tokens, width]."""
        return self._look_at(picture)[part]

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        with self._memory.using:
            context, self.context = self.context, 0
            if context:
                self._binding.mtmd_free(context)

    # ---- one image -------------------------------------------------------------------------------------------------

    def _new_picture(self, file: bytes) -> Picture:
        binding = self._binding
        picture = Picture(file)
        pixels = read_image(file)  # decoded as a whole, so that a damaged file is refused here
        with self._memory.using, self._chunks(pixels, empty=True) as chunks:
            for native in chunks:
                if binding.mtmd_input_chunk_get_type(native) == TEXT:
                    count = ctypes.c_size_t()
                    picture.add_text(binding.mtmd_input_chunk_get_tokens_text(native, ctypes.byref(count))[: count.value])
                    continue
                chunk = ImageChunk(binding.mtmd_input_chunk_copy(native), self._next)
                if chunk.n_tokens > self._longest_chunk > 0:
                    raise InvalidRequest(
                        f"This model reads the {chunk.n_tokens} tokens of an image at once, and it was loaded for {self._longest_chunk} tokens "
                        "in a step; load it with larger batch_tokens (and ubatch_tokens).",
                        field="messages",
                    )
                self._next += chunk.n_tokens
                picture.add_chunk(chunk)
        return picture

    def _look_at(self, picture: Picture) -> tuple[NDArray[np.float32], ...]:
        return self._memory.read(picture, self._looked)

    def _looked(self, picture: Picture) -> tuple[NDArray[np.float32], ...]:
        with self._chunks(read_image(picture.file)) as chunks:
            return tuple(self._encoded(chunk) for chunk in chunks if self._binding.mtmd_input_chunk_get_type(chunk) == IMAGE)

    def _encoded(self, chunk: int) -> NDArray[np.float32]:
        if self._binding.mtmd_encode_chunk(self.context, chunk) != 0:
            raise OutOfMemory("The model could not look at an image, most likely for lack of memory; send a smaller image, or unload other models.")
        shape = (int(self._binding.mtmd_input_chunk_get_n_tokens(chunk)), self._width)
        return np.ctypeslib.as_array(self._binding.mtmd_get_output_embd(self.context), shape).copy()

    @contextmanager
    def _chunks(self, pixels: Pixels, *, empty: bool = False) -> Iterator[Iterator[int]]:
        """The native parts of an image, valid inside the block; `empty` ones know their sizes only."""
        binding = self._binding
        if not self.context:
            raise AppError("This model was unloaded; load it again.")
        bytes_of = None if empty else ctypes.cast(ctypes.c_char_p(pixels.rgb), ctypes.POINTER(ctypes.c_uint8))
        bitmap = binding.mtmd_bitmap_init(pixels.width, pixels.height, bytes_of)
        chunks = binding.mtmd_input_chunks_init()
        try:
            part = binding.mtmd_input_part(bitmap=bitmap)
            parts = (ctypes.POINTER(binding.mtmd_input_part) * 1)(ctypes.pointer(part))
            if binding.mtmd_tokenize_from_parts(self.context, chunks, parts, 1, False) != 0:
                raise InvalidRequest(
                    f"This model cannot take an image of {pixels.width} × {pixels.height} pixels; send one of another size.", field="messages"
                )
            yield (binding.mtmd_input_chunks_get(chunks, index) for index in range(binding.mtmd_input_chunks_size(chunks)))
        finally:
            binding.mtmd_input_chunks_free(chunks)
            binding.mtmd_bitmap_free(bitmap)


def _parameters(options: LlamaCppOptions) -> Any:
    params = library().mtmd_context_params_default()
    params.use_gpu = options.gpu_layers != 0
    params.print_timings = False
    params.n_threads = options.threads_batch or usable_cores()
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.image_max_tokens = options.image_tokens or -1
    return params
