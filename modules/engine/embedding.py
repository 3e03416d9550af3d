"""Texts to vectors, or to their log-probabilities, on an engine: checked, in passes between the steps of those who write, cut and normalised.

Knows the engine and a model's embedder; knows no process and no back end. Called by the thread that waits for the engine, never by the engine's own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from modules.core.errors import ContextOverflow, InvalidRequest, NotOffered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modules.core.generation import EmbeddingRequest
    from modules.core.model import Adapter, Embedder, LoadedModel
    from modules.engine.engine import Engine


def check_writes(model: LoadedModel, name: str) -> None:
    """Before text is asked for.

    Raises:
        InvalidRequest: an embedding model.
    """
    if not model.info.can_write:
        raise InvalidRequest(
            f"{name} is an embedding model: it turns texts into vectors (POST /v1/embeddings) and writes none. Choose another model.", field="model"
        )


def check_wanted(is_over: Callable[[], bool]) -> None:
    """Before more is computed.

    Raises:
        InvalidRequest: nobody waits for it any more.
    """
    if is_over():
        raise InvalidRequest("The request was cancelled.")


def while_wanted(done: Callable[[], None], is_over: Callable[[], bool]) -> Callable[[], None]:
    """What is called after each chunk of a text, and ends the work where nobody waits for it any more."""

    def chunk_done() -> None:
        check_wanted(is_over)
        done()

    return chunk_done


def embedding_ids(model: LoadedModel, name: str, request: EmbeddingRequest, first: int = 0) -> list[list[int]]:
    """The token ids of each text, with what the model wants around it; ids that were given stay as they are. `first` is the number of the first text.

    Raises:
        NotOffered: a model that makes no vectors.
        ContextOverflow: a text is too long.
        InvalidRequest: a text is empty, or an id unknown.
    """
    embedder = model.embedder
    if embedder is None:
        raise NotOffered(f"{name} makes no vectors; load an embedding model.")
    limit = min(embedder.context_length, model.runner.capacity_tokens)
    found = []
    for place, text in enumerate(request.inputs, first):
        ids = embedder.encode(text) if isinstance(text, str) else list(text)
        if not ids:
            raise InvalidRequest(f"Text {place + 1} is empty; write at least one word.", field="input")
        if len(ids) > limit:
            raise ContextOverflow(
                f"Text {place + 1} has {len(ids)} tokens and {name} reads at most {limit}; send shorter pieces.", limit=limit, got=len(ids), field="input"
            )
        if min(ids) < 0 or max(ids) >= model.runner.vocab_size:
            raise InvalidRequest(f"Text {place + 1} has a token id that is not in the vocabulary: 0 to {model.runner.vocab_size - 1}.", field="input")
        found.append(ids)
    return found


def embed(engine: Engine, embedder: Embedder, texts: Sequence[list[int]], request: EmbeddingRequest, is_over: Callable[[], bool] = lambda: False) -> list[bytes]:
    """The vectors in the order of the texts, as little-endian 32-bit floats; asked at each pass and chunk whether anybody still wants them.

    Raises:
        InvalidRequest: more dimensions than the vectors have, or nobody does.
        OutOfMemory: no room.
    """
    chunk_done = while_wanted(engine.chunk_done, is_over)
    pooling = request.pooling or embedder.pooling
    normalizes = embedder.normalizes if request.normalize is None else request.normalize
    vectors: dict[int, bytes] = {}
    for places in _passes(texts, embedder):
        check_wanted(is_over)
        group = [texts[place] for place in places]
        room = sum(map(len, group)) if embedder.in_slot else 0
        made = engine.lend(partial(embedder.embed, group, pooling, chunk_done), room, request.adapters or ())
        for place, vector in zip(places, _finished(made, request.dimensions, normalizes), strict=True):
            vectors[place] = vector.tobytes()
    return [vectors[place] for place in range(len(texts))]


def told_vectors(engine: Engine, model: LoadedModel, texts: Sequence[list[int]], request: EmbeddingRequest, is_over: Callable[[], bool]) -> dict[str, Any]:
    """The answer to the web process: vectors as text, their tokens, and how they were made."""
    embedder = model.embedder
    assert embedder is not None
    vectors = embed(engine, embedder, texts, request, is_over)
    return {
        "vectors": [base64.b64encode(vector).decode("ascii") for vector in vectors],
        "tokens": sum(map(len, texts)),
        "pooling": request.pooling or embedder.pooling,
        "normalized": request.dimensions is not None or (embedder.normalizes if request.normalize is None else request.normalize),
    }


def scored(engine: Engine, token_ids: Sequence[int], adapters: Sequence[Adapter], is_over: Callable[[], bool]) -> list[float]:
    """Log-probability of each token after the first, given those before it."""
    check_wanted(is_over)
    return engine.score(token_ids, adapters, while_wanted(engine.chunk_done, is_over))


def _passes(texts: Sequence[list[int]], embedder: Embedder) -> Iterator[list[int]]:
    """Places of texts that are read together: of like length, so that little is padded."""
    group: list[int] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        longest = len(texts[place])  # they come by length
        if group and (len(group) == embedder.batch_texts or longest * (len(group) + 1) > embedder.batch_tokens):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _finished(vectors: NDArray[np.float32], dimensions: int | None, normalizes: bool) -> NDArray[np.float32]:
    """The first dimensions only, of the length 1 where that is wanted: cut vectors always are."""
    size = vectors.shape[1]
    if dimensions is not None and dimensions > size:
        raise InvalidRequest(f"The vectors of this model have {size} dimensions, and {dimensions} were asked for.", field="dimensions")
    kept = np.ascontiguousarray(vectors[:, : dimensions or size], "<f4")
    if not np.isfinite(kept).all():
        raise InvalidRequest("The model made no numbers of this text; choose another model or precision.", field="input")
    if normalizes or dimensions is not None:
        lengths = np.linalg.norm(kept.astype(np.float64), axis=1, keepdims=True)
        kept = (kept / np.maximum(lengths, 1e-12)).astype("<f4")
    return kept
