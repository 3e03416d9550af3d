"""One merge, as the job does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.weights.adapter_merge import MergeAdapterArgs, run
from tests.weights.job import Job

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def merge(adapter: Path, base: Path, models: Path, job: Job | None = None, **settings: Any) -> Path:
    args = MergeAdapterArgs(**{"name": adapter.name, "folder": adapter, "base": base.name, "base_path": base, "target": f"{base.name}-merged", "models_dir": models} | settings)
    return Path(run(args, job or Job(models.parent / "job"))["path"])
