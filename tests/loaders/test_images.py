"""Image files: what they show, and what is refused before it is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modules.core.errors import InvalidRequest
from modules.loaders.images import PIXEL_LIMIT, read_image


def saved(image: Image.Image, form: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def pixels_of(file: bytes) -> np.ndarray:
    found = read_image(file)
    return np.frombuffer(found.rgb, np.uint8).reshape(found.height, found.width, 3)


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image


@pytest.mark.parametrize(("form", "settings"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("GIF", {})])
def test_the_four_formats(form: str, settings: dict[str, Any]) -> None:
    found = pixels_of(saved(halves(), form, **settings))
    assert found.shape == (20, 40, 3)
    np.testing.assert_allclose(found[10, 4], (255, 0, 0), atol=8)
    np.testing.assert_allclose(found[10, 36], (0, 0, 255), atol=8)


def test_a_photo_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    found = pixels_of(saved(halves(), "JPEG", exif=exif, quality=95))
    assert found.shape == (40, 20, 3)
    np.testing.assert_allclose(found[4, 10], (255, 0, 0), atol=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 5, 10))
    file = saved(image.convert(mode), "PNG") if mode != "P" else saved(image.quantize(), "PNG")
    found = pixels_of(file)
    assert tuple(found[5, 2]) == (0, 0, 0)
    assert tuple(found[5, 8]) == (255, 255, 255)


def test_sixteen_bits_keep_their_shades() -> None:
    shades = np.array([[0, 32768, 65535]], np.uint16)
    found = pixels_of(saved(Image.fromarray(shades), "PNG"))
    np.testing.assert_allclose(found[0, :, 0], (0, 128, 255), atol=1)


def test_of_a_film_the_first_picture() -> None:
    later = Image.new("RGB", (40, 20), (0, 255, 0))
    found = pixels_of(saved(halves(), "GIF", save_all=True, append_images=[later]))
    np.testing.assert_allclose(found[10, 4], (255, 0, 0), atol=8)


def png_of(width: int, height: int) -> bytes:
    """A small file that says it is large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(PIXEL_LIMIT // 1000 + 1, 1000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="too many pixels; the limit is 36 million"):
        read_image(png_of(*size))


def test_an_image_like_a_thread_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="5 × 501 pixels is too narrow"):
        read_image(saved(Image.new("RGB", (5, 501)), "PNG"))
    assert read_image(saved(Image.new("RGB", (5, 500)), "PNG")).height == 500


@pytest.mark.parametrize(
    "file",
    [b"", b"no image", b"%PDF-1.7", saved(halves(), "PNG")[:-30], saved(halves(), "JPEG")[:300], saved(halves(), "BMP"), saved(halves(), "TIFF"),
     png_of(40, 20), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
)  # fmt: skip
def test_what_is_no_image_or_damaged_is_refused(file: bytes) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_image(file)


def test_damaged_bytes_anywhere_are_an_image_or_a_sentence() -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "GIF"):
        good = saved(halves(), form)
        for _ in range(150):
            bad = bytearray(good)
            for place in random.integers(0, len(bad), 3):
                bad[place] = int(random.integers(0, 256))
            try:
                found = read_image(bytes(bad))
            except InvalidRequest:
                continue
            assert len(found.rgb) == found.width * found.height * 3 <= 3 * PIXEL_LIMIT
