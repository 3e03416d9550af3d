"""Whether a model folder sees images here: which class of the library reads it, its processor, and a look at one image where the kind was never tried.

Every reason why not is a sentence; the model is then loaded for text alone.
"""

from __future__ import annotations

import inspect
import io
import logging
from pathlib import Path
from typing import Any

from modules.core.errors import MissingRequirement, UnsupportedFormat
from modules.core.model import LoadedModel, Row
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.options import TransformersOptions
from modules.loaders.transformers.processor import has_processor, read_processor
from modules.loaders.transformers.seeing_runner import SeeingRunner
from modules.loaders.transformers.sight import Sight

log = logging.getLogger(__name__)

# Kinds whose images the tests compare with the library's own pass; others are compared when they are loaded
TRIED = frozenset({"gemma3", "idefics3", "internvl", "llava", "llava_next", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"})
CHECK_WORDS = ((7, 3, 5), (11, 2, 13, 4))  # before and behind the image
CHECK_SIZE = (64, 48)


def reads_images(config: Any) -> bool:
    """Whether a folder is loaded as an image-text model, by its kind."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return False
    kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    if not hasattr(kind, "get_image_features") or "mm_encoder_outputs" not in inspect.signature(kind.forward).parameters:
        return False
    # where texts have a class of their own, adapters were trained on that and would not fit the other
    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), kind) is kind


def open_eyes(path: Path, config: Any, network: Network, tokenizer: Any, options: TransformersOptions) -> tuple[Sight | None, str]:
    """What looks at images for a loaded model; or a sentence why nothing does, empty where the model has no eyes."""
    if not reads_images(config):
        return None, blind(config.model_type) if getattr(config, "vision_config", None) is not None and has_processor(path) else ""
    try:
        processor = read_processor(path, config, tokenizer)
    except (MissingRequirement, UnsupportedFormat) as error:
        return None, f"The model was loaded without seeing images: {error.message}."
    if not isinstance(getattr(config, "image_token_id", None), int) or getattr(processor, "image_token", None) is None:
        return None, blind(config.model_type)
    return Sight(network, processor, options.image_tokens), ""


def blind(kind: str) -> str:
    """What to tell of a kind whose images cannot be read."""
    return f"The model was loaded without seeing images: this loader does not read those of its architecture ({kind}); a GGUF version with a projector may."


def with_eyes(loaded: LoadedModel, network: Network, sight: Sight, limit: float) -> str:
    """Let a loaded model see, if that gives what the library gives; else a sentence why not.

    Args:
        loaded: has the runner that was chosen.
        network: its model.
        sight: what looks at images.
        limit: how far logits may differ, of their size.
    """
    kind = network.model.config.model_type
    if not isinstance(loaded.runner, SeeingRunner) or (kind not in TRIED and not _agrees(network, loaded.runner, sight, limit)):
        return blind(kind)
    loaded.vision = sight
    return ""


def _agrees(network: Network, runner: SeeingRunner, sight: Sight, limit: float) -> bool:
    """Whether a prompt with an image, read in two steps, has the logits of a plain pass of the library."""
    try:
        file = check_image()
        before, behind = CHECK_WORDS
        ids = [*before, *sight.image_ids(file), *behind]
        middle = len(before) + (len(ids) - len(before) - len(behind)) // 2
        runner.forward([Row(0, 0, ids[:middle])])
        row = runner.forward([Row(0, middle, ids[middle:])])[0]
        found = network.torch.as_tensor(row.full() if hasattr(row, "full") else row).clone()
        runner.truncate(0, 0)
        expected = sight.plain_logits(file, before, behind).float().cpu()
    except Exception as error:  # noqa: BLE001 - any failure of a foreign architecture means: not this way
        log.info("images of this model are not read: %s", error)
        runner.truncate(0, 0)
        return False
    return float((found - expected).norm() / expected.norm().clamp_min(1e-9)) < limit


def check_image() -> bytes:
    """A small picture of colours that run into each other."""
    from PIL import Image

    image = Image.radial_gradient("L").resize(CHECK_SIZE)
    file = io.BytesIO()
    Image.merge("RGB", (image, image.rotate(90), image.rotate(180))).save(file, "PNG")
    return file.getvalue()
