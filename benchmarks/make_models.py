"""Models of real shapes whose weights are chance, to measure speed with: written once into a cache.

    python benchmarks/make_models.py                          writes those that benchmarks/engine.py takes by default and prints where they are
    python benchmarks/make_models.py 0.5B-Q8_0 135M --cache DIR

NAME is SIZE-TYPE for a GGUF file, SIZE alone for a folder of safetensors. Sizes are those of stories15M, SmolLM2-135M and Qwen2.5-0.5B, and moe1B, a mixture of 32
experts of which a token takes four (GGUF alone), all with a context of 8,192 tokens; types are names of the gguf package and Q4_K_M, the mixture that llama.cpp makes. What such a model writes means nothing, the time and the
memory that it takes do.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf  # noqa: E402
from modules.loaders.transformers.random_model import RandomFolder, write_random_folder  # noqa: E402

EDITION = 1  # counts up when what is written changes: older files are not those that are meant
SIZES: Mapping[str, RandomModel] = MappingProxyType({
    "15M": RandomModel(6, 288, 768, 6, 6, 32_000, head_width=48),
    "135M": RandomModel(30, 576, 1536, 9, 3, 49_152, merges=True, tied=True),
    "moe1B": RandomModel(12, 1024, 768, 16, 4, 32_000, experts=32, experts_used=4),
    "0.5B": RandomModel(24, 896, 4864, 14, 2, 151_936, merges=True, architecture="qwen2"),
})  # fmt: skip
DEFAULT = ("15M-Q8_0", "135M-Q8_0", "0.5B-Q4_K_M", "0.5B-Q8_0")


def default_cache() -> Path:
    """Where models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock" / f"models-{EDITION}"


def made(name: str, cache: Path) -> Path:
    """The model of that name, written first where it is not there.

    Raises:
        SystemExit: there is no such size, or no folder of it.
    """
    size, _, kind = name.partition("-")
    if size not in SIZES:
        raise SystemExit(f"“{size}” is no size; say one of {', '.join(SIZES)}, and behind it a type for a GGUF file, like {DEFAULT[0]}.")
    if SIZES[size].experts and not kind:
        raise SystemExit(f"A mixture of experts is written as a GGUF file only; say for instance {size}-Q4_K_M.")
    path = cache / (f"{name}.gguf" if kind else name)
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        staged = cache / f".{path.name}.{os.getpid()}"
        print(f"writing {path}", file=sys.stderr)
        try:
            _write(staged, SIZES[size], kind)
            staged.rename(path)
        finally:
            if staged.is_dir():
                shutil.rmtree(staged)
            staged.unlink(missing_ok=True)
    return path


def _write(path: Path, sizes: RandomModel, kind: str) -> None:
    if kind:
        write_random_gguf(path, replace(sizes, quantization=kind))
        return
    write_random_folder(path, RandomFolder(
        sizes.layers, sizes.width, sizes.inner, sizes.heads, sizes.kv_heads, sizes.vocabulary, sizes.context_length, sizes.architecture, sizes.one_matrix,
        "bfloat16",
    ))  # fmt: skip


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT, metavar="NAME")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()
    for name in asked.names:
        print(made(name, asked.cache))


if __name__ == "__main__":
    main()
