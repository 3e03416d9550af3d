"""Images as rows of tokens with a mark behind each row, as Pixtral and Mistral 3 read them: the library's own processor for that wants torchvision.

Knows the layout of the tokens; the pixels are the library's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KINDS = frozenset({"llava", "mistral3"})  # with a tower of Pixtral's kind


def has_rows(config: Any) -> bool:
    """Whether images of this kind of model are read in rows."""
    tower = getattr(config, "vision_config", None)
    return config.model_type in KINDS and getattr(tower, "model_type", "") == "pixtral"


class RowsProcessor:
    """Called as the processors of the library are."""

    def __init__(self, image_processor: Any, tokenizer: Any, config: Any, settings: Mapping[str, Any]) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.image_token = str(settings.get("image_token") or "[IMG]")
        self._row_end = str(settings.get("image_break_token") or "[IMG_BREAK]")
        self._image_end = str(settings.get("image_end_token") or "[IMG_END]")
        self._step = config.vision_config.patch_size * int(getattr(config, "spatial_merge_size", 1))  # pixels of a token, in both directions

    def __call__(self, images: Sequence[Any] | None, text: Sequence[str], *, add_special_tokens: bool = False, return_tensors: str = "pt") -> dict[str, Any]:
        """Ids of the text with the tokens of the images where their marks stand, and the pixels."""
        found = dict(self.image_processor(list(images), patch_size=self._step, return_tensors=return_tensors)) if images else {}
        begin, *pieces = text[0].split(self.image_token)
        sizes = [[int(length) for length in size] for size in found.get("image_sizes", ())]
        written = begin + "".join(self._written(*size) + piece for size, piece in zip(sizes, pieces, strict=True))
        return {**self.tokenizer([written], add_special_tokens=add_special_tokens, return_tensors=return_tensors), **found}

    def _written(self, height: int, width: int) -> str:
        rows = [self.image_token * (width // self._step)] * (height // self._step)
        return self._row_end.join(rows) + self._image_end
