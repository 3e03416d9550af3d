"""A runner and a tokenizer that compute nothing but check every call: for tests of bookkeeping only.

The fake model's next token is a function of all tokens before it in the slot, so a wrong slot, position or prefix changes the text.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from modules.core.errors import OutOfMemory
from modules.core.generation import Delta, Started
from modules.core.model import Row
from modules.engine.events import Event

BOS, EOS, MARK = 256, 257, 258  # MARK is a special token that ends no text by itself
VOCAB_SIZE = 259
WRITTEN = {BOS: b"<s>", EOS: b"</s>", MARK: b"<|mark|>"}


class ByteTokenizer:
    """One token per byte, and three special ones written <s>, </s> and <|mark|>."""

    vocab_size = VOCAB_SIZE
    bos_id: int | None = BOS
    adds_bos = True
    end_ids = frozenset({EOS})

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if parse_special:
            for token_id, raw in WRITTEN.items():
                if text == raw.decode():
                    return [token_id]
        return ([BOS] if add_special else []) + list(text.encode())

    def piece(self, token_id: int) -> bytes:
        return WRITTEN.get(token_id) or bytes([token_id])

    def is_special(self, token_id: int) -> bool:
        return token_id >= 256


def next_byte(ids: Sequence[int]) -> int:
    """The fake model: a printable byte that depends on everything before it."""
    return 97 + zlib.crc32(np.array(ids, np.int32).tobytes()) % 26


def solo(prompt: Sequence[int], count: int) -> list[int]:
    """What the fake model writes after a prompt when nobody else is there."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_byte(ids))
    return ids[len(prompt) :]


class FakeRunner:
    """A `Runner` that keeps the tokens of each slot and refuses every inconsistent call."""

    vocab_size = VOCAB_SIZE
    keeps_parts = mixes_slots = True
    can_mark = False
    tile_rows = 0

    def __init__(self, *, slots: int = 4, context: int = 256, capacity: int | None = None, batch: int = 64, rule=next_byte) -> None:
        self.n_slots = slots
        self.context_length = context
        self.capacity_tokens = slots * context if capacity is None else capacity
        self.max_batch_tokens = batch
        self.max_outputs = batch
        self.slots: list[list[int]] = [[] for _ in range(slots)]
        self.rule = rule
        self.memory_tokens: int | None = None  # really there, where it is less than promised
        self.fail_with: BaseException | None = None
        self.gate: threading.Semaphore | None = None  # each step waits for one permit
        self.entered = threading.Semaphore(0)
        self.batches: list[list[Row]] = []
        self.closed = False
        self.packed: dict[int, list[np.ndarray]] = {}
        self.ready_bytes = 0  # of memory for the next state

    def forward(self, rows: Sequence[Row]) -> list[object]:
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=20)
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        assert not self.closed
        assert rows
        assert len({row.slot for row in rows}) == len(rows)
        total = sum(len(row.token_ids) for row in rows)
        assert 0 < total <= self.max_batch_tokens
        held = sum(map(len, self.slots))
        if self.memory_tokens is not None and held + total > self.memory_tokens:
            raise OutOfMemory("The cache is full.")
        assert held + total <= self.capacity_tokens
        logits = []
        for row in rows:
            assert row.slot >= 0
            slot = self.slots[row.slot]
            assert row.start == len(slot)
            assert len(row.token_ids) > 0
            slot.extend(row.token_ids)
            assert len(slot) <= self.context_length
            assert 1 <= row.outputs <= len(row.token_ids)
            assert sum(each.outputs for each in rows) <= self.max_outputs
            logits += [self._entry(slot[: len(slot) - left]) for left in reversed(range(row.outputs))]
        self.batches.append(list(rows))
        return logits

    def _entry(self, slot: list[int]) -> object:
        """A row that prefers what the rule says; a rule may also return a row of its own."""
        chosen = self.rule(slot)
        if not isinstance(chosen, int):
            return chosen
        entry = np.zeros(self.vocab_size, np.float32)
        entry[chosen] = 20.0
        return entry

    def score(self, token_ids: Sequence[int], chunk_done: Callable[[], None] | None = None) -> np.ndarray:
        assert sum(map(len, self.slots[1:])) + len(token_ids) <= self.capacity_tokens
        self.slots[0] = []
        for _ in range(0, len(token_ids), self.max_batch_tokens):
            self.entered.release()
            if self.gate is not None:
                assert self.gate.acquire(timeout=20)
            if chunk_done is not None:
                chunk_done()
        return np.array([-float(token) for token in token_ids[1:]], np.float32)

    def mark(self, slot: int) -> None:
        raise AssertionError("not asked for")

    def cuts(self, slot: int) -> tuple[int, ...]:
        return ()

    def truncate(self, slot: int, length: int) -> int:
        del self.slots[slot][length:]
        return len(self.slots[slot])

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        assert source != target
        assert length <= len(self.slots[source])
        self.slots[target] = self.slots[source][:length]
        assert sum(map(len, self.slots)) <= self.capacity_tokens
        return True

    def state_bytes(self, slot: int) -> int:
        return 4 * len(self.slots[slot])

    def marks_bytes(self, slot: int) -> int:
        return 0

    def save_state(self, slot: int) -> list[int]:
        return list(self.slots[slot])

    def restore_state(self, slot: int, state: list[int], length: int) -> int:
        assert not self.slots[slot]
        assert sum(map(len, self.slots)) + len(state) <= self.capacity_tokens
        self.slots[slot] = state[: length if self.keeps_parts or length == len(state) else 0]
        return len(self.slots[slot])

    def drop_state(self, state: list[int]) -> None:
        state[:] = [-1] * len(state)  # whoever still uses it will not like it
        for part in self.packed.pop(id(state), ()):
            part[:] = 255

    def ready_memory(self, sizes: Sequence[int]) -> bool:
        self.ready_bytes = min(sum(sizes), self.ready_bytes + 4)
        return self.ready_bytes < sum(sizes)

    def pack_state(self, state: list[int]) -> tuple[object, list[np.ndarray]]:
        parts = self.packed[id(state)] = [np.array(state, np.int32).view(np.uint8)]  # the state's own memory, as far as a list has any
        return len(state), parts

    def unpack_state(self, form: object, parts: list[np.ndarray]) -> list[int]:
        state = parts[0].view(np.int32).tolist()
        assert len(state) == form
        return state

    def close(self) -> None:
        self.closed = True


class Inbox:
    """A sink that sorts an engine's events by generation and lets a test wait for ends."""

    def __init__(self) -> None:
        self.calls: list[list[Event]] = []
        self.deltas: dict[object, list[Delta]] = defaultdict(list)
        self.started: dict[object, Started] = {}
        self.errors: dict[object, Exception] = {}
        self.places: dict[object, list[int]] = defaultdict(list)
        self.order: list[object] = []  # generation of each delta with tokens, as delivered
        self._ended: set[object] = set()
        self._news = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self._news:
            self.calls.append(events)
            for event in events:
                self._take(event)
            self._news.notify_all()

    def _take(self, event: Event) -> None:
        generation = event.generation
        assert generation not in self._ended, "news after the end"
        if event.started is not None:
            assert generation not in self.started
            self.started[generation] = event.started
        if event.place is not None:
            self.places[generation].append(event.place)
        if event.delta is not None:
            self.deltas[generation].append(event.delta)
            if event.delta.token_ids:
                self.order.append(generation)
            if event.delta.finish_reason is not None:
                self._ended.add(generation)
        if event.error is not None:
            self.errors[generation] = event.error
            self._ended.add(generation)

    def wait(self, *generations: object, timeout_s: float = 20) -> None:
        """Until all of them have ended."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended.issuperset(generations), timeout_s), "did not end in time"

    def wait_for(self, condition, timeout_s: float = 20) -> None:
        """Until something about this inbox holds."""
        with self._news:
            assert self._news.wait_for(condition, timeout_s), "did not happen in time"

    def ended(self, generation: object) -> bool:
        return generation in self._ended

    def ids(self, generation: object) -> list[int]:
        return [token_id for delta in self.deltas[generation] for token_id in delta.token_ids]

    def text(self, generation: object) -> str:
        return "".join(delta.text for delta in self.deltas[generation])

    def last(self, generation: object) -> Delta:
        return self.deltas[generation][-1]
