"""Hundreds of damaged files and hostile texts against a running server: each is answered, by a clear error or rightly, and the server stays up.

By default a part of them, seeded; `PADDOCK_FUZZ=full` takes all (500 GGUF files, 200 folders, 200 templates, 200 grammars; figures in docs/security.md).
What was answered is counted and printed with `-s`.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modules.core.errors import UnsupportedFormat
from modules.loaders.folder_header import read_folder_header
from modules.loaders.gguf_header import read_gguf_header
from tests.security.conftest import Fortress
from tests.security.mutations import (
    GRAMMARS,
    TEMPLATES,
    hostile_grammar,
    hostile_template,
    mutated_folder,
    mutated_gguf,
    text_of,
)

FULL = os.environ.get("PADDOCK_FUZZ") == "full"
HEADERS, FOLDER_HEADERS = 500, 200  # read in the web process: all of them always
LOADED_FILES, LOADED_FOLDERS, RENDERED, CONSTRAINED = (500, 200, 200, 200) if FULL else (20, 3, 24, 60)
STEP = HEADERS // LOADED_FILES + 1  # so that a part has all kinds of mutations
HEADER_LIMIT_S = 5.0
AWKWARD = "a" * 300 + " The fox \u2028🦊"  # what patterns of tokenizers stumble over
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
DEFECT = "server_error"  # an exception that nobody foresaw; all other errors are sentences of their own

pytestmark = pytest.mark.timeout(3600 if FULL else 300)


def header_bytes(path: Path) -> int:
    header = read_gguf_header(path)
    return path.stat().st_size - sum(tensor.size_bytes for tensor in header.tensors)


def told(answer: httpx.Response) -> str:
    """How it was answered; anything but an answer or a sentence is a failure."""
    if answer.status_code == 200:
        return "answered"
    error = answer.json()["error"]
    assert error["type"] != DEFECT, error
    assert error["message"].endswith((".", "…")) and "Traceback" not in error["message"] and len(error["message"]) < 1500, error
    ends = (("its process ended", "ended the process"), ("took longer than", "stopped at the limit"), ("crashed", "ended the process"))
    return next((what for words, what in ends if words in error["message"]), str(error["type"]))


def tell(what: str, seen: Counter[str], step: int = -1) -> None:
    """The figures, for who runs this with `-s`: at the end, and on the long way there."""
    if step < 0 or (FULL and step % 25 == 24):
        sys.stdout.write(f"\n{what}: {dict(seen)}\n")
        sys.stdout.flush()


# ---- headers, in the web process -----------------------------------------------------------------------------------


def test_a_damaged_gguf_header_is_a_sentence_in_no_time(starter_gguf: Path, tmp_path: Path) -> None:
    whole, end, seen = starter_gguf.read_bytes(), header_bytes(starter_gguf), Counter[str]()
    path = tmp_path / "damaged.gguf"
    for number in range(HEADERS):
        kind, data = mutated_gguf(whole, end, number)
        path.write_bytes(data)
        begun_s = time.monotonic()
        try:
            read_gguf_header(path, keep_tokens=number % 2 == 0)
            seen["whole"] += 1
        except UnsupportedFormat as error:
            assert error.message.endswith("."), (number, kind, error.message)
            seen["refused"] += 1
        assert time.monotonic() - begun_s < HEADER_LIMIT_S, (number, kind)
    tell("GGUF headers", seen)
    assert seen["refused"] > HEADERS // 2


@pytest.fixture
def folder(starter_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(starter_dir, tmp_path / "folder", ignore=shutil.ignore_patterns("*.gguf")))


def texts_of(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES}


def test_a_damaged_folder_is_a_sentence_in_no_time(folder: Path) -> None:
    texts, seen = texts_of(folder), Counter[str]()
    for number in range(FOLDER_HEADERS):
        kind, changed = mutated_folder(texts, number)
        for name, text in {**texts, **changed}.items():
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        begun_s = time.monotonic()
        try:
            read_folder_header(folder)
            seen["whole"] += 1
        except UnsupportedFormat as error:
            assert error.message.endswith("."), (number, kind, error.message)
            seen["refused"] += 1
        assert time.monotonic() - begun_s < HEADER_LIMIT_S, (number, kind)
    tell("folders", seen)
    assert seen["refused"] > 20


# ---- loads, in engines of the server -------------------------------------------------------------------------------


@pytest.fixture
def shelf(fortress: Fortress) -> Iterator[Path]:
    """A place below models/ for one model at a time."""
    place = fortress.models / "fuzz"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def load(fortress: Fortress, name: str) -> str:
    """Have the server load a model and write one token."""
    return told(fortress.server.http.post("v1/completions", json={"model": name, "prompt": AWKWARD, "max_tokens": 1}))


def test_loading_damaged_gguf_files(fortress: Fortress, shelf: Path, starter_gguf: Path) -> None:
    whole, end, seen = starter_gguf.read_bytes(), header_bytes(starter_gguf), Counter[str]()
    for step in range(LOADED_FILES):
        number = step * STEP if not FULL else step
        kind, data = mutated_gguf(whole, end, number)
        path = shelf / f"damaged-{number}.gguf"
        path.write_bytes(data)
        seen[load(fortress, f"fuzz/{path.name}")] += 1
        assert fortress.server.process.poll() is None, (number, kind)
        path.unlink()
        tell("GGUF files so far", seen, step)
    tell("GGUF files", seen)
    assert fortress.answers()


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._marker), "w")


def test_loading_damaged_folders_runs_nothing_of_theirs(fortress: Fortress, shelf: Path, folder: Path) -> None:
    texts, seen, marker = texts_of(folder), Counter[str](), fortress.folder / "ran"
    for step in range(LOADED_FOLDERS):
        number = step
        kind, changed = mutated_folder(texts, number)
        place = shelf / f"damaged-{number}"
        shutil.copytree(folder, place)
        (place / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n", encoding="utf-8")
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
        for name, text in changed.items():
            (place / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        seen[load(fortress, f"fuzz/{place.name}")] += 1
        assert fortress.server.process.poll() is None, (number, kind)
        assert not marker.exists(), (number, kind, changed)
        shutil.rmtree(place)
        tell("folders so far", seen, step)
    tell("folders", seen)
    assert fortress.answers()


# ---- texts ---------------------------------------------------------------------------------------------------------


def test_hostile_templates(fortress: Fortress) -> None:
    seen = Counter[str]()
    for number in range(RENDERED):
        text = text_of(number, TEMPLATES, hostile_template)
        answer = fortress.server.http.post("ui/templates/look", json={"text": text})
        how = told(answer)
        problem = answer.json()["error"] if how == "answered" else None
        assert problem is None or problem["message"].endswith((".", "…")), problem
        seen["told what is wrong" if problem else how] += 1
        assert "root:" not in answer.text, text
    tell("templates", seen)
    assert fortress.answers()


def test_hostile_grammars(fortress: Fortress) -> None:
    assert fortress.answers()
    engine, seen = fortress.server.engine().pid, Counter[str]()
    for number in range(CONSTRAINED):
        grammar = text_of(number, GRAMMARS, hostile_grammar)
        body = {"prompt": "The fox", "max_tokens": 3, "grammar": grammar}
        seen[told(fortress.server.http.post("v1/completions", json=body))] += 1
    tell("grammars", seen)
    assert fortress.server.engine().pid == engine, "a grammar ended the engine"
    assert fortress.answers()
