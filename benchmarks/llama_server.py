"""Builds llama.cpp's own `llama-server` from the source inside llama-cpp-python's archive, to stand beside Paddock in benchmarks and tests.

Run `python -m benchmarks.llama_server`: it prints the path of the program, built once for each version into a cache. Needs cmake and a compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "llama-cpp-python"
SWITCHES = ("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF",
            "-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=Release")  # fmt: skip


def cached_program() -> Path:
    """Where the program of the installed version is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "paddock" / f"llama-server-{metadata.version(DISTRIBUTION)}" / "llama-server"


def build(program: Path) -> None:
    """Fetch the archive, build the server and put it at `program`.

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
        _do("cmake", "-S", str(source), "-B", str(made), *SWITCHES)
        _do("cmake", "--build", str(made), "--target", "llama-server", "--parallel", str(os.cpu_count() or 1))
        program.parent.mkdir(parents=True, exist_ok=True)
        staged = program.with_name(f".{program.name}.{os.getpid()}")
        staged.write_bytes(next(made.rglob("bin/llama-server")).read_bytes())
        staged.chmod(0o755)
        staged.replace(program)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> None:
    """Print the path, building first where it is not there."""
    program = cached_program()
    if not program.exists():
        build(program)
    print(program)


if __name__ == "__main__":
    main()
