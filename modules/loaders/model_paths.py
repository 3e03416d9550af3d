"""Which files and folders below a folder may be models or adapters: by names only, within limits. Reads no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

DEPTH_LIMIT = 3
ENTRY_LIMIT = 20_000
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf", re.IGNORECASE)


def _walk(root: Path, *, stay: bool = False) -> Iterator[tuple[Path, list[Path]]]:
    """Folders below `root` down to the depth limit, each with its files, sorted by name; hidden ones are left out.

    With `stay`, so are folders behind links that lead elsewhere.
    """
    queue = [(root, 1)]
    base = root.resolve()
    seen = 0
    while queue and seen < ENTRY_LIMIT:
        folder, depth = queue.pop(0)
        try:
            entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
            folders = [entry for entry in entries if entry.is_dir() and not (stay and leads_out(base, entry))] if depth < DEPTH_LIMIT else []
        except OSError:
            continue
        seen += len(entries)
        yield folder, [entry for entry in entries if entry.is_file()]
        queue += [(entry, depth + 1) for entry in folders]


def leads_out(base: Path, path: Path) -> bool:
    """Whether a path is, by a link, really elsewhere than below a folder, which is given as it really lies."""
    try:
        return not path.resolve().is_relative_to(base)
    except (OSError, RuntimeError):  # links in a circle
        return True


def model_paths(models_dir: Path) -> Iterator[Path]:
    """Candidates in a folder of one's own: GGUF files (first parts only) and folders that hold weights, or should."""
    for folder, files in _walk(models_dir):
        ggufs = _whole_ggufs(files)
        yield from ggufs
        is_begun = any(file.name == "config.json" for file in files) and not any(file.suffix.lower() == ".gguf" for file in files)
        if folder != models_dir and (_has_weights(files) or is_begun):
            yield folder


def read_only_paths(root: Path) -> Iterator[Path]:
    """Candidates in a folder of another program, itself too: there, a folder without weights, or with an adapter's, is no model."""
    for folder, files in _walk(root, stay=True):
        yield from _whole_ggufs(files)
        if _has_weights([file for file in files if not file.name.startswith("adapter_")]):
            yield folder


def holds_too_much(root: Path) -> bool:
    """Whether a folder has more in it than is looked through: a disk, say, or somebody's whole home."""
    return sum(1 + len(files) for _, files in _walk(root, stay=True)) >= ENTRY_LIMIT


def _whole_ggufs(files: list[Path]) -> Iterator[Path]:
    for file in files:
        match = PART.fullmatch(file.name)
        if file.suffix.lower() == ".gguf" and (match is None or int(match["number"]) == 1):
            yield file


def _has_weights(files: list[Path]) -> bool:
    return any(file.name.endswith(".safetensors") or file.name.startswith("pytorch_model") for file in files)


def adapter_paths(loras_dir: Path) -> Iterator[Path]:
    """Candidates: GGUF files and folders with an adapter's configuration."""
    for folder, files in _walk(loras_dir):
        yield from (file for file in files if file.suffix.lower() == ".gguf")
        if folder != loras_dir and any(file.name == "adapter_config.json" for file in files):
            yield folder
