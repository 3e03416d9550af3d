"""Model folders as other programs lay them out, with real files: the hub's cache, Ollama, LM Studio."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

COMMIT = "ab12" * 10


def hub_cache(root: Path, repo: str, files: dict[str, Path | bytes], commit: str = COMMIT) -> Path:
    """A repository in the cache of the hub's client: links in a snapshot to blobs beside it. The snapshot."""
    repository = root / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # of small files
        blob = repository / "blobs" / (hashlib.sha256(data).hexdigest() if len(data) > 1024 else git)
        blob.write_bytes(data)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))
    return snapshot


def ollama(root: Path, name: str, model: Path | bytes, place: str = "registry.ollama.ai/library") -> Path:
    """A model in Ollama's folder: a manifest that names a blob. The manifest."""
    data = model if isinstance(model, bytes) else model.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / f"sha256-{digest}").write_bytes(data)
    manifest = root / "manifests" / place / name.replace(":", "/")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 3},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:" + "1" * 64}, "layers": layers}))
    return manifest


def lm_studio(root: Path, name: str, model: Path) -> Path:
    """A file as LM Studio keeps it: publisher/repository/file."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, path)
    return path
