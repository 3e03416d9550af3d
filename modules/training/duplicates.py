"""Samples that are the same as an earlier one, or nearly: found in time that grows with their number, not with its square.

The same: every message is equal but for white space. Nearly the same: of the word triples of each message, at least nine in ten are in
both (Jaccard). Each must be near, not all together: a long question with “Yes” is another sample than with “No”. Candidates come from MinHash signatures in bands; each is then measured, so that nothing is left out by chance.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules.core.messages import Message
from modules.training.samples import ChatSample, PairSample, Sample, TextSample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

NEAR = 0.9  # of the word triples
SHINGLE_WORDS = 3
BANDS, BAND_ROWS = 20, 8  # at 0.9 one in a hundred thousand is missed; at 0.5 one in thirteen is looked at for nothing
BUCKET_LIMIT = 16  # a template that thousands of samples share would fill a bucket: later ones are compared with the first of them
BLOCK_SHINGLES = 4096  # hashed at once, so that a book takes no more memory than a page
SEED = 20
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_MARKS = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~\u00a1-\u00bf\u2000-\u206f\u3000-\u303f"
# Letters of scripts without spaces are words of their own, and so are the signs of formulas and code; other punctuation is none.
WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_MARKS}{_UNSPACED}]+|[-+*/=<>^%&|~#$]")


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What is left, in its order: of samples that are alike the first stays."""

    samples: tuple[Sample, ...]
    exact: int  # left out as the same
    near: int  # left out as nearly the same


def without_duplicates(samples: Sequence[Sample]) -> Deduplicated:
    """Leave out samples that are the same as an earlier one, or nearly the same."""
    seen: set[bytes] = set()
    index = _NearIndex()
    kept: list[Sample] = []
    exact = near = 0
    for sample in samples:
        kind, parts = _parts(sample)
        key = _digest(kind, (_plain(part) for part in parts))
        if key in seen:
            exact += 1
            continue
        seen.add(key)
        if index.knows(kind, parts):
            near += 1
        else:
            kept.append(sample)
    return Deduplicated(tuple(kept), exact, near)


# ---- the parts of a sample -----------------------------------------------------------------------------------------


def _parts(sample: Sample) -> tuple[str, tuple[str, ...]]:
    """What kind of sample it is, who says what in it being part of that; and its texts, one for each message."""
    if isinstance(sample, TextSample):
        return "text", (sample.text,)
    if isinstance(sample, ChatSample):
        return _kind("chat", sample.messages, sample.tools, sample.unlearned), _texts(sample.messages)
    if isinstance(sample, PairSample):
        return _kind("pair", sample.messages, sample.tools), _texts((*sample.messages, sample.chosen, sample.rejected))
    return _kind(f"feedback {sample.is_good}", sample.messages), _texts((*sample.messages, sample.answer))


def _kind(name: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), unlearned: Container[int] = ()) -> str:
    roles = [f"{message.role}{' unlearned' if place in unlearned else ''}" for place, message in enumerate(messages)]
    return json.dumps([name, roles, [dict(tool) for tool in tools]], sort_keys=True, default=str)


def _texts(messages: Iterable[Message]) -> tuple[str, ...]:
    return tuple(_text(message) for message in messages)


def _text(message: Message) -> str:
    """The words of a message, with its images and calls of tools."""
    if not message.images and not message.tool_calls:
        return message.content
    images = (hashlib.sha256(image.data.encode()).hexdigest() for image in message.images)
    return "\n".join((message.content, *images, json.dumps(message.tool_calls, sort_keys=True)))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _digest(kind: str, parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(kind.encode("utf-8", "replace"), digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "replace")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


# ---- nearness ------------------------------------------------------------------------------------------------------


class _NearIndex:
    """The samples kept so far, found again by bands of their signatures."""

    def __init__(self) -> None:
        import numpy as np

        random = np.random.default_rng(SEED)
        # Odd factors, so that multiplying by them is one to one in 64 bits.
        self._factors = random.integers(0, 1 << 63, (BANDS * BAND_ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = random.integers(0, 1 << 63, (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._words: dict[str, int] = {}
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._kept: list[tuple[str, tuple[Hashes, ...]]] = []
        self._signatures: list[Hashes] = []

    def knows(self, kind: str, parts: Sequence[str]) -> bool:
        """Whether a kept sample is near to this one; if none is, this one is kept."""
        shingles = tuple(self._shingles(part) for part in parts)
        signature = self._signature(shingles)
        bands = [(band, signature[band * BAND_ROWS : (band + 1) * BAND_ROWS].tobytes()) for band in range(BANDS)]
        places = sorted({place for band in bands for place in self._buckets.get(band, ())})
        if any(self._is_near(place, kind, shingles) for place in self._likely(places, signature)):
            return True
        for band in bands:
            bucket = self._buckets.setdefault(band, [])
            if len(bucket) < BUCKET_LIMIT:
                bucket.append(len(self._kept))
        self._kept.append((kind, shingles))
        self._signatures.append(signature)
        return False

    def _likely(self, places: list[int], signature: Hashes) -> list[int]:
        """Those worth measuring: the share of equal rows is the Jaccard value give or take 0.025, so most are far below."""
        import numpy as np

        if not places:
            return []
        shares = (np.array([self._signatures[place] for place in places]) == signature).mean(axis=1)
        return [place for place, share in zip(places, shares, strict=True) if share >= NEAR - 0.1]

    def _is_near(self, place: int, kind: str, shingles: tuple[Hashes, ...]) -> bool:
        other_kind, others = self._kept[place]
        return kind == other_kind and all(_jaccard(one, other) >= NEAR for one, other in zip(shingles, others, strict=True))

    def _shingles(self, text: str) -> Hashes:
        """Hashes of the word triples of a text, each once; a shorter text is one."""
        import numpy as np

        words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        hashed = np.fromiter((self._word(word) for word in words), dtype=np.uint64, count=len(words))
        count = max(1, len(hashed) - SHINGLE_WORDS + 1)
        mixed = np.full(count, len(hashed) if len(hashed) < SHINGLE_WORDS else 0, dtype=np.uint64)
        for place in range(min(SHINGLE_WORDS, len(hashed))):
            mixed = _mixed(mixed + hashed[place : place + count])
        return np.unique(mixed)

    def _word(self, word: str) -> int:
        found = self._words.get(word)
        if found is None:  # not the built-in hash: that differs from process to process, and a resumed run must see the same data
            found = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
            self._words[word] = found
        return found

    def _signature(self, shingles: Sequence[Hashes]) -> Hashes:
        """The smallest value of each of many hash functions over all triples; those of different parts are told apart."""
        import numpy as np

        every = np.concatenate([_mixed(part + np.uint64(place)) for place, part in enumerate(shingles)])
        signature = np.full(BANDS * BAND_ROWS, np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(every), BLOCK_SHINGLES):
            np.minimum(signature, (every[start : start + BLOCK_SHINGLES] * self._factors + self._offsets).min(axis=1), out=signature)
        return signature


def _mixed(values: Hashes) -> Hashes:
    """A one-to-one mixing of 64 bits (the finalizer of splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _jaccard(one: Hashes, other: Hashes) -> float:
    import numpy as np

    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
