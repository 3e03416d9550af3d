"""What tells one base model from another: kind, shapes, tokenizer and the weights themselves.

An adapter fits every model of equal shapes without an error and does good on one alone; so a run writes down which one it was
(`base_fingerprint` in training.json), and whoever puts the adapter on a model can ask whether it is that one. Knows no adapter's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import UnsupportedFormat
from modules.core.files import write_atomic
from modules.loaders.folder_header import read_folder_header, read_json, read_weight_header, weight_files

CACHE, CARD, KEY = "fingerprint.json", "training.json", "base_fingerprint"
PIECE_BYTES = 4 << 20
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")
TOKENIZER_PASSING = ("truncation", "padding", "version")  # parts of tokenizer.json that change no token


class BaseFingerprint(BaseModel, frozen=True, extra="ignore"):
    """One base model, in hashes. `model_dump()` is what training.json holds as `base_fingerprint`."""

    model_type: str = Field(max_length=100)
    tensors: str = Field(max_length=64)  # names and shapes
    tokenizer: str = Field(max_length=64)
    weights: str = Field(max_length=64)  # the files' contents; empty if they were not read

    def difference(self, other: BaseFingerprint) -> str:
        """In what the other model differs, for a sentence; empty if it is the same one."""
        if self.model_type != other.model_type:
            return f"its kind ({other.model_type}, not {self.model_type})"
        if self.tensors != other.tensors:
            return "the shapes of its weights"
        if self.tokenizer != other.tokenizer:
            return "its tokenizer"
        return "its weights" if self.weights and other.weights and self.weights != other.weights else ""


def fingerprint(
    path: Path, cache: Path | None = None, read: Callable[[int], None] = lambda count: None, *, most_bytes: int | None = None
) -> BaseFingerprint:
    """The fingerprint of a model folder. Weights are read once for as long as their files do not change, where there is a folder to note it in.

    `read` is told of the bytes of the weights as they come; what it raises ends the reading. Weights of more than `most_bytes` are not read.

    Raises:
        UnsupportedFormat: not a model folder.
    """
    header = read_folder_header(path)
    files = weight_files(path)
    shapes = sorted((name, shape) for file in files for name, (_, shape) in read_weight_header(file).items())
    return BaseFingerprint(
        model_type=str(header.config.get("model_type", ""))[:100],
        tensors=_hash(json.dumps(shapes).encode()),
        tokenizer=_hash(*_tokenizer_parts(path)),
        weights=_weights(files, cache, read) if most_bytes is None or sum(file.stat().st_size for file in files) <= most_bytes else "",
    )


def read_fingerprint(adapter: Path) -> BaseFingerprint | None:
    """Which base model an adapter was trained on, where its card says."""
    try:
        return BaseFingerprint.model_validate(read_json(adapter / CARD).get(KEY))
    except (UnsupportedFormat, ValidationError):
        return None


def _tokenizer_parts(path: Path) -> Iterator[bytes]:
    for name in TOKENIZER_FILES:
        file = path / name
        if not file.is_file():
            continue
        if name == "tokenizer.json":  # whatever the order and spaces it was written with
            known = {key: value for key, value in read_json(file).items() if key not in TOKENIZER_PASSING}
            yield json.dumps(known, sort_keys=True).encode()
            return
        yield file.read_bytes()


def _weights(files: tuple[Path, ...], cache: Path | None, read: Callable[[int], None]) -> str:
    states = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    noted = _noted(cache)
    if noted.get("files") == states and isinstance(noted.get("weights"), str):
        return str(noted["weights"])
    digests = []
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
                read(len(piece))
        digests.append(digest.digest())
    found = _hash(*digests)
    if cache is not None:
        write_atomic(cache / CACHE, json.dumps({"files": states, "weights": found}))
    return found


def _noted(cache: Path | None) -> Mapping[str, Any]:
    if cache is None or not (cache / CACHE).is_file():
        return {}
    try:
        return read_json(cache / CACHE)
    except UnsupportedFormat:
        return {}  # then the weights are read again


def _hash(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()
