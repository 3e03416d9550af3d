"""Verifying: damage is found, progress is in bytes, cancel ends it, and a model without a record is known the next time."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from modules.core.errors import NotFound
from modules.core.job import Cancelled
from modules.hub.inventory import (
    Provenance,
    StoredFile,
    add_to_record,
    announce_rename,
    forget_place,
    origin_of,
    read_record,
)
from modules.hub.verify import VerifyArgs, read_verification, run
from tests.foreign_folders import hub_cache, ollama
from tests.hub.conftest import Context

WEIGHTS = bytes(range(256)) * 20_000
SMALL = b"{}"


def recorded(root: Path, folder: str, files: dict[str, bytes], kind: str = "gguf") -> Path:
    """A model with its record, as a download leaves it."""
    target = root / folder
    target.mkdir(parents=True)
    stored = []
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
        is_small = len(data) < 1024
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        known = {"git_sha1": blob} if is_small else {"sha256": hashlib.sha256(data).hexdigest()}
        stored.append(StoredFile(path=name, placed=name, size=len(data), **known))
    facts = {"repo": "o/n", "revision": "main", "commit": "a" * 40, "endpoint": "https://huggingface.co", "kind": kind}
    add_to_record(target, Provenance.model_validate({**facts, "files": stored}))
    return target


def verify(tmp_path: Path, name: str, *files: str, context: Context | None = None) -> dict[str, object]:
    args = VerifyArgs(name=name, place=name, files=files, root=tmp_path / "models", result_path=tmp_path / "found.json")
    return dict(run(args, context or Context(tmp_path)))


def test_a_downloaded_model_is_compared_with_its_record(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "models", "o__n", {"config.json": SMALL, "model.safetensors": WEIGHTS}, "folder")
    context = Context(tmp_path)
    found = verify(tmp_path, "o__n", context=context)
    assert (found["damaged"], found["bytes"], found["files"], found["compared"]) == ([], len(WEIGHTS) + 2, 2, True)
    assert context.reports[-1][:2] == (len(WEIGHTS) + 2, len(WEIGHTS) + 2)
    assert [done for done, _, _ in context.reports] == sorted(done for done, _, _ in context.reports)
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    assert verify(tmp_path, "o__n")["damaged"] == ["o__n/model.safetensors"]
    (folder / "config.json").unlink()
    kept = read_verification(tmp_path / "found.json")
    assert verify(tmp_path, "o__n")["damaged"] == ["o__n/config.json", "o__n/model.safetensors"]
    assert kept is not None
    assert kept.damaged == ("o__n/model.safetensors",)


def test_cancel_ends_it_and_leaves_what_was_known(tmp_path: Path) -> None:
    recorded(tmp_path / "models", "o__n", {"a.gguf": WEIGHTS})
    with pytest.raises(Cancelled):
        verify(tmp_path, "o__n/a.gguf", context=Context(tmp_path, stop=lambda done: done > 0))
    assert read_verification(tmp_path / "found.json") is None
    with pytest.raises(NotFound, match="There is no “o__n/b.gguf” any more"):
        verify(tmp_path, "o__n/b.gguf")


def test_without_a_record_the_first_look_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / "own.gguf").write_bytes(WEIGHTS)
    found = verify(tmp_path, "own.gguf", "own.gguf")
    assert (found["damaged"], found["compared"]) == ([], False)
    found = verify(tmp_path, "own.gguf", "own.gguf")
    assert (found["damaged"], found["compared"]) == ([], True)
    (root / "own.gguf").write_bytes(WEIGHTS[::-1])
    for _ in range(2):  # the hash of the first time stays the one that counts
        assert verify(tmp_path, "own.gguf", "own.gguf")["damaged"] == ["own.gguf"]


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
def test_a_pipe_in_the_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "models", "o__n", {"config.json": SMALL, "model.safetensors": WEIGHTS}, "folder")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert verify(tmp_path, "o__n")["damaged"] == ["o__n/model.safetensors"]


def test_a_record_that_points_elsewhere_counts_for_nothing(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "models", "o__n", {"a.gguf": WEIGHTS})
    (tmp_path / "models" / "secret").write_bytes(b"x")
    record = json.loads((folder / "paddock.json").read_text(encoding="utf-8"))
    record["downloads"][0]["files"].append({"path": "s", "placed": "../secret", "size": 1})
    (folder / "paddock.json").write_text(json.dumps(record), encoding="utf-8")
    assert origin_of(tmp_path / "models", folder / "a.gguf") is None


def test_a_rename_that_was_announced_is_right_before_and_after(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder = recorded(root, "o__n", {"a.gguf": WEIGHTS, "sub/b.gguf": WEIGHTS})
    announce_rename(folder, "a.gguf", "z.gguf")
    assert origin_of(root, folder / "a.gguf") is not None
    (folder / "a.gguf").rename(folder / "z.gguf")
    assert origin_of(root, folder / "z.gguf") is not None
    assert verify(tmp_path, "o__n/z.gguf")["damaged"] == []
    announce_rename(folder, "sub", "deeper")
    (folder / "sub").rename(folder / "deeper")
    origin = origin_of(root, folder / "z.gguf")
    assert origin is not None
    assert {file.placed for file in origin.provenance.files} == {"z.gguf", "deeper/b.gguf"}
    assert verify(tmp_path, "o__n/z.gguf")["damaged"] == []
    assert len(read_record(folder).downloads) == 2
    forget_place(folder, "sub")
    forget_place(folder, "deeper")  # still there
    assert [file.placed for item in read_record(folder).downloads for file in item.files] == ["z.gguf", "deeper/b.gguf"]
    assert verify(tmp_path, "o__n/z.gguf")["damaged"] == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_in_the_caches_of_other_programs_the_name_is_the_hash(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", "o/n", {"model.safetensors": WEIGHTS, "config.json": SMALL})
    ollama(tmp_path / "ollama", "pony:1", WEIGHTS)
    blob = next((tmp_path / "ollama" / "blobs").iterdir())
    found = tmp_path / "found.json"
    for root, place, files in ((snapshot.parent, snapshot.name, ("model.safetensors", "config.json")), (blob.parent, blob.name, ("",))):
        inner = tuple(f"{place}/{file}".rstrip("/") for file in files)
        args = VerifyArgs(name="theirs", place=place, files=inner, root=root, result_path=found)
        assert run(args, Context(tmp_path))["damaged"] == []
        kept = read_verification(found)
        assert kept is not None
        assert (kept.compared, kept.since) == (True, ""), "known at the first look"
        for file in inner:
            whole = (root / file).read_bytes()
            (root / file).write_bytes(whole[:-1] + b"!")
            assert run(args, Context(tmp_path))["damaged"] == [file]
            (root / file).write_bytes(whole)
