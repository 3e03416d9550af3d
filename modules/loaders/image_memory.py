"""What a loader remembers of images: the same picture for the same file, and what the model read at it, each within its limit.

Knows no library; how a picture is made and looked at is handed in. Any thread may ask.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from modules.core.model import ImageToken

FILES_KEPT_BYTES = 64 << 20  # of images whose prompts are gone
SEEN_KEPT_BYTES = 256 << 20  # of what the model reads at images

Picture = TypeVar("Picture")
Read = TypeVar("Read", bound=tuple[Any, ...])
Value = TypeVar("Value")


class ImageMemory(Generic[Picture, Read]):
    """Pictures by their files, and arrays with `nbytes` by pictures; the ones used last stay."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # guards the tables
        self.using = threading.Lock()  # guards what looks at images, for as long as that takes
        self._by_hash: weakref.WeakValueDictionary[str, Picture] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[Picture, int] = OrderedDict()  # bytes of the file
        self._seen: OrderedDict[Picture, Read] = OrderedDict()

    def picture(self, file: bytes, make: Callable[[bytes], Picture]) -> Picture:
        """The picture of an image file, made where it is not known."""
        key = hashlib.sha256(file).hexdigest()
        picture = self._by_hash.get(key)
        if picture is None:
            picture = self._by_hash[key] = make(file)
        with self.lock:
            _keep(self._recent, picture, len(file), FILES_KEPT_BYTES, lambda size: size)
        return picture

    def read(self, picture: Picture, look: Callable[[Picture], Read]) -> Read:
        """What the model reads at a picture; one thread at a time looks at what is not known."""
        known = self._known(picture)
        if known is not None:
            return known
        with self.using:
            known = self._known(picture)  # another thread was as quick
            if known is not None:
                return known
            seen = look(picture)
        with self.lock:
            _keep(self._seen, picture, seen, SEEN_KEPT_BYTES, lambda arrays: sum(array.nbytes for array in arrays))
        return seen

    def forget(self) -> None:
        """What was read counts no more."""
        with self.lock:
            self._seen.clear()

    def _known(self, picture: Picture) -> Read | None:
        with self.lock:
            if picture in self._seen:
                self._seen.move_to_end(picture)
            return self._seen.get(picture)


def images_of(token_ids: Sequence[int]) -> Iterable[Any]:
    """The pictures whose tokens are among these ids, each once."""
    return dict.fromkeys(token.image for token in token_ids if isinstance(token, ImageToken))


def _keep(table: OrderedDict[Picture, Value], picture: Picture, value: Value, limit_bytes: int, size_of: Callable[[Value], int]) -> None:
    """Put an entry in front; what is beyond the limit goes, oldest first, but never the new one."""
    table[picture] = value
    table.move_to_end(picture)
    while len(table) > 1 and sum(map(size_of, table.values())) > limit_bytes:
        table.popitem(last=False)
