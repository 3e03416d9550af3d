"""Where images stand in what a slot holds: counted in ids as prompts are, and in positions of the model, of which an image can take fewer.

Knows no model and no image; both loaders' runners that see go by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modules.core.errors import InvalidRequest
from modules.core.model import ImageToken


@dataclass(frozen=True)
class Placed:
    """A part of an image that begins at an id of a slot."""

    start: int
    picture: Any  # what the loader made of the image; its `chunks` have `first`, `n_tokens` and `n_positions`
    part: int

    @property
    def chunk(self) -> Any:
        """The part itself."""
        return self.picture.chunks[self.part]

    @property
    def end(self) -> int:
        """The id after its last one."""
        return int(self.start + self.chunk.n_tokens)


@dataclass(frozen=True)
class Held:
    """What a slot with images holds: so many ids, and where in them the images stand; the last one may not be complete."""

    length: int
    images: tuple[Placed, ...] = ()

    def position(self, length: int) -> int:
        """Positions of the model for the first ids; for a cut through an image those before it."""
        for image in self.images:
            if image.start < length < image.end:
                length = image.start
        return length - sum(image.chunk.n_tokens - image.chunk.n_positions for image in self.images if image.end <= length)

    def cut(self, length: int) -> Held:
        """The first ids only."""
        return Held(length, tuple(image for image in self.images if image.start < length))

    @property
    def unfinished(self) -> Placed | None:
        """The image whose last positions are still to come."""
        last = self.images[-1] if self.images else None
        return last if last is not None and last.end > self.length else None

    def grown(self, token_ids: Sequence[int]) -> Held:
        """With these ids behind what is there.

        Raises:
            InvalidRequest: an image in it is not whole.
        """
        images = list(self.images)
        within = self.unfinished
        for index, token in enumerate(token_ids, self.length):
            if within is None and isinstance(token, ImageToken):
                within = Placed(index, token.image, token.part)
                images.append(within)
            if within is not None:
                if token != within.chunk.first + index - within.start:
                    raise InvalidRequest("The positions of an image do not follow each other.")
                within = None if index + 1 == within.end else within
        return Held(self.length + len(token_ids), tuple(images))
