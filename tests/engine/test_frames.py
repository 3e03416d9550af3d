"""Messages come out of a pipe whole and in order, however they were cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.engine.frames import Frames
from modules.engine.wire import MAX_FRAME_BYTES, to_frame

messages = st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=5) | st.integers() | st.none()), max_size=6)


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted(place % (len(data) + 1) for place in places)
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(deadline=None)
@given(messages, st.lists(st.integers(0, 10_000), max_size=8), st.integers(0, 8))
def test_however_they_are_cut_and_whenever_somebody_listens(sent, places, listens_after):
    frames, got, failed = Frames(), [], []
    for number, piece in enumerate(pieces(b"".join(map(to_frame, sent)), places)):
        if number == listens_after:
            frames.listen(got.append, failed.append)
        frames.feed(piece)
    frames.listen(got.append, failed.append)
    assert got == sent
    assert not failed


@pytest.mark.parametrize("wrong", [b"\xff\xff\xff\xff", (MAX_FRAME_BYTES + 1).to_bytes(4, "big"), b"\0\0\0\2[]", b"\0\0\0\3{}}", b"\0\0\0\1\xff"])
def test_what_is_no_frame_is_told_once_and_nothing_is_taken_after_it(wrong):
    frames, got, failed = Frames(), [], []
    frames.listen(got.append, failed.append)
    frames.feed(to_frame({"a": 1}) + wrong + to_frame({"a": 2}))
    frames.feed(to_frame({"a": 3}))
    assert got == [{"a": 1}]
    assert len(failed) == 1


@pytest.mark.parametrize("error", [KeyError, AttributeError, OSError])
def test_a_message_that_is_not_understood_is_told_too(error):
    frames, failed = Frames(), []

    def take(message):
        raise error

    frames.listen(take, failed.append)
    frames.feed(2 * to_frame({"a": 1}))
    assert [type(one) for one in failed] == [error]
