"""A state folder as if this machine had been measured, so that tests need not wait for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modules.services.machine_speed import machine_key


def write_measured(state_dir: Path, **changes: Any) -> None:
    """Store made-up but possible figures."""
    rate = [{"model_bytes": 1_000_000, "bytes_per_s": 1e10}]
    pace = {"threads": 1, "step_s": 1e-4, "layer_s": 1e-5, "rates": {"Q8_0": rate}}
    known = {"process_bytes": 60_000_000, "token_s": 1e-4, "word_s": 0.0, "paces": [pace], **changes}
    measured = {"key": machine_key(), "llama.cpp": known, "transformers": {**known, "process_bytes": 380_000_000}}
    (state_dir / "machine.json").write_text(json.dumps(measured), encoding="utf-8")
