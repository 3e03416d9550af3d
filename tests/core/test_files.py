"""Files: whole or old, never torn; names that cannot escape; YAML that cannot bite."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import AppError, InvalidRequest, NotFound
from modules.core.files import (
    ReadFiles,
    checked_name,
    dump_yaml,
    path_below,
    read_yaml,
    relative_below,
    write_atomic,
)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write_atomic(path, "old")
    write_atomic(path, "new", mode=0o600)
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size exist on POSIX only")
    path = tmp_path / "a.yaml"
    write_atomic(path, "old")
    child = os.fork()
    if child == 0:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(path, "x" * 5000)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"]


BAD_NAMES = ["../x", "..\\x", "/etc/x", "C:x", "con", "CON.txt", "x\0", "%2e%2e/", "a" * 300, "", " ", ".hidden", "x.", "a/b", "nul", "-x"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_escape_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_name(name)
    with pytest.raises(AppError):
        path_below(tmp_path, name)


@given(st.text(max_size=120))
def test_no_name_leaves_its_folder(name: str) -> None:
    root = Path("/srv/root")
    try:
        path = path_below(root, name)
    except InvalidRequest:
        return
    assert path.parent == root


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest):
        path_below(tmp_path / "in", "link")


def test_paths_below_are_found_or_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.gguf").touch()
    assert relative_below(tmp_path, "a/b.gguf") == tmp_path / "a" / "b.gguf"
    with pytest.raises(NotFound, match="a/c"):
        relative_below(tmp_path, "a/c.gguf")
    with pytest.raises(InvalidRequest):
        relative_below(tmp_path, "a/../../x")


HOSTILE_YAML = [
    "!!python/object/apply:os.system ['true']",
    "a: &a [1]\nb: *a",
    "[" * 100_000,
    "a: 1\n---\nb: 2\n",
    "x" * 300_000,
    "a: [1, 2",
    "a: 2024-99-99",
]


@pytest.mark.parametrize("text", HOSTILE_YAML)
def test_hostile_yaml_is_refused_fast(text: str) -> None:
    begun_s = time.perf_counter()
    with pytest.raises(InvalidRequest, match="thefile"):
        read_yaml(text, "thefile")
    assert time.perf_counter() - begun_s < 5  # a bomb takes minutes; this is no measurement of speed


@pytest.mark.parametrize("text", ["0\x85", "a\u2028b", "\u2029", "a\r\nb\rc", " \n ", "\ufeff", "yes", "1e3", "x\x7f", "a: b # c", "- \x85\n" + "long " * 40])
def test_any_text_comes_back_from_yaml(text: str) -> None:
    assert read_yaml(dump_yaml({"text": text, text: [text]}), "f") == {"text": text, text: [text]}


def test_plain_yaml_is_read() -> None:
    assert read_yaml("a: 1\nb: [x, 0.5]\n", "f") == {"a": 1, "b": ["x", 0.5]}


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    path, reads = tmp_path / "one.txt", []

    def read(file: Path) -> str:
        reads.append(file)
        return file.read_text(encoding="utf-8")

    files = ReadFiles(read)
    path.write_text("a", encoding="utf-8")
    assert (files.of(path), files.of(path), len(reads)) == ("a", "a", 1)
    path.write_text("ab", encoding="utf-8")
    assert (files.of(path), len(reads)) == ("ab", 2)
    files.forget(path)
    assert (files.of(path), len(reads)) == ("ab", 3)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.of(path)
