"""The measures of memory of benchmarks/engine.py: what our engine's process holds beside what llama.cpp needs, and the web process with many conversations.

`python benchmarks/idle_memory.py FILE OPTIONS` loads a model as the engine does and prints what buffers llama.cpp says it made.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.contestants import Flags, Model  # noqa: E402
from benchmarks.llama_parts import Bench, replies  # noqa: E402
from benchmarks.measures import Row  # noqa: E402

MB = 1e6
SLOTS, CONTEXT, CONVERSATIONS, TURNS, IDLE_S = 4, 2048, 1000, 6, 5.0
BUFFER = re.compile(r"(\S+)\s+(?:\S+ )?buffer size\s*=\s*([\d.]+) MiB")


def memory(bench: Bench, model: Model) -> Iterator[Row]:
    """The engine's process after all slots were full, then the web process after many conversations were written down."""
    flags = Flags(SLOTS, CONTEXT, bench.threads)
    server = bench.yard.paddock(model, flags)
    replies(server, [model.prompt(CONTEXT - 64, f"memory {slot}") for slot in range(SLOTS)], 32, 1)
    time.sleep(IDLE_S)
    whole, mapped = _resident(server.engine().pid, model.path)
    buffers = _buffers(model.path, flags)
    beside = (whole - mapped - sum(buffers.values())) / MB
    note = f"{whole / MB:.0f} MB resident, of which {mapped / MB:.0f} of the file, {', '.join(f'{name} {size / MB:.0f}' for name, size in buffers.items())}"
    yield Row("memory", model.name, f"engine's process beside weights, cache and buffers, {SLOTS} slots of {CONTEXT}", "MB", "", 120, 60, True, True, [beside], note=note)
    for number in range(CONVERSATIONS):
        messages = [{"role": ("user", "assistant")[turn % 2], "content": f"{number} {turn}: what does the horse say? " * 8} for turn in range(TURNS)]
        server.get("/ui/conversations/import", {"title": f"Conversation {number}", "settings": {}, "messages": messages})
    time.sleep(IDLE_S)
    idle = _resident(server.process.pid, model.path)[0] / MB
    yield Row("memory", "", f"web process, idle, {CONVERSATIONS:,} conversations of {TURNS} messages", "MB", "", 300, 200, True, True, [idle])


def _resident(pid: int, path: Path) -> tuple[int, int]:
    """Resident bytes of a process, and those of them that are pages of a file."""
    whole = of_file = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif line.startswith("Rss:"):
            size = 1024 * int(line.split()[1])
            whole += size
            of_file += size if inside else 0
    return whole, of_file


def _buffers(path: Path, flags: Flags) -> dict[str, int]:
    """Name → bytes of what llama.cpp took with these flags, without the pages of the file."""
    options = {"slots": flags.slots, "context_length": flags.context, "threads": flags.threads, "threads_batch": flags.threads, "batch_tokens": flags.batch}
    told = subprocess.run([sys.executable, __file__, str(path), json.dumps(options)], check=True, capture_output=True, text=True)
    return dict(json.loads(told.stdout.splitlines()[-1]))


def print_buffers(path: str, options: str) -> None:
    """Load, and print what the library says about its buffers."""
    from modules.loaders.llama_cpp import c_api
    from modules.loaders.llama_cpp.loader import load
    from modules.loaders.llama_cpp.options import LlamaCppOptions

    lines: list[str] = []

    class Overheard(c_api.NativeLog):
        def _receive(self, level: int, text: bytes, user_data: Any) -> None:
            lines.append(text.decode("utf-8", "replace"))
            super()._receive(level, text, user_data)

    import modules.loaders.llama_cpp.loader as loader

    loader.NativeLog = Overheard  # type: ignore[misc]
    model = load(Path(path), LlamaCppOptions.model_validate_json(options), lambda _stage, _done: None)
    found: dict[str, int] = {}
    for match in BUFFER.finditer("".join(lines)):
        if "Mapped" not in match[1]:
            name = " ".join(match[0].split("buffer size")[0].split())
            found[name] = found.get(name, 0) + int(float(match[2]) * 2**20)
    model.runner.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    print_buffers(*sys.argv[1:])
