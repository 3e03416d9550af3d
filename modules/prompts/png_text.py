"""Texts inside PNG files: read and written chunk by chunk, without decoding the picture.

Every length is checked against the file, every check sum is computed, and what is packed is unpacked only up to a limit. Knows nothing of what
the texts say. Source: the PNG specification (third edition), sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from modules.core.errors import InvalidRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILE_LIMIT_BYTES = 24 << 20
TEXT_LIMIT_BYTES = 16 << 20  # of one text, unpacked
CHUNK_LIMIT = 20_000
SIDE_LIMIT = 16_384  # pixels
PIXEL_LIMIT = 64 << 20
KEYWORD_LIMIT = 79
PACKED, PLAIN, INTERNATIONAL = b"zTXt", b"tEXt", b"iTXt"


class Chunk(NamedTuple):
    """A part of a PNG file."""

    kind: bytes
    data: bytes


def is_png(file: bytes) -> bool:
    """Whether a file begins as a PNG does."""
    return file.startswith(SIGNATURE)


def checked_png(file: bytes) -> tuple[int, int]:
    """Width and height of a whole and harmless PNG file.

    Raises:
        InvalidRequest: no PNG, torn, or larger than the limits.
    """
    head, *_ = _chunks(file)
    return _size(head)


def read_texts(file: bytes, keywords: tuple[str, ...]) -> dict[str, bytes]:
    """The texts of a PNG file under these keywords, as bytes; of two under one keyword the first.

    Raises:
        InvalidRequest: no PNG, torn, or a text that is larger than the limit.
    """
    found: dict[str, bytes] = {}
    for chunk in _chunks(file):
        if chunk.kind not in (PLAIN, PACKED, INTERNATIONAL):
            continue
        keyword = _keyword(chunk)
        if keyword in keywords and keyword not in found:
            found[keyword] = _text(chunk)
    return found


def with_texts(file: bytes, texts: Mapping[str, bytes], without: tuple[str, ...] = ()) -> bytes:
    """The same picture with these texts before its end, in place of any under the same keywords and those under `without`.

    Raises:
        InvalidRequest: no PNG, torn, or too large afterwards.
    """
    gone = {*texts, *without}
    parts = [SIGNATURE]
    for chunk in _chunks(file):
        if chunk.kind in (PLAIN, PACKED, INTERNATIONAL) and _keyword(chunk) in gone:
            continue
        if chunk.kind == b"IEND":
            parts += [_written(PLAIN, keyword.encode("latin-1") + b"\0" + text) for keyword, text in texts.items()]
        parts.append(_written(*chunk))
    written = b"".join(parts)
    _check_file_size(len(written))
    return written


def plain_picture(width: int, height: int, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> bytes:
    """A PNG file that runs from one colour to another, for those who have no picture."""
    rows = []
    for y in range(height):
        share = y / max(1, height - 1)
        colour = bytes(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        rows.append(b"\0" + colour * width)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + _written(b"IHDR", head) + _written(b"IDAT", zlib.compress(b"".join(rows), 9)) + _written(b"IEND", b"")


def _chunks(file: bytes) -> Iterator[Chunk]:
    """The parts of a file in their order, checked; the first is its head, the last its end, and what stands behind that is not read."""
    _check_file_size(len(file))
    if not is_png(file):
        raise InvalidRequest("This file is no PNG picture.", field="file")
    at, count = len(SIGNATURE), 0
    while True:
        if at + 12 > len(file):
            raise _broken("ends too early")
        length, kind = struct.unpack_from(">I4s", file, at)
        if length > len(file) - at - 12:
            raise _broken("has a part that is longer than the file")
        data = file[at + 8 : at + 8 + length]
        if zlib.crc32(data, zlib.crc32(kind)) != struct.unpack_from(">I", file, at + 8 + length)[0]:
            raise _broken("has a part whose check sum is wrong")
        chunk = Chunk(kind, data)
        if count == 0:
            _size(chunk)
        yield chunk
        if kind == b"IEND":
            return
        at, count = at + 12 + length, count + 1
        if count > CHUNK_LIMIT:
            raise _broken(f"has more than {CHUNK_LIMIT:,} parts")


def _size(chunk: Chunk) -> tuple[int, int]:
    if chunk.kind != b"IHDR" or len(chunk.data) != 13:
        raise _broken("does not begin with its size")
    width, height = struct.unpack_from(">II", chunk.data)
    if not (0 < width <= SIDE_LIMIT and 0 < height <= SIDE_LIMIT and width * height <= PIXEL_LIMIT):
        raise InvalidRequest(
            f"The picture has {width:,} × {height:,} pixels; the limit is {SIDE_LIMIT:,} on a side and {PIXEL_LIMIT >> 20} million in all. Make it smaller.",
            field="file",
        )
    return width, height


def _keyword(chunk: Chunk) -> str:
    return chunk.data[: KEYWORD_LIMIT + 1].partition(b"\0")[0].decode("latin-1")


def _text(chunk: Chunk) -> bytes:
    """The bytes of a text, unpacked if it is packed."""
    _, mark, rest = chunk.data.partition(b"\0")
    if not mark:
        raise _broken("has a text without an end of its name")
    if chunk.kind == PLAIN:
        packed, method, text = False, 0, rest
    elif chunk.kind == PACKED:
        packed, method, text = True, rest[0] if rest else 1, rest[1:]
    else:  # flag, method, language, translated name, text
        packed, method = rest[:1] == b"\1", rest[1] if len(rest) > 1 else 1
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if packed:
        if method != 0:
            raise _broken("has a text that is packed in an unknown way")
        text = _unpacked(text)
    if len(text) > TEXT_LIMIT_BYTES:
        raise _too_long()
    return text


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(data, TEXT_LIMIT_BYTES + 1)
    except zlib.error as error:
        raise _broken("has a text that cannot be unpacked") from error
    if len(text) > TEXT_LIMIT_BYTES:
        raise _too_long()
    if not unpacking.eof:
        raise _broken("has a text that ends too early")
    return text


def _written(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _check_file_size(size_bytes: int) -> None:
    if size_bytes > FILE_LIMIT_BYTES:
        raise InvalidRequest(
            f"The picture has {size_bytes / (1 << 20):.1f} MiB; the limit is {FILE_LIMIT_BYTES >> 20} MiB. Make it smaller.", field="file"
        )


def _broken(what: str) -> InvalidRequest:
    return InvalidRequest(f"This PNG file is damaged: it {what}. Save it again, or get another copy.", field="file")


def _too_long() -> InvalidRequest:
    return InvalidRequest(f"A text in this PNG file is longer than the limit of {TEXT_LIMIT_BYTES >> 20} MiB.", field="file")
