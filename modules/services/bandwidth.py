"""How fast this machine reads its memory: measured once, in a child process, and kept with the number of cores.

The speed of writing with a model is about this divided by the bytes that a token reads. Knows no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from modules.core.files import write_atomic
from modules.core.settings import PROJECT_ROOT
from modules.loaders.machine import usable_cores

FILE = "machine.json"
BLOCK_BYTES = 64 << 20  # for each core; larger than any cache
BUDGET_S = 0.4
CHILD_LIMIT_S = 20.0


def memory_bandwidth(state_dir: Path) -> float:
    """Bytes per second of all usable cores together; 0 where it could not be measured. Blocks for a second, the first time."""
    cores, path = usable_cores(), state_dir / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["cores"] == cores and float(known["bytes_per_s"]) > 0:
            return float(known["bytes_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # measured below
    try:
        command = [sys.executable, "-m", "modules.services.bandwidth", str(cores)]
        single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run(command, capture_output=True, check=True, timeout=CHILD_LIMIT_S, cwd=PROJECT_ROOT, env={**os.environ, **single})
        speed = float(done.stdout)
        write_atomic(path, json.dumps({"cores": cores, "bytes_per_s": speed}), mode=0o600)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0
    return speed


def measure(cores: int) -> float:
    """Bytes per second, the best of some rounds; in the child."""
    import numpy as np

    blocks = [np.ones(BLOCK_BYTES // 4, np.float32) for _ in range(cores)]

    def read(block: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        np.dot(block, block)  # without the interpreter's lock

    best, end = 1e9, time.perf_counter() + BUDGET_S
    while time.perf_counter() < end:
        begun = time.perf_counter()
        threads = [threading.Thread(target=read, args=(block,)) for block in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - begun)
    return BLOCK_BYTES * cores / best


if __name__ == "__main__":
    sys.stdout.write(str(measure(int(sys.argv[1]))))
