"""The binding of llama.cpp: its C functions without the package around them, and the whole package for who wants it."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modules.loaders.llama_cpp.c_api import FastCalls, library
from modules.loaders.llama_cpp.loader import load
from modules.loaders.llama_cpp.options import LlamaCppOptions

ALONE = """
import sys
from modules.loaders.llama_cpp import c_api
binding = c_api.library()
assert c_api.library() is binding and binding.llama_print_system_info()
assert c_api.kept_in_memory(["blk.0"])[0].memory
assert not {"llama_cpp", "llama_cpp.llama", "diskcache", "sqlite3"} & set(sys.modules)
import llama_cpp
assert llama_cpp.Llama and llama_cpp.llama_cpp is binding is c_api.library()
"""
LATER = """
import llama_cpp
from modules.loaders.llama_cpp import c_api
assert c_api.library() is llama_cpp.llama_cpp
"""
GIVEN_BACK = """
import ctypes
from modules.loaders.llama_cpp.c_api import memory_given_back
from modules.loaders.machine import resident_bytes
native = ctypes.CDLL(None)
native.malloc.restype, native.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def taken(size):
    place = native.malloc(size)
    ctypes.memset(place, 1, size)
    return place
def churned():
    before = resident_bytes()
    pieces = [(taken(1 << 20), taken(5000)) for _ in range(64)]  # small ones that stay, between
    for large, _ in pieces:
        native.free(large)
    return resident_bytes() - before
native.free(taken(16 << 20))  # from now on the allocator keeps pieces of this size
with memory_given_back():
    left = churned()
    assert left < 8 << 20, left
before = resident_bytes()
native.free(taken(20 << 20))
kept = resident_bytes() - before
assert kept > 16 << 20, kept
"""
MISSING = """
import sys
sys.modules["llama_cpp"] = None
from modules.loaders.llama_cpp import c_api
try:
    c_api.library()
except ImportError:
    sys.exit()
sys.exit("imported")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_while_loading_goes_back(root: Path) -> None:
    subprocess.run([sys.executable, "-c", GIVEN_BACK], cwd=root, check=True, timeout=60)


def test_the_binding_comes_alone_and_the_package_when_it_is_wanted(root: Path) -> None:
    for code in (ALONE, LATER, MISSING):
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_a_piece_is_its_own_while_another_thread_asks_for_one(starter_gguf: Path) -> None:
    """The thread that makes prompts and the one of the model ask at the same time; between the native call and what is read of it the interpreter may change threads."""
    loaded = load(starter_gguf, LlamaCppOptions(slots=1, threads=1, threads_batch=1, context_length=256), lambda stage, done: None)
    vocab = library().llama_model_get_vocab(loaded.runner._binding.llama_get_model(loaded.runner._context))
    alone = [FastCalls().piece(vocab, token_id) for token_id in range(300, 340)]
    fast, native = FastCalls(), FastCalls()._piece

    def interrupted(*given: object) -> int:
        length = int(native(*given))
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=fast.piece, args=(vocab, 299))
            other.start()
            other.join()
        return length

    fast._piece = interrupted  # type: ignore[assignment]
    assert [fast.piece(vocab, token_id) for token_id in range(300, 340)] == alone
    loaded.runner.close()
