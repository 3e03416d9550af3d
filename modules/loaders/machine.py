"""Memory and processor cores this process may use, container limits included.

Knows nothing of models; the loaders ask it before they take memory.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import psutil

from modules.core.errors import OutOfMemory
from modules.loaders import container

PROCESSORS = Path("/proc/cpuinfo")
TILES = b"ggml_backend_amx_buffer_type"  # a name in the library where it was built with them
RESERVE_BYTES = 128 << 20  # left for everything else on the machine
MOST_SPILL_BYTES = 2_000_000_000  # unless more is asked for
GRAPHICS_LIBRARIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"llama.cpp": ("llama_cpp", "lib/*ggml-cuda*"), "transformers": ("torch", "lib/*torch_cuda*")}
)


def size_text(size_bytes: float) -> str:
    """A size for people: 4.0 MB, 7.3 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{int(size_bytes)} bytes"


def available_bytes() -> int:
    """Memory this process can still take: free memory of the machine, or what its container has left if that is less."""
    free = int(psutil.virtual_memory().available)
    left = container.memory_left()
    return free if left is None else min(free, left)


def free_bytes() -> int:
    """What of it a model may take."""
    return max(0, available_bytes() - RESERVE_BYTES)


def resident_bytes() -> int:
    """Memory this process holds now."""
    return int(psutil.Process().memory_info().rss)


def private_bytes() -> int:
    """Memory of this process that is no file's; 0 where the system does not tell."""
    return _status_bytes("self", "RssAnon")


def peak_bytes(pid: int) -> int:
    """The most memory a process has held; what it holds now where the system keeps no peak, 0 if it is gone."""
    try:
        return _status_bytes(str(pid), "VmHWM") or int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _status_bytes(process: str, field: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration, ValueError):
        return 0


def usable_cores() -> int:
    """Physical cores whose time this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical, container.cores() or allowed))


def processor_name() -> str:
    """The processor in its maker's words."""
    try:
        for line in PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()


def has_tiles() -> bool:
    """Whether llama.cpp multiplies in tiles here (AMX): this processor can, as its system tells, and the installed library was built to. Imports nothing of it."""
    try:
        can = re.search(r"^flags\b.*\bamx_int8\b", PROCESSORS.read_text(encoding="ascii", errors="replace"), re.MULTILINE) is not None
        return can and any(TILES in library.read_bytes() for library in _library_files("llama_cpp", "lib/*ggml-cpu*"))
    except OSError:
        return False


def library_stamp() -> list[list[int]]:
    """Sizes and times of change of llama.cpp's library for processors, as far as it is installed: compiled anew it has other speeds. Imports nothing of it."""
    try:
        return sorted([status.st_size, status.st_mtime_ns] for status in (file.stat() for file in _library_files("llama_cpp", "lib/*ggml-cpu*")))
    except OSError:
        return []


def _library_files(package: str, pattern: str) -> Iterator[Path]:
    """The files of a package that match, as far as it is installed."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations if spec is not None else None) or ():
        yield from Path(root).glob(pattern)


def graphics_bytes(loader: str, card: int | None = None) -> int:
    """Free memory of the NVIDIA cards that the libraries of a loader can use, or of one of them as CUDA counts; 0 if there is none. Imports nothing of them."""
    program = shutil.which("nvidia-smi")
    package, pattern = GRAPHICS_LIBRARIES.get(loader, ("", ""))
    if not program or not package or not any(_library_files(package, pattern)):
        return 0
    command = [program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        cards = [[field.strip() for field in line.split(",")] for line in answer.splitlines() if line.strip()]
        free = [int(free_mib) << 20 for _, _, free_mib in _visible(cards)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
    return sum(free) if card is None else sum(free[card : card + 1])


def _visible(cards: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """The cards (number, name, more) that CUDA is told to use, in its order: by their number, or the beginning of their name, and none behind an unknown one.

    Source: CUDA programming guide, `CUDA_VISIBLE_DEVICES`.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return cards
    found: list[Sequence[str]] = []
    for name in map(str.strip, named.split(",")):
        card = next((card for card in cards if name == card[0] or (name and card[1].startswith(name))), None)
        if card is None or card in found:
            break
        found.append(card)
    return found


def graphics_bytes_by_process() -> dict[int, int]:
    """Memory of NVIDIA cards by the id of the process that holds it; nothing where there is no card, or where its driver tells none."""
    program = shutil.which("nvidia-smi")
    if not program:
        return {}
    command = [program, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    found: dict[int, int] = {}
    try:
        for line in subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines():
            pid, _, used_mib = line.partition(",")
            found[int(pid)] = found.get(int(pid), 0) + (int(used_mib) << 20)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return found


def spill_bytes(asked_gb: float) -> int:
    """How much main memory conversations without a slot may take: what was asked for, or a tenth of the machine's, but no large part of what is free."""
    if asked_gb >= 0:
        return int(asked_gb * 1e9)
    return min(psutil.virtual_memory().total // 10, MOST_SPILL_BYTES, available_bytes() // 4)


def check_memory(needed_bytes: int, what: str, cure: str) -> None:
    """Refuse before a load what would not fit.

    Raises:
        OutOfMemory: with what is needed, what there is, and the cure.
    """
    available = free_bytes()
    if needed_bytes > available:
        raise OutOfMemory(
            f"{what} needs about {size_text(needed_bytes)} of memory and {size_text(available)} is free; {cure}.",
            needed_bytes=needed_bytes,
            available_bytes=available,
        )
