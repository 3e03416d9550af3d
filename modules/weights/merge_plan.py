"""What every tensor of a merged model is made of, decided from headers alone: the base's own, changed by a pair of weights, replaced, or grown.

Whatever an adapter holds has a place here or is refused with a sentence; nothing is left out silently. Reckons nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import UnsupportedFormat
from modules.loaders.adapter_config import CONFIG, PREFIX, WEIGHTS, check_adapter_config, pair_scale
from modules.loaders.folder_header import (
    DTYPE_BYTES,
    FolderHeader,
    read_folder_header,
    read_json,
    weight_files,
)
from modules.loaders.transformers.adapter_check import is_transposed, stored_name
from modules.weights.tensor_file import STORED, Promised, StoredTensor, stored_tensors

CURE = "use it unmerged, with its base model's safetensors folder and the transformers loader"
# Key of adapter_config.json → what it means, where there is no single matrix to merge into
UNMERGEABLE: Mapping[str, str] = MappingProxyType({
    "use_qalora": "pooled inputs (QALoRA)", "lora_bias": "biases of its own", "target_parameters": "trained expert parameters",
    "layer_replication": "repeated layers", "alora_invocation_tokens": "words that switch it on", "arrow_config": "a router",
    "use_bdlora": "block-diagonal weights", "kasa_config": "KaSA weights", "monteclora_config": "MonteCLoRA weights",
    "velora_config": "VeLoRA weights",
})  # fmt: skip
TABLES = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings", "embedding", "tok_embeddings"})
HEADS = frozenset({"lm_head", "embed_out", "output", "output_layer"})
PART = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)"
)
SIDES = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class Pair:
    """Two weights whose product is added to a matrix."""

    first: StoredTensor
    second: StoredTensor
    scale: float
    is_transposed: bool = False  # the matrix is stored as inputs × outputs
    magnitude: StoredTensor | None = None  # DoRA: the length that each output's weights have afterwards


@dataclass(frozen=True)
class NewRows:
    """Rows of a word table that were learned; those past its end make it longer."""

    numbers: tuple[int, ...]
    values: StoredTensor


@dataclass(frozen=True)
class Made:
    """One tensor of the merged model."""

    name: str
    source: StoredTensor
    dtype: str
    pair: Pair | None = None
    rows: NewRows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""
        longest = max(self.rows.numbers) + 1 if self.rows else 0
        return (max(self.source.rows, longest), *self.source.shape[1:]) if self.source.shape else ()

    @property
    def is_copied(self) -> bool:
        """Whether its bytes are those of its source."""
        return self.pair is None and self.rows is None and self.dtype == self.source.dtype

    @property
    def promised(self) -> Promised:
        """How it will be written."""
        if self.is_copied:
            return Promised(self.name, self.dtype, self.source.shape, self.source.size_bytes)
        return Promised(self.name, self.dtype, self.shape, math.prod(self.shape) * DTYPE_BYTES[self.dtype])


@dataclass(frozen=True)
class MergePlan:
    """A merged model before it is made."""

    base: FolderHeader
    made: tuple[Made, ...]
    config: Mapping[str, Any] = field(default_factory=dict)  # what config.json says otherwise than the base's
    changed: int = 0  # tensors that are not the base's own


def plan_merge(adapter: Path, base: Path, scale: float) -> MergePlan:
    """Decide what becomes of every tensor.

    Raises:
        UnsupportedFormat: either is damaged, they do not belong together, or the adapter cannot be merged; with the cure.
    """
    return _Planner(adapter, base, scale).plan()


class _Planner:
    """The decisions about one adapter and one base."""

    def __init__(self, adapter: Path, base: Path, scale: float) -> None:
        self._name = adapter.name
        self._scale = scale
        self._settings = read_json(adapter / CONFIG)
        self._check_settings()
        self._header = read_folder_header(base)
        self._check_base()
        self._base = {name: tensor for file in weight_files(base) for name, tensor in stored_tensors(file).items()}
        self._parts: dict[str, dict[str, StoredTensor]] = {}  # module → what is learned of it
        self._whole: dict[str, StoredTensor] = {}  # whole tensors that take a place
        self._sort(stored_tensors(adapter / WEIGHTS))
        self._made = {name: Made(name, tensor, tensor.dtype) for name, tensor in self._base.items()}

    def _refuse(self, what: str, cure: str = CURE) -> UnsupportedFormat:
        return UnsupportedFormat(f"The adapter {self._name} {what}; {cure}.")

    def _check_settings(self) -> None:
        check_adapter_config(self._name, self._settings)
        for key, what in UNMERGEABLE.items():
            if self._settings.get(key):
                raise self._refuse(f"has {what}, for which there is no place in the base model")

    def _check_base(self) -> None:
        if "quantization_config" in self._header.config:
            raise UnsupportedFormat(
                f"{self._header.path.name} is stored as {self._header.quantization}, into which nothing can be merged exactly; "
                "choose the unquantized model that it was made from."
            )

    def _sort(self, tensors: Mapping[str, StoredTensor]) -> None:
        if not tensors:
            raise self._refuse("holds no weights", "finish its training or download it again")
        for key, tensor in tensors.items():
            if not key.startswith(PREFIX):
                raise self._refuse(f"holds {key[:100]}, which is no weight of a language model")
            inner = key[len(PREFIX) :].removesuffix(".default")
            match = PART.fullmatch(inner.removesuffix(".weight") if inner.endswith("lora_magnitude_vector.weight") else inner)
            if match:
                self._parts.setdefault(match["module"], {})[match["kind"]] = tensor
            elif ".lora_" in inner:
                raise self._refuse(f"holds {inner[:100]}, for which there is no place in the base model")
            else:
                self._whole[inner.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor

    def plan(self) -> MergePlan:
        config: dict[str, Any] = {}
        if self._is_tied():
            config |= self._untie()
        for name, tensor in self._whole.items():
            self._put_whole(name, tensor)
        for module, parts in self._parts.items():
            self._put_parts(module, parts)
        vocabulary = self._vocabulary()
        if vocabulary:
            config["vocab_size"] = vocabulary
        changed = sum(not made.is_copied or made.source is not self._base.get(name) for name, made in self._made.items())
        return MergePlan(self._header, tuple(self._made.values()), config, changed)

    # ---- word table and output that are one

    def _is_tied(self) -> bool:
        """Whether the output reads its weights from the word table."""
        told = self._header.field("tie_word_embeddings")
        head = next((tensor for name, tensor in self._base.items() if self._end(name) in HEADS), None)
        table = next((tensor for name, tensor in self._base.items() if self._end(name) in TABLES), None)
        if head is None:
            return told is not False
        return told is True and (table is None or _same(table, head))  # as transformers sees it: two that differ are two

    def _untie(self) -> Mapping[str, Any]:
        """Where only one of the two is learned, or each otherwise, they become two; what `config.json` then says."""
        for name in [name for name in self._base if self._end(name) in HEADS]:
            del self._made[name], self._base[name]  # stored, and never read
        table = next((name for name in self._base if self._end(name) in TABLES), "")
        head = next((name for name in self._touched() if self._end(name) in HEADS), "")
        table_whole = next((tensor for name, tensor in self._whole.items() if self._end(name) in TABLES), None)
        if head in self._whole and table_whole is not None and _same(table_whole, self._whole[head]) and not self._has_pair(TABLES | HEADS):
            del self._whole[head]
            return {}
        if not head and not self._has_pair(TABLES) and (table_whole is None or not self._is_saved_apart(table_whole)):
            return {}
        if self._has_rows(TABLES | HEADS):
            raise self._refuse("learned new tokens and the output of a model whose output is its word table")
        if not table:
            raise self._refuse(f"learned the output of a model whose word table Paddock does not find in {self._header.path.name}")
        head, source = head or "lm_head.weight", self._base[table]
        self._made[head] = Made(head, source, source.dtype)
        return {"tie_word_embeddings": False}

    def _touched(self) -> Iterator[str]:
        yield from self._whole
        yield from (f"{module}.weight" for module in self._parts)

    def _has_pair(self, ends: frozenset[str]) -> bool:
        return any(module.rpartition(".")[2] in ends and any(first in parts for first, _ in SIDES) for module, parts in self._parts.items())

    def _has_rows(self, ends: frozenset[str]) -> bool:
        return any(module.rpartition(".")[2] in ends and "token_adapter.trainable_tokens_delta" in parts for module, parts in self._parts.items())

    def _is_saved_apart(self, table: StoredTensor) -> bool:
        """Whether a table was learned for itself; one that only grew is saved too, and stays the output as well."""
        named = self._settings.get("modules_to_save") or ()
        key = next(name for name, tensor in self._whole.items() if tensor is table)
        return any(self._end(key) == str(name).rpartition(".")[2] for name in named)

    @staticmethod
    def _end(name: str) -> str:
        return name.removesuffix(".weight").rpartition(".")[2]

    # ---- whole tensors

    def _put_whole(self, name: str, tensor: StoredTensor) -> None:
        target = stored_name(name, self._made)
        if not target:
            raise self._refuse(f"holds {name[:100]}, which {self._header.path.name} does not have", "choose the adapter's base model")
        before = self._made[target]
        grows = self._end(target) in TABLES | HEADS and tensor.shape[1:] == before.shape[1:] and tensor.rows > before.source.rows
        if tensor.shape != before.shape and not grows:
            raise self._wrong_base(name, tensor.shape, before.shape)
        if tensor.dtype != before.dtype and (tensor.dtype not in STORED or before.dtype not in STORED):
            raise self._refuse(f"stores {name[:100]} as {tensor.dtype[:20]} and the base model as {before.dtype[:20]}")
        self._made[target] = replace(before, source=tensor)

    def _wrong_base(self, where: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> UnsupportedFormat:
        return UnsupportedFormat(
            f"The adapter {self._name} was made for another model: at {where[:100]} it has {_lengths(got)} where {self._header.path.name} has "
            f"{_lengths(wanted)}; choose the adapter's base model."
        )

    # ---- pairs and rows

    def _put_parts(self, module: str, parts: Mapping[str, StoredTensor]) -> None:
        target = stored_name(f"{module}.weight", self._made)
        if not target:
            raise self._refuse(f"changes {module[:100]}, which {self._header.path.name} does not have", "choose the adapter's base model")
        made = self._made[target]
        if made.dtype not in STORED:
            raise self._refuse(f"changes {module[:100]}, which is stored as {made.dtype[:20]}", "choose the unquantized base model")
        rows = parts.get("token_adapter.trainable_tokens_delta")
        if rows is not None:
            made = replace(made, rows=self._new_rows(module, rows, made))
        for place, (first, second) in enumerate(SIDES):
            if first in parts or second in parts:
                made = replace(made, pair=self._pair(module, parts, (first, second), made, is_table=place == 1))
        if made.pair is None and "lora_magnitude_vector" in parts:
            raise self._damaged(module)
        if made.pair and made.rows:
            raise self._refuse(f"learned both a pair of weights and single tokens at {module[:100]}")
        self._made[target] = made

    def _pair(self, module: str, parts: Mapping[str, StoredTensor], sides: tuple[str, str], made: Made, *, is_table: bool) -> Pair:
        first, second, magnitude = parts.get(sides[0]), parts.get(sides[1]), parts.get("lora_magnitude_vector")
        if first is None or second is None or len(first.shape) != 2 or len(second.shape) != 2 or first.shape[0] != second.shape[1]:
            raise self._damaged(module)
        if is_table and magnitude is not None:
            raise self._refuse(f"has DoRA magnitudes of the word table at {module[:100]}")
        turned = is_table or is_transposed(module, self._header.config)
        wanted = made.source.shape[::-1] if turned else made.source.shape
        if (second.shape[0], first.shape[1]) != wanted:
            raise self._wrong_base(module, (first.shape[1], second.shape[0]), wanted[::-1])
        if bool(self._settings.get("use_dora")) != (magnitude is not None) and not is_table:
            raise self._damaged(module)
        if magnitude is not None and math.prod(magnitude.shape) != second.shape[0]:
            raise self._damaged(module)
        scale = pair_scale(self._name, self._settings, module, first.shape[0], max(wanted))
        return Pair(first, second, scale * self._scale, turned, magnitude)

    def _damaged(self, module: str) -> UnsupportedFormat:
        return self._refuse(f"is damaged: its weights for {module[:100]} do not belong together", "download it again")

    def _new_rows(self, module: str, values: StoredTensor, made: Made) -> NewRows:
        told = self._settings.get("trainable_token_indices") or {}
        end = module.rpartition(".")[2]
        numbers = told if isinstance(told, list) else next((told[key] for key in told if str(key).rpartition(".")[2] == end), ())
        if not numbers or not all(isinstance(number, int) and 0 <= number < 1 << 24 for number in numbers) or values.shape != (len(numbers), *made.source.shape[1:]):
            raise self._damaged(module)
        if max(numbers) > made.source.rows + len(numbers) + 4096:  # as many rows as tokens were added, and some that fill up
            raise self._wrong_base(module, (max(numbers) + 1,), (made.source.rows,))
        return NewRows(tuple(numbers), values)

    def _vocabulary(self) -> int:
        """How many tokens the model has now, where they have become more."""
        for name, made in self._made.items():
            if self._end(name) in TABLES and name in self._base and made.shape[:1] != self._base[name].shape[:1]:
                rows = made.shape[0]
                short = [other for other, head in self._made.items() if self._end(other) in HEADS and head.shape[0] != rows]
                if short:
                    raise self._refuse(f"has {rows} tokens in its word table and {self._made[short[0]].shape[0]} in its output")
                return rows
        return 0


def _same(first: StoredTensor, second: StoredTensor) -> bool:
    return (first.dtype, first.shape) == (second.dtype, second.shape) and all(a == b for a, b in zip(first.pieces(), second.pieces(), strict=True))


def _lengths(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "one number"
