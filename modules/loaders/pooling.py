"""From the states of a text's tokens to one vector, and what the files of an embedding model say about it. Knows arrays and headers; loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest, UnsupportedFormat
from modules.core.model import Pooling, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from modules.core.model import Embedder
    from modules.loaders.gguf_header import GgufHeader

GGUF_POOLING: MappingProxyType[int, Pooling] = MappingProxyType({1: "mean", 2: "cls", 3: "last"})  # llama.h
RANK = 4
FOLDER_POOLING: MappingProxyType[str, Pooling] = MappingProxyType({
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
    "mean": "mean", "cls": "cls", "lasttoken": "last",
})  # fmt: skip
# Kinds of transformers that read a text in both directions and continue none
ENCODERS = frozenset({
    "albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert",
    "fnet", "funnel", "ibert", "jina_embeddings_v3", "layoutlm", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "nomic_bert",
    "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roformer", "splinter", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
})  # fmt: skip
# Of these the first positions are not for tokens
OFFSET_POSITIONS = frozenset({"camembert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"})
BOTH_WAYS = frozenset({"gemma-embedding", "llama-embed"})  # llama.cpp has these see a whole text at once without a word of it in the file


@dataclass(frozen=True)
class Recipe:
    """How a model's vectors are made."""

    pooling: Pooling = "mean"  # where the files say nothing
    normalizes: bool = True


def pool(states: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """One vector [size] of the states [tokens, size] of a text."""
    if pooling == "mean":
        return states.mean(0, dtype="float64").astype("float32")
    return states[0 if pooling == "cls" else -1].copy()


def embeds_only(header: GgufHeader) -> bool:
    """Whether a GGUF model only makes vectors."""
    return "bert" in header.architecture or header.architecture in BOTH_WAYS or header.metadata.get(f"{header.architecture}.attention.causal") is False


def gguf_recipe(header: GgufHeader) -> Recipe:
    """By the metadata of a GGUF file."""
    kind = header.number("pooling_type")
    return Recipe(GGUF_POOLING.get(kind, "mean"))


def is_encoder(config: Any) -> bool:
    """Whether a config.json describes a model that only makes vectors."""
    return config.get("model_type") in ENCODERS and not config.get("is_decoder")


def folder_recipe(folder: Path, read_json: Callable[[Path], Any]) -> Recipe:
    """By the files of sentence-transformers, where a folder has them.

    Raises:
        UnsupportedFormat: it pools in a way, or ends with a part, that Paddock has not.
    """
    listed = _modules(folder)
    pooling: Pooling = "mean"
    for name, kind in listed:
        if kind == "Pooling":
            pooling = _folder_pooling(folder, read_json(folder / name / "config.json"))
        elif kind not in ("Transformer", "Normalize"):
            raise UnsupportedFormat(f"{folder.name} ends with a part of the kind {kind[:40]}, which Paddock does not run; use a GGUF version of it.")
    return Recipe(pooling, normalizes=not listed or any(kind == "Normalize" for _, kind in listed))


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Folder and kind of the parts that modules.json lists."""
    import json

    file = folder / "modules.json"
    if not file.is_file() or file.stat().st_size > 1 << 20:
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        listed = [(str(row["path"]), str(row["type"]).rpartition(".")[2]) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnsupportedFormat(f"{folder.name}/modules.json is not in order; download it again.") from None
    if any(".." in name or "/" in name or "\\" in name for name, _ in listed):
        raise UnsupportedFormat(f"{folder.name}/modules.json names a part outside of its folder; do not trust this model.")
    return listed


def _folder_pooling(folder: Path, config: Any) -> Pooling:
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    if len(chosen) != 1 or chosen[0] not in FOLDER_POOLING:
        raise UnsupportedFormat(f"{folder.name} pools in a way that Paddock has not ({', '.join(chosen)[:80] or 'none'}); use another model.")
    return FOLDER_POOLING[chosen[0]]


class VectorsOnly:
    """Stands where a runner stands, for a model that continues no text: holds the model and refuses to write."""

    n_slots = max_batch_tokens = max_outputs = 1
    tile_rows = 0
    mixes_slots, keeps_parts, can_mark = True, False, False

    def __init__(self, embedder: Embedder, vocab_size: int, name: str) -> None:
        self._embedder = embedder
        self._name = name
        self.context_length = self.capacity_tokens = embedder.context_length
        self.vocab_size = vocab_size

    def _refuse(self) -> InvalidRequest:
        return InvalidRequest(f"{self._name} is an embedding model and writes no text; choose another one.", field="model")

    def forward(self, rows: Sequence[Row]) -> list[Any]:
        """Refused.

        Raises:
            InvalidRequest: always.
        """
        raise self._refuse()

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Refused.

        Raises:
            InvalidRequest: always.
        """
        raise self._refuse()

    def truncate(self, slot: int, length: int) -> int:
        """Nothing is held."""
        return 0

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Nothing is held."""
        return False

    def mark_within(self, budget_bytes: int) -> int:
        """Nothing is held."""
        return budget_bytes

    def mark(self, slot: int) -> None:
        """Nothing is held."""

    def cuts(self, slot: int) -> tuple[int, ...]:
        """Nothing is held."""
        return ()

    def state_bytes(self, slot: int) -> int:
        """Nothing is held."""
        return 0

    def marks_bytes(self, slot: int) -> int:
        """Nothing is held."""
        return 0

    def save_state(self, slot: int) -> Any:
        """Nothing is held."""
        return None

    def restore_state(self, slot: int, state: Any, length: int) -> int:
        """Nothing is held."""
        return 0

    def drop_state(self, state: Any) -> None:
        """Nothing is held."""

    def ready_memory(self, sizes: Sequence[int]) -> bool:
        """Nothing is held."""
        return False

    def pack_state(self, state: Any) -> tuple[Any, list[NDArray[np.uint8]]]:
        """Nothing is held."""
        return None, []

    def unpack_state(self, form: Any, parts: list[NDArray[np.uint8]]) -> Any:
        """Nothing is held."""
        return None

    def close(self) -> None:
        """Give the model's memory back."""
        self._embedder.close()
