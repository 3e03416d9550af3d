"""What a loader is, so that the rest of Paddock can list, choose and call it without knowing it.

Knows no back end. Reading a spec imports nothing heavy: `load` does that when it is called, in the engine's child process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.model import LoadedModel, LoadOptions
from modules.core.trusted_code import TrustedCode

Progress = Callable[[str, float | None], None]
"""Called with a stage ("Reading weights") and its share done, 0 … 1, or None where it cannot be known."""


@dataclass(frozen=True)
class LoaderSpec:
    """One row of the registry: a way to load a model."""

    name: str  # the stable word in flags, saved settings and the API
    title: str  # for people
    requires: tuple[str, ...]  # distributions that must be installed
    options: type[LoadOptions]
    accepts: Callable[[Path], bool]  # by names, and the first bytes of a file whose name says nothing; nothing is parsed
    load: Callable[[Path, LoadOptions, Progress], LoadedModel]
    load_trusted: Callable[[Path, LoadOptions, Progress, TrustedCode], LoadedModel] | None = None  # by the code of its folder; None runs none
    load_measured: Callable[[Path, LoadOptions, Progress, Mapping[str, Any]], LoadedModel] | None = None  # with what earlier loads measured; None measures nothing
    adapter_check: Callable[[Path], Callable[[Path], None]] | None = None  # by headers: model → adapter → refusal; None takes no adapters
    capabilities: frozenset[str] = frozenset()  # "batch", "lora", "gpu", "quantize_on_load", "kv_quantize", "embed"
