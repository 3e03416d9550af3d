"""Checkpoints of a run: whole or not there. Written beside, made durable, marked complete and only then given their name.

    step-N/adapter.safetensors   everything that is trained
    step-N/optimizer.pt          optimizer, learning rate and scaler (tensors and plain values: read back with weights_only)
    step-N/state.json            where the run stood
    step-N/complete.json         last: the step, and size and hash of every other file. Without it a folder counts for nothing
    best-N/                      weights alone, where the held-out loss was lowest; marked in the same way

Knows files and tensors; knows no model and no trainer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.files import sync_folder, write_atomic

WEIGHTS, OPTIMIZER, STATE, COMPLETE = "adapter.safetensors", "optimizer.pt", "state.json", "complete.json"
PARTIAL = ".part-"
FOLDER = re.compile(r"(step|best)-(\d+)")


class CheckpointError(Exception):
    """A checkpoint could not be written; nothing of it was left, and earlier ones stay."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, in memory, or on its way to another process."""

    weights: dict[str, Any]
    optimizer: dict[str, Any]
    state: dict[str, Any]

    def to_bytes(self) -> bytes:
        """For another process."""
        import torch

        buffer = io.BytesIO()
        torch.save({"weights": self.weights, "optimizer": self.optimizer, "state": self.state}, buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """As `to_bytes` gave it: tensors and plain values only."""
        import torch

        return cls(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole, as found."""

    step: int
    folder: Path

    def read(self) -> Snapshot:
        """What it holds."""
        import torch

        state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        return Snapshot(self.weights(), torch.load(self.folder / OPTIMIZER, map_location="cpu", weights_only=True), state)

    def weights(self) -> dict[str, Any]:
        """What was trained, alone."""
        from safetensors.torch import load_file

        return dict(load_file(self.folder / WEIGHTS))


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, root: Path, keep: int) -> None:
        self._root = root
        self._keep = keep

    def save(self, step: int, weights: Mapping[str, Any], optimizer: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write one. Older ones beyond those to be kept go, but only now that this one is whole.

        Raises:
            CheckpointError: for example a full disk.
        """
        folder = self._root / f"step-{step}"
        if self._whole(folder) is None:
            self._write(folder, step, weights, optimizer, state)
        best = int(state.get("best_step") or -1)
        for old in self._found("step")[self._keep :]:
            _delete(old)
        for old in self._found("best"):
            if _step_of(old) != best:
                _delete(old)

    def save_best(self, step: int, weights: Mapping[str, Any]) -> None:
        """Keep the weights of a step; those of earlier bests stay until the next checkpoint no longer names them.

        Raises:
            CheckpointError: for example a full disk.
        """
        self._write(self._root / f"best-{step}", step, weights, None, None)

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole and as it was written."""
        for folder in self._found("step"):
            if found := self._whole(folder):
                return found
        return None

    def best(self, step: int) -> Checkpoint | None:
        """The kept weights of a step, if they are there and whole."""
        return self._whole(self._root / f"best-{step}")

    def tidy(self, newest: int) -> None:
        """At a start: what a killed process left half done, and what lies behind the checkpoint it goes on from, is deleted."""
        if not self._root.is_dir():
            return
        for path in self._root.iterdir():
            found = FOLDER.fullmatch(path.name)
            if path.name.startswith(PARTIAL) or (found and int(found[2]) > newest):
                _delete(path)

    def clear(self) -> None:
        """Delete all of them."""
        _delete(self._root)

    # ---- how -------------------------------------------------------------------------------------------------------

    def _found(self, kind: str) -> list[Path]:
        """Folders by their names, the newest first."""
        if not self._root.is_dir():
            return []
        folders = [path for path in self._root.iterdir() if (match := FOLDER.fullmatch(path.name)) and match[1] == kind]
        return sorted(folders, key=_step_of, reverse=True)

    def _write(self, folder: Path, step: int, weights: Mapping[str, Any], optimizer: Mapping[str, Any] | None, state: Mapping[str, Any] | None) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        partial = self._root / f"{PARTIAL}{folder.name}"
        try:
            _delete(partial)
            partial.mkdir(parents=True)
            save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}, partial / WEIGHTS)
            if optimizer is not None:
                torch.save(dict(optimizer), partial / OPTIMIZER)
            if state is not None:
                (partial / STATE).write_text(json.dumps(dict(state)), encoding="utf-8")
            files = {path.name: _sealed(path) for path in sorted(partial.iterdir())}
            write_atomic(partial / COMPLETE, json.dumps({"step": step, "files": files}))
            _delete(folder)  # one of the same name that is not whole
            partial.rename(folder)
            sync_folder(self._root)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors say a full disk in errors of their own
            _delete(partial)
            raise CheckpointError(f"The checkpoint of step {step} could not be written ({_reason(error, self._root)}). Earlier ones stay; free some space.") from error

    def _whole(self, folder: Path) -> Checkpoint | None:
        try:
            marker = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
            step, files = int(marker["step"]), dict(marker["files"])
            if all(_seal(folder / name) == seal for name, seal in files.items()):
                return Checkpoint(step, folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None


def _sealed(path: Path) -> dict[str, Any]:
    """Make a file durable; its size and hash."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return _seal(path)


def _seal(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block


def _step_of(folder: Path) -> int:
    match = FOLDER.fullmatch(folder.name)
    return int(match[2]) if match else -1


def _delete(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _reason(error: Exception, root: Path) -> str:
    """Why, in a few words."""
    try:
        if shutil.disk_usage(root).free < 1 << 20:
            return "the disk is full"
    except OSError:
        return "its folder is gone"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
