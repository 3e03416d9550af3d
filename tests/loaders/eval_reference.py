"""What llama.cpp's own helper computes for a text with images, on a context of its own: the reference for our runner."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from numpy.typing import NDArray

from modules.loaders.images import read_image
from tests.tiny_vision import VisionFiles

MARKER = "<__media__>"


class Reference:
    """A model and its projector, loaded apart from ours."""

    def __init__(self, files: VisionFiles) -> None:
        self._model = llama.llama_model_load_from_file(str(files.model).encode(), llama.llama_model_default_params())
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.n_threads = False, False, 1
        self._eyes = mtmd.mtmd_init_from_file(str(files.projector).encode(), self._model, params)
        assert self._eyes
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size = llama.llama_vocab_n_tokens(self._vocab)

    def chunks(self, text: str, images: Sequence[bytes]) -> Any:
        """The native chunks of a text with a marker for each image."""
        pictures = [read_image(image) for image in images]
        buffers = [(ctypes.c_uint8 * len(picture.rgb)).from_buffer_copy(picture.rgb) for picture in pictures]
        bitmaps = [mtmd.mtmd_bitmap_init(p.width, p.height, buffer) for p, buffer in zip(pictures, buffers, strict=True)]
        raw = text.encode()
        source = mtmd.mtmd_input_text(text=raw, text_len=len(raw), add_special=False, parse_special=True)
        chunks = mtmd.mtmd_input_chunks_init()
        code = mtmd.mtmd_tokenize(self._eyes, chunks, ctypes.byref(source), (ctypes.c_void_p * max(1, len(bitmaps)))(*bitmaps), len(bitmaps))
        assert code == 0
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        return chunks

    def shape(self, text: str, images: Sequence[bytes]) -> list[int]:
        """Text token ids, and -1 for each position of an image."""
        chunks, ids = self.chunks(text, images), []
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            count = ctypes.c_size_t()
            if mtmd.mtmd_input_chunk_get_type(chunk) == 0:
                ids += mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))[: count.value]
            else:
                ids += [-1] * mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        mtmd.mtmd_input_chunks_free(chunks)
        return ids

    def logits(self, text: str, images: Sequence[bytes], then: Sequence[int] = ()) -> NDArray[np.float32]:
        """Logits [vocab] after the text and then some tokens."""
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
        context = llama.llama_init_from_model(self._model, params)
        chunks = self.chunks(text, images)
        end = ctypes.c_int32()
        code = mtmd.mtmd_helper_eval_chunks(self._eyes, context, chunks, 0, 0, 256, True, ctypes.byref(end))
        assert code == 0
        position = end.value
        for token in then:
            batch = llama.llama_batch_init(1, 0, 1)
            batch.n_tokens, batch.token[0], batch.pos[0], batch.n_seq_id[0] = 1, token, position, 1
            batch.seq_id[0][0], batch.logits[0] = 0, 1
            assert llama.llama_decode(context, batch) == 0
            llama.llama_batch_free(batch)
            position += 1
        found = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (self.vocab_size,)).copy()
        mtmd.mtmd_input_chunks_free(chunks)
        llama.llama_free(context)
        return found
