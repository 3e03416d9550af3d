"""Weights as pickle files: they are not loaded, and what is said of a folder that has them. Goes by names and opens nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
CONVERTIBLE = ("pytorch_model", "adapter_model")


def no_weights(folder: Path) -> str:
    """Why a model folder without safetensors cannot be loaded, and the cure."""
    if any(path.suffix in PICKLE_SUFFIXES for path in folder.iterdir()):
        return f"Folder {folder.name} holds its weights as pickle files, which can run code; get the version with *.safetensors.{conversion(folder)}"
    return f"Folder {folder.name} has no model.safetensors (nor an index of its parts); download the weights again."


def conversion(folder: Path) -> str:
    """The command that makes safetensors of what a folder holds, as a sentence; empty if there is none for it."""
    known = any(path.name.startswith(CONVERTIBLE) and path.suffix == ".bin" for path in folder.iterdir())
    return f" Where there is none, “python server.py convert {shlex.quote(folder.name)}” makes one of it without running anything." if known else ""
