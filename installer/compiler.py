"""What llama.cpp is compiled with beyond its own flags: what the compiler here gets wrong, and loops that it leaves slow.

GCC before 11.5, 12.4, 13.3 and 14 takes the table that `_tile_loadconfig` reads for 8 bytes and may leave the rest unwritten (its bug 114098): on processors
with AMX llama.cpp then ends with a segmentation fault at its first step. Such a compiler is known by what its programs do, whatever its version says.

llama.cpp's attention takes numbers of half precision one by one where a head has fewer than its widest step, and looks for the largest of a row in one lane
of a register; it takes the heads of a token one after the other, whatever they share; it multiplies weights in 8 bits with several rows nearly as if these came one
after the other; and its threads ask the system, at every one of some hundred places in a step where they wait for each other, to wake who does not sleep, and get parts of
attention that divide what is computed at once. A header that is read before its sources says it better, for the processor here (`headers/paddock_loops.h` and what that one
reads); it is tried with a small program first.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

COMPILERS = ("c++", "g++", "clang++")  # in the order in which cmake looks for them
HEADERS = Path(__file__).parent / "headers"
WHOLE_TABLE = "-include paddock_tiles.h"  # of HEADERS: the instruction as it should be
NO_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
LOOPS_HEADER = "paddock_loops.h"  # of HEADERS too
READ_BY_IT = ("paddock_products.h", "paddock_kinds.h", "paddock_lanes.h", "paddock_barrier.h", "paddock_attention.h", "paddock_heads.h")
# llama.cpp finds OpenMP by itself; a trial's threads look for each other so seldom that they sleep, and share out whatever they compute, in parts of several eights
OPENMP = "-fopenmp -DPADDOCK_SPINS=20 -DPADDOCK_WORTH_DIVIDING=1 -DPADDOCK_PARTS=1"
NO_BARRIER, NO_HEADS, NO_PRODUCTS = "-DPADDOCK_NO_BARRIER", "-DPADDOCK_NO_HEADS", "-DPADDOCK_NO_PRODUCTS"
PARTS: Mapping[str, str] = MappingProxyType({NO_BARRIER: "how threads wait", NO_HEADS: "attention of few rows", NO_PRODUCTS: "products of matrices"})
LEFT_OUT = ("", *PARTS, " ".join(PARTS))  # of the loops, where they are not right as they are
COMPILING_S = 300  # a trial takes 4 s, and a busy machine must not lose what is right
TRIALS = Path(__file__).parent / "trials"  # programs that end with 0 where what they try is right
TILES_TRIAL, LOOPS_TRIAL = TRIALS / "tiles.cpp", TRIALS / "loops.cpp"
# No tiles in what it compiles; the whole table was loaded; it was not; its program could not be started, or not be waited for
Found = Literal["absent", "sound", "broken", "unknown"]
Probe = Callable[[str, Mapping[str, str]], Found]


def compiler(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str:
    """The command of the C++ compiler that cmake takes; empty if there is none."""
    named = environment.get("CXX", "")
    return named if named and which(named.split()[0]) else next((name for name in COMPILERS if which(name)), "")


def version_of(folder: Path) -> str:
    """A name for what the headers of the loops do, whatever their remarks say."""
    texts = [(folder / name).read_text(encoding="ascii") for name in (LOOPS_HEADER, *READ_BY_IT)]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("//")]
    return f"v{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:8]}"


LOOPS = f"-include {LOOPS_HEADER} -DPADDOCK_LOOPS={version_of(HEADERS)}"
MARK = f"paddock loops {version_of(HEADERS)}"  # with this begins what stands in a library that was compiled with them


def for_llama(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that llama.cpp is compiled in."""
    return with_loops(with_sound_tiles(environment))


def has_loops(environment: Mapping[str, str]) -> bool:
    """Whether what is compiled in that environment should have the loops."""
    return LOOPS in environment.get("CXXFLAGS", "")


def left_out(environment: Mapping[str, str]) -> list[str]:
    """The flags for parts of the loops that what is compiled in that environment does without."""
    return [flag for flag in PARTS if has_loops(environment) and flag in environment["CXXFLAGS"].split()]


def mark(environment: Mapping[str, str]) -> str:
    """What stands in a library that was compiled in that environment, which has the loops."""
    return MARK + "".join(f" {flag.removeprefix('-DPADDOCK_')}" for flag in left_out(environment)) + ";"


def without_loops(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, but for the loops."""
    if not has_loops(environment):
        return dict(environment)
    flags = environment["CXXFLAGS"].replace(LOOPS, "").split()
    return {**environment, "CXXFLAGS": " ".join(flag for flag in flags if flag not in PARTS)}


def with_sound_tiles(environment: Mapping[str, str], probe: Probe | None = None) -> dict[str, str]:
    """The environment, with flags under which llama.cpp computes with tiles as it should, or without them where it cannot."""
    found = dict(environment)
    command = _asked_compiler(environment)
    ask = probe or (lambda flags, where: look(command, flags, where))
    if not command or ask("", found) in ("absent", "sound"):
        return found
    told = _with_headers(found)
    if ask(WHOLE_TABLE, told) in ("sound", "unknown"):  # to a sound compiler the header does nothing
        return _with(told, WHOLE_TABLE, ("CXXFLAGS",))
    return _with(found, NO_TILES, ("CFLAGS", "CXXFLAGS"))


def with_loops(environment: Mapping[str, str], probe: Probe | None = None) -> dict[str, str]:
    """The environment, with the loops where compiler and processor take them, or those of their parts that are right."""
    command = _asked_compiler(environment)
    ask = probe or (lambda flags, where: look(command, flags, where, LOOPS_TRIAL))
    told = _with_headers(environment)
    unsaid = {name: value for name, value in told.items() if not name.startswith(("OMP_", "GOMP_"))}  # how threads are to wait and how many there are is tried as it is by itself
    for beside in LEFT_OUT if command else ():
        flags = f"{LOOPS} {beside}".strip()
        probed = flags if NO_BARRIER in beside else f"{flags} {OPENMP}"  # there may be a compiler without OpenMP
        if ask(probed, unsaid) == "sound":
            return _with(told, flags, ("CXXFLAGS",))
    return dict(environment)


def _asked_compiler(environment: Mapping[str, str]) -> str:
    """The compiler, on systems and processors that any of this is about."""
    return compiler(environment) if sys.platform.startswith("linux") and platform.machine() in ("x86_64", "AMD64") else ""


def _with_headers(environment: Mapping[str, str]) -> dict[str, str]:
    known = environment.get("CPLUS_INCLUDE_PATH", "")
    if str(HEADERS) in known.split(os.pathsep):
        return dict(environment)
    return {**environment, "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, (str(HEADERS), known)))}


def _with(environment: dict[str, str], flags: str, names: tuple[str, ...]) -> dict[str, str]:
    return {**environment, **{name: f"{environment.get(name, '')} {flags}".strip() for name in names}}


def look(command: str, flags: str, environment: Mapping[str, str], program: Path = TILES_TRIAL) -> Found:
    """What a program of this compiler does here: by default, what becomes of a table of tiles in it. It may include what lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "trial")
        told = [*environment.get("CXXFLAGS", "").split(), *flags.split()]
        compiling = [*command.split(), "-std=c++17", "-O3", "-march=native", f"-I{program.parent}", *told, str(program), "-o", str(made)]
        try:
            if subprocess.run(compiling, env=dict(environment), capture_output=True, timeout=COMPILING_S, check=False).returncode:
                return "absent"
            return "broken" if subprocess.run([str(made)], env=dict(environment), capture_output=True, timeout=10, check=False).returncode else "sound"
        except (OSError, subprocess.SubprocessError):
            return "unknown"
