"""Sequences as people see them: token by token, with what is learned, what is not, and what is cut off; and how long they are.

Knows no page. Pieces put together are the text, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modules.training.examination import Bar, Kind, Piece
from modules.training.samples import IGNORED, Encoded

SHOWN_TOKENS = 500  # of one sequence
BARS = 40


def pieces_of(one: Encoded, limit_tokens: int, piece: Callable[[int], bytes]) -> tuple[Piece, ...]:
    """The tokens of a sequence that was not cut yet; of a long one its beginning, and what stands around the cut or at its end.

    Args:
        one: the whole sequence.
        limit_tokens: what stands behind is cut off.
        piece: the bytes of a token.
    """
    count = len(one.token_ids)
    if count <= SHOWN_TOKENS:
        return tuple(_pieces(one, range(count), limit_tokens, piece))
    half = SHOWN_TOKENS // 2
    begin = limit_tokens - half // 2 if count > limit_tokens else count
    begin = min(max(half, begin), count - half)
    end = begin + half
    found = [*_pieces(one, range(half), limit_tokens, piece)]
    if begin > half:
        found.append(_left_out(begin - half))
    found += _pieces(one, range(begin, end), limit_tokens, piece)
    if end < count:
        found.append(_left_out(count - end))
    return tuple(found)


def _left_out(count: int) -> Piece:
    return Piece(text=f"… {count:,} tokens …", kind="left_out")


def _pieces(one: Encoded, places: range, limit_tokens: int, piece: Callable[[int], bytes]) -> Iterator[Piece]:
    """Tokens that hold parts of a letter are joined with those that hold its rest; learned if one of them is."""
    waiting, kinds = b"", set[Kind]()
    for place in places:
        waiting += piece(one.token_ids[place])
        kinds.add("cut" if place >= limit_tokens else "trained" if one.labels[place] != IGNORED else "ignored")
        if _is_open(waiting):
            continue
        yield Piece(text=waiting.decode("utf-8", "replace"), kind=_strongest(kinds))
        waiting, kinds = b"", set()
    if waiting:
        yield Piece(text=waiting.decode("utf-8", "replace"), kind=_strongest(kinds))


def _strongest(kinds: set[Kind]) -> Kind:
    return "trained" if "trained" in kinds else "ignored" if "ignored" in kinds else "cut"


def _is_open(text: bytes) -> bool:
    """Whether the end of a text is the beginning of a letter."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def bars_of(lengths: Sequence[int]) -> tuple[Bar, ...]:
    """A histogram with at most forty bars of a round width."""
    if not lengths:
        return ()
    longest = max(lengths)
    width = next(step * power for power in (10**exponent for exponent in range(12)) for step in (1, 2, 5) if longest // (step * power) < BARS)
    counts = [0] * (longest // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return tuple(Bar(begin=place * width, to=(place + 1) * width, count=count) for place, count in enumerate(counts))
