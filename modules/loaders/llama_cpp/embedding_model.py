"""Loading a GGUF file that only makes vectors (BERT and its kin): the sizes of its context, and the context itself.

Runs in the engine's child process. Such a model reads a whole text at once, so its longest text decides what it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules.core.errors import LoadFailed, UnsupportedFormat
from modules.core.model import LoadedModel, ModelInfo
from modules.loaders.gguf_header import GgufHeader
from modules.loaders.llama_cpp.c_api import FLASH_ATTENTION, library
from modules.loaders.llama_cpp.embedder import PASS_TEXTS, PASS_TOKENS, ContextEmbedder
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.tokenizer import LlamaCppTokenizer
from modules.loaders.machine import check_memory, usable_cores
from modules.loaders.pooling import RANK, VectorsOnly, gguf_recipe

DEFAULT_TOKENS = 2048  # of the longest text: what a text takes grows with the square of its length
TRAINED_TOKENS = 512  # where the file does not say
WORK_BYTES = 96 << 20  # of a small model besides its weights


def longest_text(header: GgufHeader, options: LlamaCppOptions) -> tuple[int, tuple[str, ...]]:
    """Tokens of the longest text, never beyond what the model has positions for, and a note where it is less than was asked for."""
    trained = max(1, header.number("context_length") or TRAINED_TOKENS)
    length = min(trained, options.context_length or DEFAULT_TOKENS)
    if options.context_length > trained:
        return length, (f"Texts have at most {trained} tokens: all this model was trained for.",)
    if not options.context_length and length < trained:
        return length, (f"Texts have at most {length} tokens; set context_length up to {trained} for longer ones, which takes memory.",)
    return length, ()


def needed_bytes(header: GgufHeader, vocabulary: int, size_bytes: int, length: int) -> int:
    """What a pass of the longest text takes: llama.cpp keeps a row of logits for each token, and the scores of each head."""
    tokens = max(length, PASS_TOKENS)
    width, inner, heads = header.number("embedding_length"), header.number("feed_forward_length"), max(1, header.number("attention.head_count"))
    return size_bytes + WORK_BYTES + 4 * tokens * (vocabulary + 8 * width + 2 * inner) + 4 * tokens * tokens * heads


def check_embedding_model(header: GgufHeader, info: ModelInfo, options: LlamaCppOptions, weights_bytes: int) -> None:
    """Before it is read, with so many bytes of weights in memory.

    Raises:
        UnsupportedFormat: it ranks pairs of texts and makes no vectors.
        OutOfMemory: it does not fit.
    """
    if header.number("pooling_type") == RANK:
        raise UnsupportedFormat(f"{header.path.name} ranks pairs of texts and makes no vectors; choose an embedding model.")
    length, _ = longest_text(header, options)
    check_memory(needed_bytes(header, info.vocab_size, weights_bytes, length), header.path.name, "set a smaller context_length or close programs")


def embedding_model(model: int, header: GgufHeader, info: ModelInfo, options: LlamaCppOptions, refuse: Callable[[], LoadFailed]) -> LoadedModel:
    """The model around weights that were read; it owns them from now on.

    Raises:
        LoadFailed: llama.cpp makes no context for it, or this kind has another structure.
    """
    binding = library()
    if binding.llama_model_has_encoder(model) or not binding.llama_model_has_decoder(model):
        raise UnsupportedFormat(f"{header.path.name} ({header.architecture}) has a structure that Paddock does not run; choose another embedding model.")
    length, notes = longest_text(header, options)
    context = binding.llama_init_from_model(model, _context_params(max(length, PASS_TOKENS), options))
    if not context:
        raise refuse()
    tokenizer = LlamaCppTokenizer(binding.llama_model_get_vocab(model), length)
    embedder = ContextEmbedder(int(context), model, tokenizer, gguf_recipe(header), length, on_close=lambda: binding.llama_model_free(model))
    runner = VectorsOnly(embedder, tokenizer.vocab_size, info.name)
    return LoadedModel(runner=runner, tokenizer=tokenizer, info=info, embedder=embedder, notes=notes)


def _context_params(tokens: int, options: LlamaCppOptions) -> Any:
    binding = library()
    params = binding.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens  # a text is never read in parts
    params.n_seq_max = PASS_TEXTS
    params.kv_unified = True
    params.embeddings = True
    params.pooling_type = binding.LLAMA_POOLING_TYPE_NONE
    params.no_perf = True
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.n_threads = params.n_threads_batch = options.threads_batch or options.threads or usable_cores()
    return params
