"""PEFT adapters on a loaded model: several at once, each with its scale, and back to the exact base.

Knows what an adapter may contain to be safe and to fit; nothing of slots: what they hold was computed with the adapters of that time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.core.errors import MissingRequirement, NotFound, UnsupportedFormat
from modules.core.model import Adapter, in_use
from modules.loaders.adapter_config import (
    CONFIG,
    PREFIX,
    SIDE_A,
    SIDE_B,
    WEIGHTS,
    check_adapter_config,
    learned_tokens,
)
from modules.loaders.adapter_facts import KnownVersions
from modules.loaders.folder_header import read_json, read_weight_header

SIDES = ((SIDE_A, "in_features", 1), (SIDE_B, "out_features", 0))
EXPERTS = ".base_layer"  # the second of two adapted weights of one module is called so
TABLE = re.compile(r"\.(?:embed_tokens|embed_in|wte|word_embeddings|lm_head|embed_out)\.weight$")


class AdapterSet:
    """The adapters of one model; each is read once. The base modules are wrapped in place, and the wrapping stands aside for an empty set."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._wrapped: Any = None
        self._names: dict[tuple[str, int], str] = {}
        self._known = KnownVersions()
        self._before: Collection[tuple[str, int]] = ()  # in use until now: a running reply may want them back
        self._having_tables: set[tuple[str, int]] = set()
        self._numbers = itertools.count()

    def apply(self, adapters: Sequence[Adapter]) -> None:
        """Put exactly these adapters into use. One that was read before is not read again, also for another scale or when its files are gone.

        Raises:
            NotFound: no such adapter folder.
            Conflict: its files are of another version than was asked for.
            UnsupportedFormat: not an adapter for this model; nothing has changed then.
        """
        chosen = {self._key(adapter): adapter for adapter in in_use(adapters)}
        new = {key: adapter for key, adapter in chosen.items() if key not in self._names}
        for key, adapter in new.items():
            self._check(Path(adapter.path), key)
        self._check_tables(chosen)
        for key, adapter in new.items():
            self._read(Path(adapter.path), key)
        for key, adapter in chosen.items():
            self._known.add(adapter, key)
        if self._wrapped is not None:
            self._use(chosen)
        self._before = chosen

    def _use(self, chosen: Mapping[tuple[str, int], Adapter]) -> None:
        if not chosen:
            self._wrapped.base_model.disable_adapter_layers()
            return
        self._wrapped.base_model.enable_adapter_layers()
        self._wrapped.base_model.set_adapter([self._names[key] for key in chosen])
        self._forget_older({*chosen, *self._before})
        self._scale({self._names[key]: adapter.scale for key, adapter in chosen.items()})
        self._wrapped.eval()
        self._wrapped.requires_grad_(False)

    def _key(self, adapter: Adapter) -> tuple[str, int]:
        """By what this adapter is kept; one that was read before is found without a look at the disk, where it may be gone."""
        key = self._known.key(adapter)
        if key is not None:
            return key
        path = Path(adapter.path)
        weights = path / WEIGHTS
        if not (path / CONFIG).is_file() or not weights.is_file():
            raise NotFound(f"{path.name} is not an adapter folder with {CONFIG} and {WEIGHTS}; this loader uses PEFT adapters, refresh the list.")
        self._known.check(adapter)
        return str(path), weights.stat().st_mtime_ns

    def _read(self, path: Path, key: tuple[str, int]) -> None:
        try:
            from peft import PeftModel
        except ImportError:
            raise MissingRequirement("LoRA adapters need the package peft; run “python3 launch.py” again to install it.") from None
        name = f"adapter{next(self._numbers)}"
        try:
            if self._wrapped is None:
                self._wrapped = PeftModel.from_pretrained(self._model, str(path), adapter_name=name, is_trainable=False)
            else:
                self._wrapped.load_adapter(str(path), name, is_trainable=False)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self._unload()
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UnsupportedFormat(f"The adapter {path.name} cannot be applied to this model ({reason}). All adapters are off now.") from error
        self._names[key] = name

    def _forget_older(self, wanted: Collection[tuple[str, int]]) -> None:
        """Give back the memory of what these folders held before."""
        paths = {path for path, _ in wanted}
        for key in [key for key in self._names if key[0] in paths and key not in wanted]:
            self._wrapped.delete_adapter(self._names.pop(key))
            self._known.forget(key)

    def _scale(self, scales: dict[str, float]) -> None:
        from peft.tuners.lora.layer import LoraLayer

        for module in self._model.modules():
            if isinstance(module, LoraLayer):
                for name, scale in scales.items():
                    module.set_scale(name, scale)

    def _unload(self) -> None:
        if self._wrapped is not None:
            self._wrapped.unload()
            if hasattr(self._model, "peft_config"):
                del self._model.peft_config
        self._wrapped = None
        self._names, self._before, self._known = {}, (), KnownVersions()

    def _check(self, path: Path, key: tuple[str, int]) -> None:
        """Everything that would go wrong half-way, or silently, is refused before the model is touched."""
        config = read_json(path / CONFIG)
        check_adapter_config(path.name, config)
        self._check_tokens(path, config)
        if config.get("modules_to_save") or learned_tokens(config):
            self._having_tables.add(key)
        modules = dict(self._model.named_modules())
        for name, (_, shape) in read_weight_header(path / WEIGHTS).items():
            for suffix, attribute, axis in SIDES:
                if name.startswith(PREFIX) and name.endswith(suffix):
                    target = name[len(PREFIX) : -len(suffix)].removesuffix(EXPERTS)
                    self._check_shape(path, modules, target, shape[axis], attribute)

    def _check_tokens(self, path: Path, config: Mapping[str, Any]) -> None:
        """Refuse tokens that this model's word table has no row for, be they learned alone or with the whole table."""
        rows = int(self._model.get_input_embeddings().weight.shape[0])
        wanted = [token_id + 1 for token_id in learned_tokens(config)]
        wanted += [shape[0] for name, (_, shape) in read_weight_header(path / WEIGHTS).items() if TABLE.search(name) and len(shape) == 2]
        if max(wanted, default=0) > rows:
            raise UnsupportedFormat(
                f"The adapter {path.name} adds tokens to the vocabulary ({max(wanted)}, this model has {rows}); merge it into its base model and load the result."
            )

    def _check_tables(self, chosen: Collection[tuple[str, int]]) -> None:
        """Word tables are replaced as a whole, so two adapters that have one cannot act together."""
        having = sorted(Path(path).name for path, _ in self._having_tables.intersection(chosen))
        if len(having) > 1:
            raise UnsupportedFormat(f"{having[0]} and {having[1]} both bring a word table of their own, and a model has one; use one of them at a time.")

    def _check_shape(self, path: Path, modules: dict[str, Any], target: str, size: int, attribute: str) -> None:
        module = modules.get(target)
        if module is None:
            raise UnsupportedFormat(f"The adapter {path.name} changes {target}, which this model does not have; load its base model first.")
        expected = getattr(module, attribute, None)
        if isinstance(expected, int) and expected != size:
            raise UnsupportedFormat(
                f"The adapter {path.name} was made for another model: at {target} it has {size} where this one has {expected}; load its base model first."
            )
