"""The shape of a conversation: messages by their parents, and one path of it. Pure; knows ids and their order, no texts and no SQL."""

from __future__ import annotations

from collections.abc import Iterable


class MessageTree:
    """Links of one conversation. Several messages without parent are versions of the first message."""

    def __init__(self, links: Iterable[tuple[str, str | None]]) -> None:
        """Take (id, parent id) pairs, oldest first."""
        self._parents: dict[str, str | None] = {}
        self._children: dict[str | None, list[str]] = {}
        self._order: dict[str, int] = {}
        for place, (message_id, parent_id) in enumerate(links):
            self._parents[message_id] = parent_id
            self._children.setdefault(parent_id, []).append(message_id)
            self._order[message_id] = place

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._parents

    def path(self, message_id: str | None) -> list[str]:
        """From the root to a message; empty for None."""
        path: list[str] = []
        seen: set[str] = set()  # a damaged row must not make this endless
        while message_id is not None and message_id in self._parents and message_id not in seen:
            seen.add(message_id)
            path.append(message_id)
            message_id = self._parents[message_id]
        return path[::-1]

    def versions(self, message_id: str) -> tuple[str, ...]:
        """The messages with the same parent, itself included, oldest first."""
        return tuple(self._children[self._parents[message_id]])

    def below(self, message_id: str) -> list[str]:
        """A message and all that follow it, in every branch."""
        found: list[str] = []
        seen: set[str] = set()
        waiting = [message_id]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                found.append(current)
                waiting.extend(self._children.get(current, ()))
        return found

    def newest_leaf(self, message_id: str | None = None) -> str | None:
        """The newest message below (or equal to) this one that nothing follows; of the whole tree for None."""
        candidates = self._order if message_id is None else self.below(message_id)
        leaves = [found for found in candidates if found not in self._children]
        return max(leaves, key=self._order.__getitem__, default=None)

    def head_without(self, message_id: str, head_id: str | None) -> str | None:
        """What is shown last after a message and all below it are gone.

        The head stays when it survives; else it is the newest leaf of the nearest version (the one before, or the one after),
        else the parent.
        """
        if head_id not in self.below(message_id):
            return head_id
        versions = self.versions(message_id)
        place = versions.index(message_id)
        if len(versions) > 1:
            return self.newest_leaf(versions[place - 1] if place else versions[1])
        return self._parents[message_id]


class KnownPath:
    """The ids of a path as somebody knows it, first message first, and the place of each."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = list(ids)
        self.places = {message_id: place for place, message_id in enumerate(self.ids)}

    def go_on(self, kept: int, added: Iterable[str]) -> None:
        """Keep the first messages, and put others behind them."""
        for message_id in self.ids[kept:]:
            del self.places[message_id]
        del self.ids[kept:]
        for message_id in added:
            self.places[message_id] = len(self.ids)
            self.ids.append(message_id)
