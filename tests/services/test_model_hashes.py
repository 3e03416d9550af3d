"""Hashes of model files: right, remembered until a file changes, never in the way."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from modules.core.errors import AppError
from modules.services import model_hashes
from modules.services.model_hashes import ModelHashes


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights" * 1000)
    return path


async def test_a_hash_is_found_once_and_again_when_the_file_changed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hashes, "PIECE_BYTES", 100)
    hashes = ModelHashes(tmp_path / "hashes.json", lambda: False)
    assert "sha256" not in await hashes.described(model)
    found = await hashes.of(model)
    assert found == {"name": "model.gguf", "size_bytes": 7000, "modified_ns": model.stat().st_mtime_ns, "sha256": sha(b"weights" * 1000)}
    assert await ModelHashes(tmp_path / "hashes.json", lambda: False).described(model) == found, "also by the next server"
    before = model.stat()
    model.write_bytes(b"WEIGHTS" * 1000)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (await hashes.of(model))["sha256"] == found["sha256"], "nothing is read that seems the same"
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (await hashes.of(model))["sha256"] == sha(b"WEIGHTS" * 1000)


async def test_a_model_of_several_files_has_the_hash_of_their_list(tmp_path: Path) -> None:
    for number, data in ((1, b"one"), (2, b"two")):
        (tmp_path / f"big-{number:05d}-of-00002.gguf").write_bytes(data)
    listed = f"{sha(b'one')}  big-00001-of-00002.gguf\n{sha(b'two')}  big-00002-of-00002.gguf\n"
    hashes = ModelHashes(tmp_path / "hashes.json", lambda: False)
    found = await hashes.of(tmp_path / "big-00001-of-00002.gguf")
    assert (found["size_bytes"], found["sha256"]) == (6, sha(listed.encode()))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"tensors")
    assert (await hashes.of(folder))["sha256"] == sha(b"tensors")
    with pytest.raises(AppError, match="cannot be looked at"):
        await hashes.of(tmp_path / "gone.gguf")


async def test_nothing_is_read_while_replies_are_written_and_the_end_of_the_server_ends_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_hashes, "PIECE_BYTES", 100)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def is_busy() -> bool:
        loop.call_soon_threadsafe(asked.set)
        return True

    hashes = ModelHashes(tmp_path / "hashes.json", is_busy)
    finding = asyncio.create_task(hashes.of(model))
    await asyncio.wait_for(asked.wait(), 10)
    assert not finding.done()
    await hashes.close()
    assert await finding == {}
    assert not (tmp_path / "hashes.json").exists()
