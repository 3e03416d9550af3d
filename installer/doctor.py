"""`launch.py doctor`: what this machine has, what set-up did, which back ends work.

Works before set-up (it says what is missing) and after. Changes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys

from installer.checks import browser_advice, find_chromium
from installer.compiler import for_llama, has_loops
from installer.machine import detect, gpu_compiler, memory_bytes, missing_compiler
from installer.state import SetupState, pending
from installer.steps import Place, has_mark, remembered, setup_steps

GIB = 2**30
# Runs in the environment. Each back end is tried by itself: a broken one must not hide the other.
PROBE = """
import importlib.metadata as m, json
names = ("gradio", "fastapi", "transformers", "torch", "accelerate", "peft", "bitsandbytes", "llama-cpp-python",
         "SQLAlchemy", "numpy", "pydantic", "huggingface_hub")
versions = {}
for name in names:
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: versions[name] = "missing"
def torch_says():
    import torch
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return "ready, on " + ", ".join(found) + (" (ROCm)" if torch.version.hip else f" (CUDA {torch.version.cuda})")
    if torch.backends.mps.is_available(): return "ready, on Metal"
    return f"ready, on the processor ({torch.get_num_threads()} threads)"
def llama_says():
    import llama_cpp
    llama_cpp.llama_backend_init()
    info = llama_cpp.llama_print_system_info().decode()
    words = [w.strip().split(" = ")[0].split(" : ")[-1] for w in info.split("|") if w.strip().endswith("= 1")]
    where = "on the GPU" if llama_cpp.llama_supports_gpu_offload() else "on the processor"
    return f"ready, {where} ({' '.join(words)})"
backends = {}
for name, ask in (("transformers (safetensors)", torch_says), ("llama.cpp (GGUF)", llama_says)):
    try: backends[name] = ask()
    except Exception as error: backends[name] = f"BROKEN: {type(error).__name__}: {error}"
print("PADDOCK" + json.dumps({"versions": versions, "backends": backends}))
"""


def row(name: str, value: object) -> None:
    """One line of the report."""
    print(f"{name:<28}{value}")


def machine_rows(place: Place) -> None:
    """What the machine has."""
    total, free = memory_bytes()
    disk = shutil.disk_usage(place.root)
    accelerator = detect()
    row("System", f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores")
    row("Python", f"{platform.python_version()} ({sys.executable})")
    row("Memory", f"{total / GIB:.1f} GiB" + (f", {free / GIB:.1f} GiB free" if free else ""))
    row("Disk", f"{disk.free / GIB:.1f} GiB free of {disk.total / GIB:.0f} ({place.root})")
    row("GPU", accelerator if accelerator.devices else "none found")
    row("C++ compiler", missing_compiler() or "found")
    lacking = gpu_compiler(accelerator)
    if lacking:
        row("GPU compiler", lacking)
    row("Chromium (for tests)", find_chromium() or browser_advice())


def setup_row(place: Place, state: SetupState) -> bool:
    """Where set-up stands; whether the environment can be asked."""
    if not state.done:
        row("Set-up", "not done yet: python3 launch.py")
        return False
    chosen = remembered(state) or detect()
    todo = [step.name for step in pending(setup_steps(place, chosen), state)]
    row("Set-up", f"not finished, still to do: {', '.join(todo)}: python3 launch.py" if todo else f"complete, for {chosen.kind}")
    if detect().kind != chosen.kind:
        row("", f"the machine now looks like {detect().kind}: python3 launch.py setup")
    return True


def run_doctor(place: Place) -> int:
    """Print the report; 1 when an installed back end does not work, else 0."""
    machine_rows(place)
    if not setup_row(place, place.state()):
        return 0
    done = subprocess.run([str(place.python), "-c", PROBE], capture_output=True, text=True, check=False)
    answer = [line[7:] for line in done.stdout.splitlines() if line.startswith("PADDOCK")]
    if not answer:
        row("Back ends", f"BROKEN: the check ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        return 1
    report = json.loads(answer[0])
    for name, version in report["versions"].items():
        row(name, version)
    for name, sentence in report["backends"].items():
        row(name, sentence)
    env = for_llama(os.environ)
    if has_loops(env) and not has_mark(place, env):
        row("", "llama.cpp lacks loops that are faster on this processor: python3 launch.py setup --again compiles it with them")
    return 1 if any(sentence.startswith("BROKEN") for sentence in report["backends"].values()) else 0
