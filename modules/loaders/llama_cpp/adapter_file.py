"""The GGUF form of a PEFT folder: made once, kept in the folder's own `.cache`, never half written.

Knows the file and its place; what stands in it comes from `peft_adapter`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import LoadFailed, UnsupportedFormat
from modules.core.files import sync_folder
from modules.loaders.adapter_config import CONFIG, WEIGHTS
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp.peft_adapter import (
    BaseShape,
    LoraPair,
    PeftWeights,
    read_pairs,
)

CACHE = ".cache"
LAYOUT = 1  # goes up when the same folder has to be converted in another way
LEFTOVER_S = 3600.0


@dataclass(frozen=True)
class AdapterAbout:
    """What a file says of itself beside its weights."""

    name: str = ""
    base_model: str = ""
    licence: str = ""
    alpha: float = 0.0  # 0: the scale of each pair is in its weights, where one alpha cannot say it
    on_pair: Callable[[int], None] = lambda number: None  # told before each pair; what it raises ends the writing


UNNAMED = AdapterAbout()


@contextlib.contextmanager
def converted(folder: Path, base: BaseShape) -> Iterator[Path]:
    """A GGUF file of a PEFT folder for a model; where it cannot be kept it is gone afterwards.

    Raises:
        UnsupportedFormat: the adapter is damaged, not plain LoRA, or not for this model.
        LoadFailed: there is no room for the file.
    """
    pairs = read_pairs(folder, base)
    kept = _kept(folder, base, pairs)
    if kept is not None:
        yield kept
        return
    with contextlib.ExitStack() as undo:
        try:
            path = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="paddock-adapter-"))) / "adapter.gguf"
            write_adapter_file(path, folder, base.architecture, pairs)
        except OSError as error:
            raise LoadFailed(f"The adapter {folder.name} cannot be converted: {error.strerror or error}; make room on the disk.") from error
        yield path


def _kept(folder: Path, base: BaseShape, pairs: Sequence[LoraPair]) -> Path | None:
    """The file in the cache, made now if need be; None where the folder cannot be written."""
    try:
        name = f"{base.architecture}-{_digest(folder, base, pairs)}.gguf"
        cache = folder / CACHE
        if cache.is_symlink():  # leads who knows where
            return None
        path = cache / name
        if not _whole(path):
            cache.mkdir(exist_ok=True)
            temporary = cache / f".{name}.{secrets.token_hex(4)}.tmp"
            try:
                write_adapter_file(temporary, folder, base.architecture, pairs)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(cache)
            _forget_others(cache, path, base.architecture)
    except OSError:
        return None
    return path


def _digest(folder: Path, base: BaseShape, pairs: Sequence[LoraPair]) -> str:
    digest = hashlib.sha256(repr((LAYOUT, base.architecture, tuple(pairs))).encode())
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _whole(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return read_gguf_header(path).kind == "adapter"
    except UnsupportedFormat:
        return False


def _forget_others(cache: Path, path: Path, architecture: str) -> None:
    """What was made from earlier contents, and what a crash left half-way."""
    for file in cache.glob(f"{architecture}-*.gguf"):
        if file != path:
            with contextlib.suppress(OSError):
                file.unlink()
    for file in cache.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > LEFTOVER_S:
                file.unlink()


def write_adapter_file(path: Path, folder: Path, architecture: str, pairs: Sequence[LoraPair], about: AdapterAbout = UNNAMED) -> None:
    """Table first, then one pair at a time: the adapter is never in memory as a whole.

    Raises:
        UnsupportedFormat: the folder is damaged, or changed meanwhile.
        OSError: the disk refused.
    """
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        for add, text in ((writer.add_name, about.name), (writer.add_license, about.licence)):
            if text:
                add(text)
        if about.base_model:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, about.base_model)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, about.alpha)
        for pair in pairs:
            for side, shape in (("lora_a", (pair.rank, pair.inputs)), ("lora_b", (pair.outputs, pair.rank))):
                writer.add_tensor_info(f"{pair.target}.weight.{side}", shape, np.dtype(np.float32), 4 * shape[0] * shape[1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        weights = PeftWeights(folder)
        for number, pair in enumerate(pairs):
            about.on_pair(number)
            for values in weights.read(pair):
                writer.write_tensor_data(values)
        writer.flush()
    except (KeyError, ValueError, TypeError) as error:
        raise UnsupportedFormat(f"The adapter {folder.name} changed while it was being read; try again.") from error
    finally:
        writer.close()
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
