"""SHA-256 of model files, found in the background and remembered for as long as a file does not change.

One file at a time, in pieces with rests in between, and not while replies are written: nobody waits for a hash.
A model of several files has the hash of the list of their hashes, a line each as `sha256sum` prints it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.core.errors import AppError
from modules.core.files import write_atomic
from modules.loaders.folder_header import weight_files

log = logging.getLogger(__name__)

PIECE_BYTES = 4 << 20
REST_S = 0.25  # between two looks whether replies are still being written
KEPT = 200  # models whose hashes are remembered
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class StoppedError(Exception):
    """The server is going."""


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a model.

    Raises:
        AppError: it has none.
    """
    if path.is_dir():
        return weight_files(path)
    split = SPLIT.search(path.name)
    if split is None:
        return (path,)
    stem = path.name[: split.start()]
    return tuple(path.with_name(f"{stem}-{number:05d}-of-{split[2]}.gguf") for number in range(1, int(split[2]) + 1))


def identity(path: Path) -> dict[str, Any]:
    """What tells without reading whether a model is still the same: name, size, newest time of change.

    Raises:
        AppError: its files are not there.
    """
    try:
        found = [file.stat() for file in files_of(path)]
    except OSError as error:
        raise AppError(f"The files of {path.name} cannot be looked at: {error.strerror}.") from error
    return {"name": path.name, "size_bytes": sum(one.st_size for one in found), "modified_ns": max(one.st_mtime_ns for one in found)}


class ModelHashes:
    """The hashes known so far, and the one thread that finds more."""

    def __init__(self, path: Path, is_busy: Callable[[], bool]) -> None:
        """Remember in the file `path`; `is_busy` says whether something better is to be done now."""
        self._path = path
        self._is_busy = is_busy
        self._stop = threading.Event()
        self._one = asyncio.Lock()
        self._reading: set[asyncio.Future[str]] = set()

    async def described(self, path: Path) -> dict[str, Any]:
        """Identity of a model, with `sha256` if that is known.

        Raises:
            AppError: its files are not there.
        """
        return await asyncio.to_thread(self._described, path)

    async def of(self, path: Path) -> dict[str, Any]:
        """Identity of a model with its `sha256`, which may take long; empty if it changed meanwhile or the server stops.

        Raises:
            AppError: its files are not there, or cannot be read.
        """
        async with self._one:
            found = await self.described(path)
            if "sha256" in found:
                return found
            reading = asyncio.ensure_future(asyncio.to_thread(self._read, path))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
            try:
                value = await asyncio.shield(reading)
            except StoppedError:
                return {}
            return await asyncio.to_thread(self._keep, path, found, value)

    async def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        await asyncio.gather(*self._reading, return_exceptions=True)

    def _described(self, path: Path) -> dict[str, Any]:
        found = identity(path)
        kept = self._stored().get(str(path), {})
        return {**found, "sha256": kept["sha256"]} if found.items() <= kept.items() else found

    def _keep(self, path: Path, before: dict[str, Any], value: str) -> dict[str, Any]:
        if identity(path) != before:
            return {}
        found = {**before, "sha256": value}
        stored = {key: kept for key, kept in self._stored().items() if key != str(path)}
        newest = dict([*stored.items(), (str(path), found)][-KEPT:])
        write_atomic(self._path, json.dumps(newest, indent=1))
        return found

    def _stored(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: kept for key, kept in stored.items() if isinstance(kept, dict)} if isinstance(stored, dict) else {}

    def _read(self, path: Path) -> str:
        files = files_of(path)
        try:
            found = [self._hash(file) for file in files]
        except OSError as error:
            raise AppError(f"{path.name} cannot be read: {error.strerror}.") from error
        if len(found) == 1:
            return found[0]
        lines = "".join(f"{value}  {file.name}\n" for value, file in zip(found, files, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while True:
                while self._is_busy() and not self._stop.wait(REST_S):
                    pass
                begun_s = time.monotonic()
                piece = file.read(PIECE_BYTES)
                digest.update(piece)
                if len(piece) < PIECE_BYTES:
                    return digest.hexdigest()
                if self._stop.wait(time.monotonic() - begun_s):  # half of the time is left to others
                    raise StoppedError
