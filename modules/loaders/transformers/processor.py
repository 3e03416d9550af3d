"""The image processor of a model folder: pictures to what the model's tower takes and to the tokens that stand for them. Code in folders is not run.

Made from its parts: films and sound are left out, and so are the packages that only they need. Knows files and the library; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.core.errors import MissingRequirement, UnsupportedFormat
from modules.loaders.folder_header import read_json, safe_config
from modules.loaders.transformers.rows_processor import RowsProcessor, has_rows

FILES = ("preprocessor_config.json", "processor_config.json")
EDGE_LIMIT = 8192  # of the square that an image is brought to
PIXEL_LIMIT = 36_000_000  # of settings that count pixels
PIECES_LIMIT = 64
PIECES = frozenset({"max_patches", "min_patches", "max_dynamic_patch", "max_image_splits", "max_image_tiles", "pan_and_scan_max_num_crops"})  # of one image
COUNTS_PIXELS = frozenset({"merge_size", "temporal_patch_size", "min_pixels", "max_pixels"})  # whose size is a number of pixels
ELSEWHERE = frozenset({"audio_tokenizer", "feature_extractor", "video_processor", "image_processor", "tokenizer"})  # parts that are read by themselves, or not
PACKAGES = ("torchvision", "num2words")  # that some processors want
STAND_IN: Mapping[str, str] = MappingProxyType({"smolvlm": "Idefics3Processor"})  # which treats images alike; its own wants a package for films


def has_processor(folder: Path) -> bool:
    """Whether a folder says how images are prepared."""
    return any((folder / name).is_file() for name in FILES)


def read_processor(folder: Path, config: Any, tokenizer: Any) -> Any:
    """The processor of a folder, for images only.

    Raises:
        UnsupportedFormat: there is none, or its files are broken.
        MissingRequirement: it needs a package that is not here.
    """
    settings = [read_json(folder / name) for name in FILES if (folder / name).is_file()]
    if not settings:
        raise UnsupportedFormat("it has no preprocessor_config.json, which says how images are prepared; download that file too")
    _check_sizes(settings)
    try:
        return _processor(folder, config, tokenizer, safe_config(settings[-1]) if (folder / FILES[1]).is_file() else {})
    except (SystemExit, KeyboardInterrupt, MemoryError, UnsupportedFormat):
        raise
    except Exception as error:  # each processor checks its settings in its own way
        package = next((name for name in PACKAGES if name in str(error).lower()), "another one" if isinstance(error, ImportError) else "")
        if package:
            raise MissingRequirement(f"its image processor needs a package that is not installed ({package}); choose a GGUF version with a projector") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UnsupportedFormat(f"its image processor cannot be made ({reason}); download preprocessor_config.json and processor_config.json again") from error


def _processor(folder: Path, config: Any, tokenizer: Any, settings: dict[str, Any]) -> Any:
    import transformers

    images = transformers.AutoImageProcessor.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
    if has_rows(config):
        return RowsProcessor(images, tokenizer, config, settings)
    kind = _kind(config, settings)
    parts = {"image_processor": images, "tokenizer": tokenizer}
    arguments = [parts.get(part) for part in kind.get_attributes()]
    own = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    return _for_images(kind).from_args_and_dict(arguments, _patches(config) | own)


def _kind(config: Any, settings: dict[str, Any]) -> Any:
    """The class of the processor: by the kind of model; where that has none of its own, the one that its files name."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if config.model_type in STAND_IN:
        return getattr(transformers, STAND_IN[config.model_type])
    if type(config) in PROCESSOR_MAPPING:
        return PROCESSOR_MAPPING[type(config)]
    name = str(settings.get("processor_class"))
    kind = getattr(transformers, name, None) if name.endswith("Processor") else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.ProcessorMixin):
        raise UnsupportedFormat(f"there is no processor “{name[:60]}”; a GGUF version with a projector may see")
    return kind


def _for_images(kind: Any) -> Any:
    """The processor with no check of the parts that are left out."""
    namespace = {"check_argument_for_proper_class": lambda self, name, argument: type(argument), "__init__": kind.__init__}
    return type(kind.__name__, (kind,), namespace)


def _patches(config: Any) -> dict[str, Any]:
    """What older folders of LLaVA's kind say in config.json only."""
    tower: Any = getattr(config, "vision_config", None)
    strategy, patch = getattr(config, "vision_feature_select_strategy", None), getattr(tower, "patch_size", None)
    if strategy is None or not isinstance(patch, int):
        return {}
    return {"patch_size": patch, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": int("clip" in tower.model_type)}


def _check_sizes(settings: list[dict[str, Any]]) -> None:
    """Refuse images of absurd size before the first one is made."""
    for part in (each for settings_of in settings for each in _parts(settings_of)):
        size_limit = PIXEL_LIMIT if COUNTS_PIXELS & part.keys() else EDGE_LIMIT
        for name, value in ((key, number) for key in part for number in _numbers(part[key])):
            limit = PIECES_LIMIT if name in PIECES else size_limit
            if not -1 <= value <= limit:
                raise UnsupportedFormat(f"its preprocessor_config.json asks for {name} {value}, and the limit is {limit}; download it again")


def _parts(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {key: value for key, value in settings.items() if key not in ELSEWHERE}
    inner = settings.get("image_processor")
    if isinstance(inner, dict):
        yield inner


def _numbers(value: Any, depth: int = 0) -> Iterator[int]:
    if isinstance(value, dict | list) and depth < 4:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each, depth + 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
