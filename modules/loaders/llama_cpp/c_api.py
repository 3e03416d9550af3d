"""The part of llama.cpp's C interface that Paddock calls: one place for pointers, structures and callbacks.

Knows memory layouts and which calls may keep the interpreter lock; knows nothing of models, text or slots. Everything a C structure points
at is kept alive by the object that owns the structure: a collected callback or buffer is a crash.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "llama_cpp"
LOG_LINES = 200
ERROR_LEVEL = 4  # ggml: debug 1, info 2, warn 3, error 4, continuation 5
CONTINUATION_LEVEL = 5
MESSAGE_LIMIT = 400
LEAST_GIVEN_BACK, LEAST_APART = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
APART_BYTES, KEPT_BYTES = 128 << 10, 32 << 20  # where glibc begins, and the most it comes to by itself
FLASH_ATTENTION = MappingProxyType({"auto": -1, "off": 0, "on": 1})  # llama.h


def library() -> Any:
    """The binding's module of C functions; its import loads the shared library.

    Raises:
        ImportError: there is no such package, or its library cannot be loaded.
    """
    return _part("llama_cpp.llama_cpp")


def _part(name: str) -> Any:
    """A module of the binding alone: what the package around it imports (chat formats, a cache on disk with SQLite) takes 3 MB of each engine, and its log is another."""
    found = sys.modules.get(name)
    if found is None and PACKAGE not in sys.modules and (spec := find_spec(PACKAGE)) is not None:
        sys.modules[PACKAGE] = module_from_spec(spec)  # not run
        try:
            found = import_module(name)
        finally:
            sys.modules.pop(PACKAGE, None)  # who imports the package gets all of it
    return found or import_module(name)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Have what is freed meanwhile go back to the system, where its C library can (glibc): loading leaves holes of many megabytes that nothing else fills.

    Large pieces lie apart until the end. From then on such pieces are kept: each step needs some of the same sizes again. Source: mallopt(3), malloc_trim(3).
    """
    native = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim, tune = getattr(native, "malloc_trim", None), getattr(native, "mallopt", None)
    if trim is None or tune is None:
        yield
        return
    tune(LEAST_APART, APART_BYTES)
    try:
        yield
    finally:
        trim(0)
        tune(LEAST_APART, KEPT_BYTES)
        tune(LEAST_GIVEN_BACK, 2 * KEPT_BYTES)


@contextmanager
def time_limit(context: int, seconds: float) -> Iterator[None]:
    """Have `llama_decode` on a processor break off, with code 2, once so much time is over. It asks at every operation of a step, which costs a large model's nothing."""
    binding, end_s = library(), time.perf_counter() + seconds
    is_over = binding.ggml_abort_callback(lambda _data: time.perf_counter() > end_s)
    binding.llama_set_abort_callback(context, is_over, None)
    try:
        yield
    finally:
        binding.llama_set_abort_callback(context, binding.ggml_abort_callback(0), None)


class TensorPlacement(ctypes.Structure):
    """`llama_model_tensor_buft_override`: tensors whose names match lie in that kind of memory."""

    _fields_ = (("pattern", ctypes.c_char_p), ("memory", ctypes.c_void_p))


def kept_in_memory(patterns: Sequence[str]) -> Any:
    """The list llama.cpp takes for tensors that stay in main memory, ended by an empty row; None without patterns."""
    if not patterns:
        return None
    main_memory = _part("llama_cpp._ggml").libggml.ggml_backend_cpu_buffer_type
    main_memory.restype, main_memory.argtypes = ctypes.c_void_p, []
    rows = [TensorPlacement(pattern.encode(), main_memory()) for pattern in patterns]
    return (TensorPlacement * (len(rows) + 1))(*rows, TensorPlacement(None, None))


class NativeLog:
    """What llama.cpp says while it loads; afterwards it is silenced by a C function that needs no interpreter lock."""

    def __init__(self) -> None:
        self._binding = library()
        self._lines: deque[tuple[int, str]] = deque(maxlen=LOG_LINES)
        self._python = self._binding.llama_log_callback(self._receive)
        # A pointer to a C function that ignores its arguments; a Python callback would take the lock inside every decode
        self._silent = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, self._binding.llama_log_callback)
        self._setters: list[Callable[[Any, Any], None]] = [self._binding.llama_log_set]

    def _receive(self, level: int, text: bytes, _user_data: Any) -> None:
        line = text.decode("utf-8", "replace")
        if level == CONTINUATION_LEVEL and self._lines:
            last_level, last = self._lines.pop()
            self._lines.append((last_level, last + line))
        else:
            self._lines.append((level, line))

    def listen(self) -> None:
        """Collect lines from now on."""
        self._lines.clear()
        self._set(self._python)

    def silence(self) -> None:
        """Drop all output from now on; costs nothing."""
        self._set(self._silent)

    def include(self, setter: Callable[[Any, Any], None]) -> None:
        """Another library with a log of its own: from the next `listen` or `silence` on it is heard with the rest."""
        self._setters.append(setter)

    def _set(self, receiver: Any) -> None:
        for setter in self._setters:
            setter(receiver, None)

    def errors(self) -> str:
        """The error lines since `listen`, joined and shortened; empty if there were none."""
        lines = [text.strip() for level, text in self._lines if level == ERROR_LEVEL and text.strip()]
        return "; ".join(dict.fromkeys(line.split(": ", 1)[-1] for line in lines))[:MESSAGE_LIMIT]


PIECE_BYTES = 256  # most tokens are shorter


class FastCalls:
    """Calls of under 5 µs, made without giving up the interpreter lock: giving it up costs as much as they do.

    The same library object, opened a second time by its path, so that it works under every platform's file name.
    """

    def __init__(self) -> None:
        native = ctypes.PyDLL(library()._lib._name)
        self.logits_at = native.llama_get_logits_ith
        self.logits_at.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.logits_at.restype = ctypes.c_void_p
        self.token_attributes = native.llama_vocab_get_attr
        self.token_attributes.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.token_attributes.restype = ctypes.c_int
        self.ends_generation = native.llama_vocab_is_eog
        self.ends_generation.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.ends_generation.restype = ctypes.c_bool
        self.token_text = native.llama_vocab_get_text
        self.token_text.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.token_text.restype = ctypes.c_char_p
        self._piece = native.llama_token_to_piece
        self._piece.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool]
        self._piece.restype = ctypes.c_int32

    def piece(self, vocab: int, token_id: int) -> bytes:
        """The bytes of a token in the range of the vocabulary, special ones as written. Any thread may ask, each with a buffer of its own."""
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        length = int(self._piece(vocab, token_id, ctypes.addressof(buffer), PIECE_BYTES, 0, True))
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = int(self._piece(vocab, token_id, ctypes.addressof(buffer), -length, 0, True))
        return buffer.raw[: max(0, length)]


class Batch:
    """One `llama_batch` whose pointers lead into NumPy arrays made once: filling it copies nothing."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity = capacity
        self.tokens: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.positions: NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.outputs: NDArray[np.int8] = np.zeros(capacity, np.int8)
        self._counts: NDArray[np.int32] = np.ones(capacity, np.int32)
        self._slot_ids: NDArray[np.int32] = np.arange(slots, dtype=np.int32)
        first = self._slot_ids.ctypes.data
        self._slot_addresses: NDArray[np.uintp] = np.array([first + 4 * slot for slot in range(slots)], np.uintp)
        self._slots: NDArray[np.uintp] = np.full(capacity, first, np.uintp)
        self._ramp: NDArray[np.int32] = np.arange(capacity, dtype=np.int32)
        self.native = self._structure()
        self.length = 0

    def _structure(self) -> Any:
        batch = library().llama_batch()
        integers = ctypes.POINTER(ctypes.c_int32)
        batch.token = self.tokens.ctypes.data_as(integers)
        batch.pos = self.positions.ctypes.data_as(integers)
        batch.n_seq_id = self._counts.ctypes.data_as(integers)
        batch.seq_id = ctypes.cast(self._slots.ctypes.data, ctypes.POINTER(integers))
        batch.logits = self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        return batch

    def clear(self) -> None:
        """Begin a new step."""
        self.length = 0

    def add(self, slot: int, start: int, token_ids: Any, outputs: int = 1) -> int:
        """Append one row and return the place of its last token; the logits of its outputs will be there and just before."""
        begin, count = self.length, len(token_ids)
        end = begin + count
        if count == 1:  # decode: scalar stores are faster than slices
            self.tokens[begin] = token_ids[0]
            self.positions[begin] = start
            self._slots[begin] = self._slot_addresses[slot]
            self.outputs[begin] = 1
        else:
            self.tokens[begin:end] = token_ids
            np.add(self._ramp[:count], start, out=self.positions[begin:end])
            self._slots[begin:end] = self._slot_addresses[slot]
            self.outputs[begin:end] = 0
            self.outputs[end - outputs : end] = 1
        self.length = end
        return end - 1

    def seal(self) -> Any:
        """The structure to hand to `llama_decode`."""
        self.native.n_tokens = self.length
        return self.native


class RowViews:
    """Zero-copy float32 arrays over logits rows in C memory, one per address, made once each."""

    def __init__(self, width: int) -> None:
        self._type = ctypes.c_float * width
        self._views: dict[int, NDArray[np.float32]] = {}

    def at(self, address: int) -> NDArray[np.float32]:
        """The row that begins at an address."""
        view = self._views.get(address)
        if view is None:
            if len(self._views) >= 1024:  # the output buffer moved often; old addresses are not asked for again
                self._views.clear()
            view = np.frombuffer(memoryview(self._type.from_address(address)).cast("B"), np.float32)
            view.flags.writeable = False
            self._views[address] = view
        return view
