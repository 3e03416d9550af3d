"""Which samples are held out: decided by a hash of each one's content, so that it stays so when rows are added or put in another order.

Samples of the same content are never divided. A single text is cut near its end. Knows no file and no token.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from modules.core.messages import Message
from modules.training.samples import ChatSample, FeedbackSample, PairSample, Sample, TextSample

HELD_OUT_LIMIT = 2000  # samples: more would tell little more, and be asked again and again
TEXT_CHARS = 400  # a shorter text is not cut
TAIL_LIMIT_CHARS = 1_000_000  # of a text that are held out
BREAKS = ("\n\n", "\n", " ")  # where it may be cut, best first
SCALE = 2**64


class Division(NamedTuple):
    """Both parts, each in the order of the data."""

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]


def divide(samples: Sequence[Sample], percent: float) -> Division:
    """Hold out a share of the samples: those whose hash is low.

    Of two different samples or more at least one is held out and one left to learn, and at most `HELD_OUT_LIMIT` are held out; only where these
    limits decide can added rows change which ones it is. Of a data set that is one text its end is held out.
    """
    keys = [content_key(sample) for sample in samples]
    counts = Counter(keys)
    if percent <= 0 or len(counts) < 2:
        only = samples[0] if percent > 0 and len(samples) == 1 else None
        return _cut(only, percent) if isinstance(only, TextSample) and len(only.text) >= TEXT_CHARS else Division(tuple(samples), ())
    held = _held_out(counts, percent)
    return Division(
        tuple(sample for sample, key in zip(samples, keys, strict=True) if key not in held),
        tuple(sample for sample, key in zip(samples, keys, strict=True) if key in held),
    )


def _cut(sample: TextSample, percent: float) -> Division:
    """A text and its end, cut where a paragraph, a line or a word ends."""
    text = sample.text
    tail = min(TAIL_LIMIT_CHARS, max(1, round(len(text) * percent / 100)))
    wanted = len(text) - tail
    for mark in BREAKS:
        place = text.rfind(mark, wanted - tail // 2, wanted + len(mark))
        if place > 0:
            wanted = place + len(mark)
            break
    begin, end = text[:wanted], text[wanted:]
    if not begin.strip() or not end.strip():
        return Division((sample,), ())
    return Division((TextSample(sample.where, begin),), (TextSample(f"{sample.where}, from line {begin.count(chr(10)) + 1}", end),))


def _held_out(counts: Counter[bytes], percent: float) -> frozenset[bytes]:
    ordered = sorted(counts)
    below = [key for key in ordered if int.from_bytes(key[:8], "big") < percent / 100 * SCALE]
    wanted = (below or ordered[:1])[: len(ordered) - 1]
    taken, total = [], 0
    for key in wanted:
        if total + counts[key] <= HELD_OUT_LIMIT:
            taken.append(key)
            total += counts[key]
    return frozenset(taken or [min(ordered, key=lambda key: (counts[key], key))])  # each of them is there too often: the rarest


def content_key(sample: Sample) -> bytes:
    """A hash of what a sample says; where it stood does not count."""
    text = json.dumps(_content(sample), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _content(sample: Sample) -> list[Any]:
    match sample:
        case TextSample():
            return ["text", sample.text]
        case ChatSample():
            return ["chat", _plain(*sample.messages), [dict(tool) for tool in sample.tools], sorted(sample.unlearned)]
        case PairSample():
            return ["pair", _plain(*sample.messages, sample.chosen, sample.rejected), [dict(tool) for tool in sample.tools]]
        case FeedbackSample():
            return ["feedback", _plain(*sample.messages, sample.answer), sample.is_good]


def _plain(*messages: Message) -> list[Any]:
    return [message.model_dump(mode="json", exclude_defaults=True) for message in messages]
