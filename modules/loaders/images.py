"""Image files as pixels, with every limit checked before anything is decoded.

Knows file formats; knows no model. Decoding happens in the engine's child process: a file that breaks a decoder breaks no other process.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from modules.core.errors import InvalidRequest

if TYPE_CHECKING:
    import PIL.Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
PIXEL_LIMIT = 36_000_000
RATIO_LIMIT = 100  # longest side to shortest: what preprocessing of models was made for
DECODING_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, zlib.error)


class Pixels(NamedTuple):
    """An image as rows of RGB bytes [height, width, 3]."""

    width: int
    height: int
    rgb: bytes


def read_image(file: bytes) -> Pixels:
    """The pixels of an image file as a viewer shows them: turned by its EXIF orientation, transparent parts white, the first frame.

    Raises:
        InvalidRequest: no PNG, JPEG, WebP or GIF, damaged, or too large.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            _check_size(*image.size)
            return _pixels(image)
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except DECODING_FAULTS as error:
        raise InvalidRequest(
            "An image cannot be read: it is damaged, or no PNG, JPEG, WebP or GIF file. Save it as PNG or JPEG and send it again.", field="messages"
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise _too_large(f" of {width} × {height}")
    if max(width, height) > RATIO_LIMIT * min(width, height):
        raise InvalidRequest(
            f"An image of {width} × {height} pixels is too narrow: one side may be {RATIO_LIMIT} times the other at most. Cut it into pieces.",
            field="messages",
        )


def _too_large(size: str = "") -> InvalidRequest:
    return InvalidRequest(f"An image{size} has too many pixels; the limit is {PIXEL_LIMIT // 1_000_000} million. Make it smaller.", field="messages")


def _pixels(image: PIL.Image.Image) -> Pixels:
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # sixteen bits for a pixel
        upright = upright.point(lambda value: value * (1 / 256)).convert("L")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        upright = ground
    rgb = upright.convert("RGB")
    return Pixels(rgb.width, rgb.height, rgb.tobytes())
