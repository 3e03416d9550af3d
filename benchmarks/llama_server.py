"""Builds llama.cpp's own `llama-server` and `llama-bench` from the source inside llama-cpp-python's archive, to stand beside Paddock in benchmarks and tests.

`python -m benchmarks.llama_server` prints the path of the server, `python -m benchmarks.llama_server llama-bench` that of the other: built once for each
version into a cache (delete it there after a change of the compiler). Needs cmake and a compiler; CMAKE_BUILD_PARALLEL_LEVEL limits the cores that it takes.
With `plain` behind the name it is built as its makers do, otherwise with the flags of the library that Paddock runs in (installer/compiler.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from installer.compiler import MARK, for_llama, with_sound_tiles

DISTRIBUTION = "llama-cpp-python"
SERVER, BENCH = PROGRAMS = ("llama-server", "llama-bench")
SWITCHES = ("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF",
            "-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=Release")  # fmt: skip


def cached_program(name: str = SERVER, *, plain: bool = False) -> Path:
    """Where the program of the installed version is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    flags = "" if plain else f"-{MARK.replace(' ', '-')}"
    return cache / "paddock" / f"llama-server-{metadata.version(DISTRIBUTION)}{flags}" / name


def built_program(name: str = SERVER, *, plain: bool = False) -> Path:
    """The program, built first where it is not there: with the flags of our library, or `plain`."""
    program = cached_program(name, plain=plain)
    if not program.exists():
        build(program, plain=plain)
    return program


def build(program: Path, *, plain: bool) -> None:
    """Fetch the archive, build the program of that name and put it there.

    Raises:
        CalledProcessError: a step failed; what it printed is above.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{DISTRIBUTION}=={metadata.version(DISTRIBUTION)}"
        _do(sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "-d", folder, wanted)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(Path(folder).glob("*/vendor/llama.cpp"))
        made = Path(folder) / "build"
        environment = with_sound_tiles(os.environ) if plain else for_llama(os.environ)  # without sound tiles it would not run
        _do("cmake", "-S", str(source), "-B", str(made), *SWITCHES, environment=environment)
        at_once = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        _do("cmake", "--build", str(made), "--target", program.name, "--parallel", at_once, environment=environment)
        program.parent.mkdir(parents=True, exist_ok=True)
        staged = program.with_name(f".{program.name}.{os.getpid()}")
        staged.write_bytes(next(made.rglob(f"bin/{program.name}")).read_bytes())
        staged.chmod(0o755)
        staged.replace(program)


def _do(*command: str, environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def main() -> None:
    """Print the path of a program.

    Raises:
        SystemExit: there is no program of that name.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else SERVER
    if name not in PROGRAMS or sys.argv[2:] not in ([], ["plain"]):
        raise SystemExit(f"“{' '.join(sys.argv[1:])}” is not built here; say {' or '.join(PROGRAMS)}, and plain behind it for one as its makers build it.")
    print(built_program(name, plain=bool(sys.argv[2:])))


if __name__ == "__main__":
    main()
