"""What this machine is: accelerator, memory, compiler, package manager.

Knows how to find these with the standard library and the machine's own tools, and which package index serves which
accelerator. Installs nothing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KINDS = ("cpu", "cuda", "rocm", "metal")
TORCH_INDEX = "https://download.pytorch.org/whl/"
LLAMA_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/"
# Lowest NVIDIA driver (major) → label of the torch build, of the prebuilt llama.cpp; newest first
CUDA_BUILDS = ((580, "cu130", "cu130"), (525, "cu126", "cu125"))
ROCM_BUILD = "rocm7.2"

Runner = Callable[[list[str]], str]


@dataclass(frozen=True)
class Accelerator:
    """What computes here. `torch_label` and `llama_label` name the builds for it (empty: the default on PyPI)."""

    kind: str
    devices: tuple[str, ...] = ()
    detail: str = ""
    torch_label: str = ""
    llama_label: str = ""

    def __str__(self) -> str:
        names = ", ".join(self.devices) or ("the processor" if self.kind == "cpu" else self.kind.upper())
        return f"{names} ({self.detail})" if self.detail else names


def ask(command: list[str]) -> str:
    """Output of a tool of the system; empty when it is missing, fails or takes more than 10 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def parse_nvidia_smi(text: str) -> tuple[tuple[str, ...], int]:
    """Devices and driver major version from `nvidia-smi --query-gpu=name,memory.total,driver_version`.

    A line that is not "name, memory, driver" is skipped: a broken driver prints sentences here.
    """
    devices, driver = [], 0
    for line in text.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        major = parts[-1].split(".")[0]
        if len(parts) == 3 and major.isdigit():
            devices.append(f"{parts[0]} {parts[1]}")
            driver = int(major)
    return tuple(devices), driver


def parse_rocminfo(text: str) -> tuple[str, ...]:
    """Names of the GPU agents in the output of `rocminfo` (it lists processors too)."""
    devices, name = [], ""
    for line in text.splitlines():
        key, _, value = line.strip().partition(":")
        if key == "Marketing Name":
            name = value.strip()
        elif key == "Device Type" and value.strip() == "GPU":
            devices.append(name or "AMD GPU")
    return tuple(devices)


def cuda(devices: tuple[str, ...], driver: int) -> Accelerator:
    """The CUDA build for a driver, or the CPU with the reason when the driver is too old."""
    for lowest, torch_label, llama_label in CUDA_BUILDS:
        if driver >= lowest:
            return Accelerator("cuda", devices, f"NVIDIA driver {driver}", torch_label, llama_label)
    lowest = CUDA_BUILDS[-1][0]
    reason = f"its NVIDIA driver {driver} is older than {lowest}: update it, then run `python3 launch.py setup`"
    return Accelerator("cpu", devices, reason, "cpu", "cpu")


def detect(run: Runner = ask, system: str = sys.platform, machine: str | None = None) -> Accelerator:
    """The best accelerator here: NVIDIA, then AMD (Linux), then Apple; else the CPU."""
    machine = machine or platform.machine()
    if system == "darwin":
        if machine == "arm64":
            return Accelerator("metal", ("Apple GPU",), "Metal", "", "metal")
        return Accelerator("cpu", (), "Intel Mac", "", "cpu")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    devices, driver = parse_nvidia_smi(run(query))
    if devices:
        return cuda(devices, driver)
    if system.startswith("linux"):
        amd = parse_rocminfo(run(["rocminfo"]) or run(["/opt/rocm/bin/rocminfo"]))
        if amd:
            return Accelerator("rocm", amd, "ROCm", ROCM_BUILD, "rocm72")
    return Accelerator("cpu", (), "", "cpu", "cpu")


def forced(kind: str) -> Accelerator:
    """The accelerator of a kind that a person asked for, with its devices where they are found."""
    found = detect()
    if kind == "cpu":
        return Accelerator("cpu", (), "chosen by hand", "" if sys.platform == "darwin" else "cpu", "cpu")
    if found.kind == kind:
        return found
    if kind == "cuda":
        return Accelerator("cuda", (), "chosen by hand", *CUDA_BUILDS[0][1:])
    if kind == "rocm":
        return Accelerator("rocm", (), "chosen by hand", ROCM_BUILD, "rocm72")
    return Accelerator("metal", (), "chosen by hand", "", "metal")


def cmake_args(accelerator: Accelerator) -> str:
    """How llama.cpp is compiled for an accelerator. Without OpenSSL: nothing here lets it open a connection."""
    switch = {"cuda": "-DGGML_CUDA=on", "rocm": "-DGGML_HIP=on", "metal": "-DGGML_METAL=on"}
    return " ".join(("-DGGML_NATIVE=on", "-DLLAMA_OPENSSL=off", switch.get(accelerator.kind, ""))).strip()


def gpu_compiler(accelerator: Accelerator, which: Callable[[str], str | None] = shutil.which) -> str:
    """Empty when the compiler for the GPU is here, else the sentence that says what to install."""
    if accelerator.kind == "cuda" and not which("nvcc"):
        return ("The CUDA compiler (nvcc) is missing, so llama.cpp is built for the processor. For GGUF models on the GPU "
                "install the CUDA toolkit, then run `python3 launch.py setup --again`.")
    if accelerator.kind == "rocm" and not (which("hipcc") or Path("/opt/rocm/bin/hipcc").exists()):
        return ("The ROCm compiler (hipcc) is missing, so llama.cpp is built for the processor. For GGUF models on the GPU "
                "install rocm-hip-sdk, then run `python3 launch.py setup --again`.")
    return ""


def package_manager(which: Callable[[str], str | None] = shutil.which) -> str:
    """The first known package manager of the system, or an empty string."""
    known = ("apt-get", "dnf", "pacman", "zypper", "apk", "brew")
    return next((name for name in known if which(name)), "")


def missing_compiler(system: str = sys.platform, which: Callable[[str], str | None] = shutil.which) -> str:
    """Empty when a C++ compiler is here, else the sentence that says what to install."""
    if system == "win32":
        installer = Path(os.environ.get("PROGRAMFILES(X86)", "C:/Program Files (x86)"))
        if which("cl") or (installer / "Microsoft Visual Studio" / "Installer" / "vswhere.exe").exists():
            return ""
        return ("llama.cpp must be compiled and no C++ compiler was found. Install \"Visual Studio Build Tools\" with the "
                "workload \"Desktop development with C++\" (winget install Microsoft.VisualStudio.2022.BuildTools), then "
                "start again: set-up goes on where it stopped.")
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if any(name and which(name.split()[0]) for name in compilers):
        return ""
    how = {
        "apt-get": "sudo apt-get install build-essential",
        "dnf": "sudo dnf install gcc-c++ make",
        "pacman": "sudo pacman -S base-devel",
        "zypper": "sudo zypper install gcc-c++ make",
        "apk": "sudo apk add build-base linux-headers",
    }.get(package_manager(which), "install g++ or clang++ with the system's package manager")
    if system == "darwin":
        how = "xcode-select --install"
    return ("llama.cpp must be compiled and no C++ compiler was found. Install one: "
            f"{how}. Then start again: set-up goes on where it stopped.")


def memory_bytes() -> tuple[int, int]:
    """Memory of the machine and the part of it that is free, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        total = ask(["sysctl", "-n", "hw.memsize"]).strip()
        return (int(total) if total.isdigit() else 0), 0
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) >= 2}
    return table.get("MemTotal", 0), table.get("MemAvailable", 0)


def _windows_memory() -> tuple[int, int]:
    """GlobalMemoryStatusEx: a structure whose first field is its own size, then load, total, available."""
    status = (ctypes.c_ulonglong * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return int(status[1]), int(status[2])


def build_jobs() -> int:
    """Compilers at once: one per core, but no more than one per GiB of memory (a file of llama.cpp takes up to 1)."""
    total, _ = memory_bytes()
    cores = os.cpu_count() or 1
    return max(1, min(cores, total // 2**30)) if total else cores
