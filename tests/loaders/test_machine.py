"""Main memory for conversations without a slot: as asked for, or by what the machine has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.loaders import machine
from modules.loaders.machine import MOST_SPILL_BYTES, spill_bytes
from modules.loaders.registry import find_loader
from tests.tiny_models import TinyFiles


@pytest.mark.parametrize(("total", "free", "expected"), [
    (8_000_000_000, 6_000_000_000, 800_000_000),
    (64_000_000_000, 60_000_000_000, MOST_SPILL_BYTES),
    (64_000_000_000, 1_000_000_000, 250_000_000),  # a container may have less than the machine
])  # fmt: skip
def test_by_itself_it_is_a_tenth_and_never_a_large_part_of_what_is_free(monkeypatch: pytest.MonkeyPatch, total: int, free: int, expected: int) -> None:
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=free))
    monkeypatch.setattr(machine, "available_bytes", lambda: free)
    assert spill_bytes(-1) == expected
    assert spill_bytes(0) == 0
    assert spill_bytes(12.5) == 12_500_000_000


@pytest.mark.parametrize("name", ["llama.cpp", "transformers"])
def test_loaders_hand_on_what_was_asked_for(tiny: TinyFiles, name: str) -> None:
    path = tiny.gguf if name == "llama.cpp" else tiny.folder
    spec = find_loader(path, name)
    for asked, expected in ((0.001, 1_000_000), (0, 0)):
        model = spec.load(path, spec.options(spill_memory_gb=asked, slots=1, threads=1), lambda stage, done: None)
        assert model.spill_bytes == expected
        model.runner.close()


def test_a_processor_with_tiles_is_known_by_its_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, library = tmp_path / "cpuinfo", tmp_path / "libggml-cpu.so"
    library.write_bytes(b"\x7fELF" + machine.TILES + b"\0")
    monkeypatch.setattr(machine, "PROCESSORS", file)
    monkeypatch.setattr(machine, "_library_files", lambda *_: iter([library]))
    assert not machine.has_tiles()
    file.write_text("model name\t: amx_int8\nflags\t\t: fpu avx512f amx_bf16 amx_int8x\n")
    assert not machine.has_tiles()
    file.write_text("flags\t\t: fpu avx512f amx_bf16 avx512_fp16 amx_tile amx_int8\nbugs\t\t:\n")
    assert machine.has_tiles()
    library.write_bytes(b"\x7fELF")  # built for any processor
    assert not machine.has_tiles()


def test_the_installed_library_says_what_it_can() -> None:
    from modules.loaders.llama_cpp.c_api import library

    flags = machine.PROCESSORS.read_text() if machine.PROCESSORS.exists() else ""
    assert machine.has_tiles() == (b"AMX_INT8 = 1" in library().llama_print_system_info() and " amx_int8" in flags)


def test_a_library_that_was_compiled_anew_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.library_stamp()  # of the one that is installed
    library = tmp_path / "libggml-cpu.so"
    monkeypatch.setattr(machine, "_library_files", lambda *_: iter([library]))
    assert machine.library_stamp() == []
    library.write_bytes(b"one")
    first = machine.library_stamp()
    assert machine.library_stamp() == first
    library.write_bytes(b"other")
    assert machine.library_stamp() != first
