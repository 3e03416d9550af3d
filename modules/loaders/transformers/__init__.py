"""The transformers loader: safetensors folders through PyTorch. Importing this package imports neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modules.core.errors import LoadFailed
from modules.core.model import LoadedModel, LoadOptions
from modules.core.trusted_code import TrustedCode
from modules.loaders.spec import LoaderSpec, Progress
from modules.loaders.transformers.options import TransformersOptions


def _accepts(path: Path) -> bool:
    return path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _load(path: Path, options: LoadOptions, progress: Progress) -> LoadedModel:
    from modules.loaders.transformers.loader import load

    return load(path, TransformersOptions.model_validate(options.model_dump()), progress)


def _load_trusted(path: Path, options: LoadOptions, progress: Progress, trusted: TrustedCode) -> LoadedModel:
    from modules.loaders.transformers.loader import load

    try:
        return load(path, TransformersOptions.model_validate(options.model_dump()), progress, trusted)
    except SystemExit as error:  # would end the thread that answers, and nobody would hear of it
        raise LoadFailed(f"The code of {path.name} ends its program (SystemExit: {error}); choose another model, or correct its Python files.") from error


def _adapter_check(model: Path) -> Callable[[Path], None]:
    from modules.loaders.transformers.adapter_check import adapter_check

    return adapter_check(model)


TRANSFORMERS = LoaderSpec(
    name="transformers",
    title="transformers (safetensors)",
    requires=("transformers", "torch", "accelerate", "safetensors"),
    options=TransformersOptions,
    accepts=_accepts,
    load=_load,
    load_trusted=_load_trusted,
    adapter_check=_adapter_check,
    capabilities=frozenset({"batch", "lora", "gpu", "quantize_on_load", "embed"}),
)
