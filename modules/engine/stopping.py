"""Stop strings over a stream of text: what may be shown now, and whether a stop string was completed.

Pure text. Knows no tokens, no model and no thread.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopChecker:
    """Cuts a stream of text at the stop string that is completed first.

    Text that may be the beginning of a stop string is held back until it is certain. The result does not depend on how the text was
    split into pieces: the stop string whose last character comes first wins, and of several ending there the longest.
    """

    __slots__ = ("_firsts", "_held", "_longest", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take more text; return what may be shown now and the stop string that ended the text, if one did."""
        if not self._stops:
            return text, None
        if not text:
            return "", None
        held = self._held + text
        found = self._first_stop(held)
        if found is not None:
            self._held = ""
            return held[: found[0]], found[1]
        keep_from = self._uncertain_from(held)
        self._held = held[keep_from:]
        return held[:keep_from], None

    def flush(self) -> str:
        """The text held back: it was no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Start and text of the stop string that is completed first."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        return None if best is None else (best[1], best[2])

    def _uncertain_from(self, text: str) -> int:
        """Where the longest suffix begins that a stop string could begin with; the length of the text if none."""
        length = len(text)
        for start in range(max(0, length - self._longest + 1), length):
            if text[start] in self._firsts:
                suffix = text[start:]
                if any(stop.startswith(suffix) for stop in self._stops):
                    return start
        return length
