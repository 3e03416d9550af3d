"""Our engine beside llama.cpp's own server, `llama_cpp.server` and transformers: every measure has a bar, and both sides take turns in one run.

    python benchmarks/engine.py                                        everything, which takes hours on two cores
    python benchmarks/engine.py --part one first --models 15M-Q8_0     some measures, some models
    python benchmarks/engine.py --models FILE.gguf FOLDER              other models than those of benchmarks/make_models.py
    python benchmarks/engine.py --profile --models 15M-Q8_0            where the microseconds of a step go

All are asked through `/v1/completions` with streams, by one client on plain sockets, with the same sampling, seeds, prompts (token ids) and lengths, and are
told the same context, slots, threads and batch, but in part `own`. Ours is the real server with its page. A figure is the median of the repeats, a ratio the
median of the ratios within each; whoever is not measured is idle, and it is said where that was not so. `llama-server` and `llama-bench` are built from the
source of the library that Paddock runs in (benchmarks/llama_server.py).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import idle_memory, llama_parts, step_times, torch_parts  # noqa: E402
from benchmarks.contestants import Model, Yard  # noqa: E402
from benchmarks.llama_parts import Bench, Part  # noqa: E402
from benchmarks.llama_server import PROGRAMS, built_program  # noqa: E402
from benchmarks.make_models import SIZES, default_cache, made  # noqa: E402
from benchmarks.measures import HEAD, Turns, line  # noqa: E402

SMALL, MIDDLE, LARGE = "15M-Q8_0", "135M-Q8_0", "0.5B-Q4_K_M"
# name → what measures it, and the models that the bars are for
PARTS: Mapping[str, tuple[Part, tuple[str, ...]]] = MappingProxyType({
    "one": (llama_parts.one, (SMALL, MIDDLE, LARGE)),
    "own": (llama_parts.own, (SMALL, MIDDLE, LARGE)),
    "prompt": (llama_parts.prompt, (SMALL, MIDDLE, LARGE)),
    "first": (llama_parts.first, (SMALL, MIDDLE, LARGE)),
    "clients": (llama_parts.clients, (MIDDLE, LARGE)),
    "back": (llama_parts.back, (MIDDLE, LARGE)),
    "serial": (llama_parts.serial, (MIDDLE, LARGE)),
    "turns": (llama_parts.turns, (MIDDLE, LARGE)),
    "disk": (llama_parts.disk, (MIDDLE,)),
    "gap": (llama_parts.gap, (MIDDLE, LARGE)),
    "lookup": (llama_parts.lookup, ("",)),  # only a trained model repeats what it read
    "json": (llama_parts.json_schema, (LARGE,)),
    "transformers": (torch_parts.beside_transformers, ("15M", "135M")),
    "memory": (idle_memory.memory, (LARGE,)),
})  # fmt: skip


def model_of(name: str, cache: Path) -> Model:
    """A model by the name of its size and type, or by its path."""
    path = Path(name).expanduser()
    if name.partition("-")[0] in SIZES:
        path = made(name, cache)
    elif not path.exists():
        raise SystemExit(f"There is no model {name}; say a path, or one of the sizes {', '.join(SIZES)}, with a type behind it for a GGUF file.")
    return Model.at(name if name.partition("-")[0] in SIZES else path.name, path.resolve())


def run(asked: argparse.Namespace) -> None:
    """All parts that were asked for, printed line by line."""
    records: list[dict[str, object]] = []
    beside = set(asked.part) - {"own"}
    for program in PROGRAMS if {"one", "prompt"} & beside else PROGRAMS[: min(1, len(beside)) * (not asked.plain)]:
        built_program(program)  # before anything is measured
    if "own" in asked.part or asked.plain:
        built_program(plain=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {asked.repeats} repeats of {asked.tokens} tokens\n", flush=True)
    print(line(HEAD), line(["---"] * len(HEAD)), sep="\n", flush=True)
    for name in asked.part:
        measure, models = PARTS[name]
        for model_name in (asked.models or models) if models != ("",) else models:
            model = model_of(model_name, asked.cache) if model_name else None
            if model is not None and (name == "transformers") != model.path.is_dir():
                continue  # a folder is for the one, files for the others
            for threads in asked.threads:
                with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder:
                    begun_s, yard = time.monotonic(), Yard(Path(folder), asked.plain)
                    try:
                        for row in measure(Bench(yard, Turns(asked.repeats), asked.tokens, threads, asked.long), model):
                            print(line(row.cells()), flush=True)
                            records.append(row.record() | {"threads": threads})
                    except (OSError, RuntimeError, ValueError, LookupError, subprocess.SubprocessError) as error:
                        print(line((model_name, f"{name} failed: {' '.join(str(error).split())[:300]}", *[""] * (len(HEAD) - 2))), flush=True)
                        sys.stderr.write(f"{name} {model_name}: {error!r}\n")  # the other parts are not the poorer for it
                    finally:
                        yard.close()
                    if asked.json:
                        whole = {"cores": os.cpu_count(), "repeats": asked.repeats, "tokens": asked.tokens, "rows": records}
                        asked.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")  # after each: a long run may be ended
                    sys.stderr.write(f"{name} {model_name} took {time.monotonic() - begun_s:.0f} s\n")
    print(f"\nload {os.getloadavg()[0]:.1f}", flush=True)


def _end(*_: object) -> None:
    """End all contestants, undisturbed by a second signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("ended by a signal")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", default=[], help="names of benchmarks/make_models.py or paths; without, those that the bars are for")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="of a reply")
    parser.add_argument("--long", type=int, default=4096, help="tokens of a long prompt; a history is half as long")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1], help="of both sides; several are measured one after the other")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for made models")
    parser.add_argument("--json", type=Path, help="write everything that was measured into this file too")
    parser.add_argument("--plain", action="store_true", help="llama-server as its makers compile it, in every part; without, with the flags of our library but in part own")
    parser.add_argument("--profile", action="store_true", help="instead: where the microseconds of a step of our engine go")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="of the profile")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    if asked.profile:
        for name in asked.models or [SMALL, LARGE]:
            for clients in asked.clients:
                print(step_times.profile(model_of(name, asked.cache), clients, asked.tokens, asked.threads[0]), flush=True)
        return
    run(asked)


if __name__ == "__main__":
    main()
