"""Texts in PNG files: written and read back, other programs' forms, and files made to do harm."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.prompts.png_text import (
    FILE_LIMIT_BYTES,
    SIGNATURE,
    TEXT_LIMIT_BYTES,
    checked_png,
    plain_picture,
    read_texts,
    with_texts,
)

PICTURE = plain_picture(3, 2, (200, 10, 10), (10, 10, 200))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def before_end(extra: bytes) -> bytes:
    end = chunk(b"IEND", b"")
    return PICTURE.removesuffix(end) + extra + end


def head(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


@given(st.dictionaries(st.sampled_from(["chara", "ccv3", "other"]), st.binary(max_size=300), max_size=3))
def test_what_is_written_is_read_back_and_the_picture_stays(texts: dict[str, bytes]) -> None:
    written = with_texts(PICTURE, texts)
    assert read_texts(written, ("chara", "ccv3", "other")) == texts
    assert checked_png(written) == (3, 2)
    assert with_texts(written, {}, without=("chara", "ccv3", "other")) == PICTURE


def test_a_text_is_replaced_not_doubled() -> None:
    once = with_texts(PICTURE, {"chara": b"old", "other": b"stays"})
    again = with_texts(once, {"chara": b"new"})
    assert again.count(b"chara\0") == 1
    assert read_texts(again, ("chara", "other")) == {"chara": b"new", "other": b"stays"}


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"tEXt", b"chara\0words"),
        chunk(b"zTXt", b"chara\0\0" + zlib.compress(b"words")),
        chunk(b"iTXt", b"chara\0\0\0en\0Chara\0words"),
        chunk(b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(b"words")),
    ],
)
def test_every_kind_of_text_is_read(part: bytes) -> None:
    assert read_texts(before_end(part), ("chara",)) == {"chara": b"words"}


def test_the_pixels_of_a_plain_picture_are_real() -> None:
    Image = pytest.importorskip("PIL.Image")  # noqa: N806 - a class behind a module
    import io

    with Image.open(io.BytesIO(PICTURE)) as picture:
        assert picture.size == (3, 2)
        assert picture.convert("RGB").getpixel((0, 0)) == (200, 10, 10)
        assert picture.convert("RGB").getpixel((2, 1)) == (10, 10, 200)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "no PNG"),
        (b"GIF89a" + bytes(40), "no PNG"),
        (SIGNATURE, "ends too early"),
        (PICTURE[:-7], "ends too early"),
        (PICTURE[:40], "ends too early|longer than the file"),
        (SIGNATURE + b"\xff\xff\xff\xffIHDR" + bytes(20), "longer than the file"),
        (PICTURE[:20] + b"\xee" + PICTURE[21:], "check sum"),
        (SIGNATURE + chunk(b"IEND", b""), "begin with its size"),
        (SIGNATURE + chunk(b"IHDR", b"\0\0"), "begin with its size"),
        (head(0, 5), "pixels"),
        (head(100_000, 1), "pixels"),
        (head(16_000, 16_000), "pixels"),
        (before_end(chunk(b"tEXt", b"no mark")), ""),
        (before_end(chunk(b"tEXt", b"chara")), "end of its name"),
        (before_end(chunk(b"zTXt", b"chara\0\7abc")), "unknown way"),
        (before_end(chunk(b"zTXt", b"chara\0\0not packed")), "cannot be unpacked"),
        (before_end(chunk(b"zTXt", b"chara\0\0" + zlib.compress(b"words" * 50)[:-8])), "ends too early"),
        (before_end(chunk(b"tIME", b"") * 20_001), "more than 20,000 parts"),
    ],
)
def test_a_file_made_to_do_harm_is_refused_in_words(file: bytes, words: str) -> None:
    if not words:
        assert read_texts(file, ("chara",)) == {}
        return
    with pytest.raises(InvalidRequest, match=words):
        read_texts(file, ("chara",))


def test_a_bomb_of_zeros_is_unpacked_only_to_the_limit() -> None:
    packing = zlib.compressobj(9)
    bomb = b"".join(packing.compress(bytes(1 << 20)) for _ in range(4 * (TEXT_LIMIT_BYTES >> 20))) + packing.flush()
    file = before_end(chunk(b"zTXt", b"chara\0\0" + bomb))
    assert len(file) < 100_000
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="longer than the limit of 16 MiB"):
        read_texts(file, ("chara",))
    assert tracemalloc.get_traced_memory()[1] < 3 * TEXT_LIMIT_BYTES
    tracemalloc.stop()


def test_a_file_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidRequest, match="the limit is 24 MiB"):
        checked_png(PICTURE + bytes(FILE_LIMIT_BYTES))


@given(st.binary(max_size=200), st.integers(0, len(PICTURE)))
def test_nothing_but_a_sentence_comes_of_any_bytes(noise: bytes, at: int) -> None:
    for file in (noise, SIGNATURE + noise, PICTURE[:at] + noise + PICTURE[at:], PICTURE[:at] + noise):
        try:
            read_texts(file, ("chara",))
        except InvalidRequest as error:
            assert error.message.endswith(".")
