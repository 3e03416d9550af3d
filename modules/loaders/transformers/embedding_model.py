"""Loading a folder that only makes vectors (BERT and its kin, with the files of sentence-transformers where they are there).

Runs in the engine's child process. The weights are read as those of any folder; what differs is what stands around them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import UnsupportedFormat
from modules.core.model import LoadedModel, ModelInfo
from modules.loaders.folder_header import FolderHeader, read_json
from modules.loaders.machine import check_memory
from modules.loaders.pooling import OFFSET_POSITIONS, VectorsOnly, folder_recipe
from modules.loaders.transformers.embedder import TransformersEmbedder
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from modules.loaders.transformers.network import Network
    from modules.loaders.transformers.tokenizer import TransformersTokenizer

log = logging.getLogger(__name__)

DEFAULT_TOKENS = 2048  # of the longest text: what a text takes grows with the square of its length
TRAINED_TOKENS = 512  # where the config does not say
WORK_BYTES = 256 << 20


def longest_text(header: FolderHeader, options: TransformersOptions) -> tuple[int, tuple[str, ...]]:
    """Tokens of the longest text, never beyond what the model has positions for, and a note where it is less than was asked for."""
    positions = header.number("max_position_embeddings", "n_positions") or TRAINED_TOKENS
    if header.config.get("model_type") in OFFSET_POSITIONS:
        positions -= header.number("pad_token_id") + 1
    positions = max(1, positions)
    length = min(positions, options.context_length or DEFAULT_TOKENS)
    if options.context_length > positions:
        return length, (f"Texts have at most {positions} tokens: all this model was trained for.",)
    if not options.context_length and length < positions:
        return length, (f"Texts have at most {length} tokens; set context_length up to {positions} for longer ones, which takes memory.",)
    return length, ()


def check_embedding_model(header: FolderHeader, number_bytes: int) -> None:
    """Before it is read.

    Raises:
        OutOfMemory: it does not fit.
    """
    check_memory(header.parameters * number_bytes + WORK_BYTES, header.path.name, "choose a smaller model or close programs")


def embedding_model(path: Path, model: Any, config: Any, header: FolderHeader, info: ModelInfo, options: TransformersOptions) -> LoadedModel:
    """The model around weights that were read.

    Raises:
        UnsupportedFormat: its tokenizer cannot be read, or it pools in a way that Paddock has not.
    """
    length, notes = longest_text(header, options)
    tokenizer = read_tokenizer(path, config, length)
    embedder = TransformersEmbedder(lambda: model, tokenizer, length, folder_recipe(path, read_json), model.device)
    vocab_size = int(getattr(config.get_text_config(), "vocab_size", tokenizer.vocab_size))
    return LoadedModel(runner=VectorsOnly(embedder, vocab_size, info.name), tokenizer=tokenizer, info=info, embedder=embedder, notes=notes)


def writers_embedder(path: Path, network: Network, tokenizer: TransformersTokenizer) -> TransformersEmbedder | None:
    """Vectors of a model that writes; None where its files want a part that Paddock does not run."""
    inner = network.model.base_model
    try:
        recipe = folder_recipe(path, read_json)
    except UnsupportedFormat as error:
        log.warning("No vectors: %s", error.message)
        return None
    if inner is network.model:
        return None
    return TransformersEmbedder(lambda: network.model.base_model if network.model is not None else None, tokenizer, network.context_length, recipe, network.device)
