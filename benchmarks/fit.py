"""Memory that was predicted beside memory that was taken: every model is loaded by its real loader in a child of its own, and used once.

    python benchmarks/fit.py                       starter, test data and generated models
    python benchmarks/fit.py FILE_OR_FOLDER …      others

Printed for each: predicted bytes, the peak of the child above what it had before the load, and how far the prediction is off in percent (positive:
too much was predicted). The use: every slot is filled with up to `--tokens` tokens, and as many are scored. Of transformers, whose cache grows with use, only those tokens
are reckoned with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.model import Row  # noqa: E402
from modules.loaders.fit import Needs  # noqa: E402
from modules.loaders.folder_header import read_folder_header  # noqa: E402
from modules.loaders.gguf_header import read_gguf_header  # noqa: E402
from modules.loaders.llama_cpp.memory import estimate as estimate_gguf  # noqa: E402
from modules.loaders.llama_cpp.options import LlamaCppOptions  # noqa: E402
from modules.loaders.machine import resident_bytes, size_text  # noqa: E402
from modules.loaders.registry import find_loader  # noqa: E402
from modules.loaders.shape import folder_shape, gguf_shape  # noqa: E402
from modules.loaders.transformers.memory import estimate as estimate_folder  # noqa: E402
from modules.loaders.transformers.options import TransformersOptions  # noqa: E402

SPARSE = ((8, 512, 8192), (12, 1024, 8192), (16, 1152, 8192), (16, 1152, 2048))  # layers, width, context
FOLDERS = (("llama", 8, 512), ("llama", 12, 1024), ("qwen3", 12, 1024), ("mamba", 8, 512))


def peak_bytes() -> int:
    """The most this process held at any time."""
    line = next(row for row in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def predicted(path: Path, slots: int) -> Needs:
    """By the formula that the loader itself uses."""
    if path.is_dir():
        return estimate_folder(folder_shape(read_folder_header(path)), TransformersOptions(slots=slots), "float32")
    header = read_gguf_header(path)
    return estimate_gguf(gguf_shape((header,), header.size_bytes), LlamaCppOptions(slots=slots), on_gpu=False)


def load_and_use(path: Path, slots: int, tokens: int) -> dict[str, Any]:
    """In the child: load, fill the slots with what there is room for but at most `tokens` each, and tell the peak."""
    spec = find_loader(path)
    before = resident_bytes()
    loaded = spec.load(path, spec.options(slots=slots), lambda *_: None)
    runner, loaded_bytes = loaded.runner, loaded.memory_bytes
    each = min(tokens, runner.context_length, runner.capacity_tokens // runner.n_slots)
    for slot in range(runner.n_slots):
        for start in range(0, each, runner.max_batch_tokens):
            count = min(runner.max_batch_tokens, each - start)
            runner.forward([Row(slot, start, [(7 * place + slot) % runner.vocab_size for place in range(count)])])
    for slot in range(runner.n_slots):
        runner.truncate(slot, 0)
    runner.score([(7 * place) % runner.vocab_size for place in range(each)])
    held = runner.capacity_tokens if spec.name == "llama.cpp" else each * runner.n_slots
    return {"loader": spec.name, "held": held, "context": runner.context_length, "peak": peak_bytes() - before, "loaded": loaded_bytes}


def generated(folder: Path) -> list[Path]:
    """Models up to about 0.3 billion parameters."""
    from tests.sparse_models import write_sparse_gguf
    from tests.tiny_models import write_folder

    starter = ROOT / "models" / "starter" / "starter-Q8_0.gguf"
    found = [
        write_sparse_gguf(folder / f"llama-{layers}x{width}-{context}.gguf", starter, layers=layers, width=width, context_length=context)
        for layers, width, context in SPARSE
    ]
    for kind, layers, width in FOLDERS:
        sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 64}
        more = {} if kind == "mamba" else {"num_key_value_heads": width // 128}
        found.append(write_folder(folder / f"{kind}-{layers}x{width}", kind, **sizes, **more, max_position_embeddings=4096))
    return found


def row(path: Path, slots: int, tokens: int) -> str:
    """One line of the table."""
    command = [sys.executable, __file__, "--child", "--slots", str(slots), "--tokens", str(tokens), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"| {path.name} | {(done.stderr.strip().splitlines() or ['?'])[-1][:90]} |"
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = predicted(path, slots).total(found["held"])
    off = 100 * (wanted / max(1, found["peak"]) - 1)
    cells = (path.name, found["loader"], found["held"], size_text(wanted), size_text(found["peak"]), f"{off:+.0f} %", size_text(found["loaded"]))
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens of each slot")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(load_and_use(asked.paths[0], asked.slots, asked.tokens)))
        return
    print("| model | loader | tokens | predicted | real peak | off | after the load |\n|---|---|---|---|---|---|---|")
    data = ROOT.parent / "shared" / "testdata" / "models"
    with tempfile.TemporaryDirectory() as folder:
        shipped = [ROOT / "models" / "starter" / "starter-Q8_0.gguf", ROOT / "models" / "starter"]
        known = sorted(path for path in data.iterdir() if path.is_dir() or path.suffix == ".gguf") if data.is_dir() else []
        for path in asked.paths or [*shipped, *known, *generated(Path(folder))]:
            print(row(path, asked.slots, asked.tokens), flush=True)


if __name__ == "__main__":
    main()
