"""What the machine is: GPUs, drivers, compilers, memory."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from installer import machine
from installer.machine import Accelerator
from tests.installer.checkouts import CPU

NOTHING: Callable[[str], str | None] = {}.get


def answers(table: dict[str, str]) -> Callable[[list[str]], str]:
    return lambda command: table.get(command[0], "")


@pytest.mark.parametrize(("text", "kind", "label", "devices"), [
    ("NVIDIA H100 80GB HBM3, 81559 MiB, 580.95.05\n", "cuda", "cu130", 1),
    ("NVIDIA GeForce RTX 3060, 12288 MiB, 535.183.01\nNVIDIA GeForce RTX 3060, 12288 MiB, 535.183.01\n", "cuda", "cu126", 2),
    ("GeForce GTX 1050, 2048 MiB, 470.10\n", "cpu", "cpu", 1),
    ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "cpu", "cpu", 0),
    ("", "cpu", "cpu", 0),
])
def test_nvidia_drivers_choose_the_cuda_build(text: str, kind: str, label: str, devices: int) -> None:
    found = machine.detect(answers({"nvidia-smi": text}), "linux", "x86_64")
    assert (found.kind, found.torch_label, len(found.devices)) == (kind, label, devices)


def test_an_old_driver_is_named_with_the_cure() -> None:
    assert "470 is older than 525: update it" in str(machine.detect(answers({"nvidia-smi": "GTX, 1 MiB, 470.1"}), "linux", "x86_64"))


ROCMINFO = """
Agent 1
  Marketing Name:          AMD Ryzen 9 7950X
  Device Type:             CPU
Agent 2
  Marketing Name:          Radeon RX 7900 XTX
  Device Type:             GPU
"""


def test_amd_and_apple_are_found_where_they_can_be() -> None:
    amd = answers({"rocminfo": ROCMINFO})
    assert machine.detect(amd, "linux", "x86_64") == Accelerator("rocm", ("Radeon RX 7900 XTX",), "ROCm", "rocm7.2", "rocm72")
    assert machine.detect(amd, "win32", "AMD64").kind == "cpu"
    assert machine.detect(answers({}), "darwin", "arm64").kind == "metal"
    assert machine.detect(answers({}), "darwin", "x86_64").torch_label == ""


def test_llama_cpp_is_compiled_for_the_accelerator() -> None:
    wanted = {"cpu": "GGML_NATIVE=on", "cuda": "GGML_CUDA=on", "rocm": "GGML_HIP=on", "metal": "GGML_METAL=on"}
    for kind, switch in wanted.items():
        assert switch in machine.cmake_args(Accelerator(kind))
    assert "CUDA" not in machine.cmake_args(CPU)


@pytest.mark.parametrize(("system", "manager", "words"), [
    ("linux", "apt-get", "sudo apt-get install build-essential"),
    ("linux", "dnf", "sudo dnf install gcc-c++ make"),
    ("linux", "pacman", "sudo pacman -S base-devel"),
    ("linux", "", "system's package manager"),
    ("darwin", "brew", "xcode-select --install"),
    ("win32", "", "Visual Studio Build Tools"),
])
def test_a_missing_compiler_is_one_sentence_with_the_cure(
    system: str, manager: str, words: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    sentence = machine.missing_compiler(system, {manager: "/usr/bin/it"}.get)
    assert words in sentence
    assert "start again" in sentence
    assert machine.missing_compiler(system, {"cl": "x", "c++": "x"}.get) == ""


def test_a_missing_gpu_compiler_says_what_it_costs() -> None:
    assert "CUDA toolkit" in machine.gpu_compiler(Accelerator("cuda"), NOTHING)
    assert machine.gpu_compiler(Accelerator("cuda"), {"nvcc": "/usr/bin/nvcc"}.get) == ""
    assert machine.gpu_compiler(CPU, NOTHING) == ""


def test_memory_and_build_jobs_are_those_of_this_machine() -> None:
    total, free = machine.memory_bytes()
    assert total > free >= 0
    assert 1 <= machine.build_jobs() <= (os.cpu_count() or 1)
