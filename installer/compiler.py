"""What the compiler here gets wrong, and what llama.cpp is compiled with in spite of it.

GCC before 11.5, 12.4, 13.3 and 14 takes the table that `_tile_loadconfig` reads for 8 bytes and may leave the rest unwritten (its bug 114098): on processors
with AMX llama.cpp then ends with a segmentation fault at its first step. Such a compiler is known by what its programs do, whatever its version says.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

COMPILERS = ("c++", "g++", "clang++")  # in the order in which cmake looks for them
HEADERS = Path(__file__).parent / "headers"
WHOLE_TABLE = "-include paddock_tiles.h"  # of HEADERS: the instruction as it should be
NO_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# Ends with 0 where the processor took the table that was meant. Does not compile where processor or compiler know no tiles.
PROBE = """
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
struct Table { unsigned char palette = 0, row = 0, none[14] = {0}; unsigned short bytes[16] = {0}; unsigned char rows[16] = {0}; };
int main() {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;  // ARCH_REQ_XCOMP_PERM: a system that lends no tiles is asked by llama.cpp too
    alignas(64) Table wanted = {};
    wanted.palette = 1;
    for (int tile = 0; tile < 8; ++tile) { wanted.bytes[tile] = 64; wanted.rows[tile] = 16; }
    _tile_loadconfig(&wanted);
    alignas(64) unsigned char found[64];
    asm volatile("sttilecfg %0" : "=m"(found));
    return found[16 + 2 * 7] == 64 && found[48 + 7] == 16 ? 0 : 1;
}
"""

# No tiles in what it compiles; the whole table was loaded; it was not; its program could not be started, or not be waited for
Found = Literal["absent", "sound", "broken", "unknown"]
Probe = Callable[[str, Mapping[str, str]], Found]


def compiler(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str:
    """The command of the C++ compiler that cmake takes; empty if there is none."""
    named = environment.get("CXX", "")
    return named if named and which(named.split()[0]) else next((name for name in COMPILERS if which(name)), "")


def with_sound_tiles(environment: Mapping[str, str], probe: Probe | None = None) -> dict[str, str]:
    """The environment, with flags under which llama.cpp computes with tiles as it should, or without them where it cannot."""
    found = dict(environment)
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        return found
    command = compiler(environment)
    ask = probe or (lambda flags, where: look(command, flags, where))
    if not command or ask("", found) in ("absent", "sound"):
        return found
    told = {**found, "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, (str(HEADERS), found.get("CPLUS_INCLUDE_PATH"))))}
    if ask(WHOLE_TABLE, told) in ("sound", "unknown"):  # to a sound compiler the header does nothing
        return _with(told, WHOLE_TABLE, ("CXXFLAGS",))
    return _with(found, NO_TILES, ("CFLAGS", "CXXFLAGS"))


def _with(environment: dict[str, str], flags: str, names: tuple[str, ...]) -> dict[str, str]:
    return {**environment, **{name: f"{environment.get(name, '')} {flags}".strip() for name in names}}


def look(command: str, flags: str, environment: Mapping[str, str]) -> Found:
    """What becomes of a table of tiles in a program of this compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cpp"), Path(folder, "probe")
        source.write_text(PROBE, encoding="ascii")
        compiling = [*command.split(), "-O3", "-march=native", *flags.split(), str(source), "-o", str(program)]
        try:
            if subprocess.run(compiling, env=dict(environment), capture_output=True, timeout=60, check=False).returncode:
                return "absent"
            return "broken" if subprocess.run([str(program)], capture_output=True, timeout=10, check=False).returncode else "sound"
        except (OSError, subprocess.SubprocessError):
            return "unknown"
