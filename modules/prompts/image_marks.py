"""Where images stand in a rendered prompt: marks that no person can write, put into messages and found again in the text.

Knows messages and text; knows no image file and no model.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from modules.core.errors import InvalidRequest
from modules.core.messages import Image, Message


@dataclass(frozen=True)
class ImageMarks:
    """The messages of one prompt with marks instead of images. The secret is drawn anew for each prompt."""

    originals: tuple[Message, ...]

    @cached_property
    def _secret(self) -> str:
        return secrets.token_hex(16)

    @cached_property
    def _images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.originals for image in message.images)

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What a template renders."""
        marks = (f"[image-{self._secret}-{number}]" for number in range(len(self._images)))
        return tuple(message.with_marks(next(marks) for _ in message.images) if message.images else message for message in self.originals)

    def split(self, text: str) -> Sequence[str | Image]:
        """The rendered text in pieces: text and images in turn.

        Raises:
            InvalidRequest: the template left an image out, or wrote one twice.
        """
        if not self._images:
            return [text]
        pieces = re.split(rf"\[image-{self._secret}-(\d+)\]", text)
        numbers = [int(number) for number in pieces[1::2]]
        if sorted(numbers) != list(range(len(self._images))):
            raise InvalidRequest(
                f"The chat template wrote {len(set(numbers))} of the {len(self._images)} images of this conversation into the prompt; each is "
                "needed once. Choose another prompt template.",
                field="template",
            )
        return [self._images[int(piece)] if place % 2 else piece for place, piece in enumerate(pieces) if place % 2 or piece]
