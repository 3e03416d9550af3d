"""Records of installed models: what is newer, what is damaged; a record that somebody else wrote does no harm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from modules.hub.inventory import (
    Installed,
    Provenance,
    StoredFile,
    add_to_record,
    damaged_files,
    find_update,
    installed,
    read_record,
)
from modules.hub.lock import FileLock
from modules.hub.repository import RemoteFile, Repository


def stored(path: str, data: bytes = b"x") -> StoredFile:
    return StoredFile(path=path, placed=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def provenance(*files: StoredFile) -> Provenance:
    return Provenance(repo="o/n", revision="main", commit="a" * 40, endpoint="https://huggingface.co", kind="gguf", files=files)


def remote(file: StoredFile, sha256: str = "") -> RemoteFile:
    return RemoteFile(file.path, file.size, sha256 or file.sha256)


def test_an_update_names_the_files_that_changed() -> None:
    one, two, three = stored("a.gguf"), stored("b.gguf"), stored("c.gguf")
    known = provenance(one, two, three)
    assert find_update(known, Repository("o/n", "a" * 40)) is None
    update = find_update(known, Repository("o/n", "b" * 40, files=(remote(one), remote(two, "0" * 64))))
    assert update is not None
    assert (update.commit, update.changed, update.removed, update.matters) == ("b" * 40, ("b.gguf",), ("c.gguf",), True)
    same = find_update(known, Repository("o/n", "b" * 40, files=(remote(one), remote(two), remote(three))))
    assert same is not None
    assert not same.matters


def test_damage_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"y")
    small = StoredFile(path="d", placed="d", size=2, git_sha1=hashlib.sha1(b"blob 2\0{}").hexdigest())
    (tmp_path / "d").write_bytes(b"{}")
    item = Installed(tmp_path, provenance(stored("a"), stored("b"), stored("c"), small))
    assert list(damaged_files(item)) == ["b", "c"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"downloads": 7}', '{"downloads": [{}]}', "[" * 100_000, "\xff"])
def test_broken_records_are_empty(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "paddock.json").write_text(text, encoding="latin-1")
    assert read_record(folder).downloads == ()
    assert installed(tmp_path) == ()


@pytest.mark.parametrize("placed", ["../outside", "/etc/hostname", "link"])
def test_records_lead_to_nothing_outside(tmp_path: Path, placed: str) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    (tmp_path / "models" / "outside").touch()
    (folder / "link").symlink_to("/etc/hostname")
    file = stored("a").model_copy(update={"placed": placed})
    add_to_record(folder, provenance(file), tmp_path / "lock")
    assert read_record(folder).downloads
    assert installed(tmp_path / "models") == ()


def test_records_of_the_same_files_are_replaced(tmp_path: Path) -> None:
    for path in ("a", "b", "a"):
        add_to_record(tmp_path, provenance(stored(path)), tmp_path / "lock")
    assert [known.files[0].path for known in read_record(tmp_path).downloads] == ["b", "a"]


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "in" / "x.lock"), FileLock(tmp_path / "in" / "x.lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    with second:
        assert second.acquire()
        assert not first.acquire()
    assert list((tmp_path / "in").iterdir()) == []


def test_a_lock_is_taken_although_its_folder_was_tidied_away_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, really_open, calls = tmp_path / ".partial", os.open, list[int]()

    def open_after_tidying(*arguments: Any, **more: Any) -> int:
        if not calls:
            folder.rmdir()  # another process ends its work between our two steps
        calls.append(1)
        return really_open(*arguments, **more)

    monkeypatch.setattr(os, "open", open_after_tidying)
    with FileLock(folder / "a.lock") as lock:
        assert lock.acquire()
        assert (folder / "a.lock").is_file()
    assert len(calls) == 2
